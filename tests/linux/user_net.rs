//! virtio-net on passt under a kernel's driver: a network without privilege.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use crate::guest::{Ended, Guest, run_words, signal, wait, wait_for};

/// Where servers of the host listen: passt keeps the guest from the loopback interface.
const HOST: &str = "192.0.2.1";

/// Gives the host what passt looks for: an interface with a default route. A test program that ran here before may
/// have done so.
pub fn connect_host() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if Path::new("/sys/class/net/uplink").exists() {
            return;
        }
        for line in [
            "tuntap add dev uplink mode tap",
            "address add 192.0.2.1/24 dev uplink",
            "link set uplink up",
            "route add default via 192.0.2.254 dev uplink",
        ] {
            let status = Command::new("ip").args(line.split(' ')).status();
            assert!(status.expect("ip").success(), "ip {line}");
        }
    });
}

fn guest(options: &str) -> Guest {
    connect_host();
    let net = format!("user,ip=10.0.2.15/24,gateway=10.0.2.2{options}");
    Guest::minimal().arg("--net").arg(net)
}

fn assert_succeeded(ended: &Ended) {
    assert_eq!(ended.status, Some(0), "{ended:#?}");
    assert!(ended.console.contains("vmm.run: exit status 0"), "{ended:#?}");
}

/// The process of passt that the monitor `vmm` started.
fn passt_of(vmm: &Child) -> u32 {
    let path = format!("/proc/{0}/task/{0}/children", vmm.id());
    let children = fs::read_to_string(path).expect("children");
    let only = children.trim();
    let name = fs::read_to_string(format!("/proc/{only}/comm")).expect("name");
    assert!(name.starts_with("passt"), "{name}");
    only.parse().expect("number")
}

fn is_running(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

fn data() -> Vec<u8> {
    (0..6_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Connects to a published port until the guest answers behind it. The client speaks first, which
/// older versions of passt wait for.
fn fetch(port: u16) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut got = Vec::new();
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let _ = stream.write_all(b"go\n");
            let _ = stream.read_to_end(&mut got);
        }
        if !got.is_empty() {
            return got;
        }
        assert!(Instant::now() < deadline, "nothing came from port {port}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Out of the guest, and into it by a published port, with more than any buffer holds.
#[test]
fn user_network_reaches_out_and_is_reached_through_a_published_port() {
    let guest = guest(",publish=127.0.0.1:8085:80");
    let server = TcpListener::bind((HOST, 5201)).expect("listen");
    let sent = data();
    let server = thread::spawn(move || {
        let (mut stream, from) = server.accept().expect("accept");
        stream.write_all(&sent).expect("send");
        stream.shutdown(Shutdown::Write).expect("end");
        from
    });
    let script = format!(
        "set -e\nnc {HOST} 5201 > /tmp/data\necho got it\n\
         nc -l -p 80 < /tmp/data > /dev/null\nip -4 addr show dev eth0; ip route"
    );
    let guest = guest.append(&run_words(&script));
    let mut child = guest.start();
    wait_for(&mut child, "got it");
    let passt = passt_of(&child);
    let returned = fetch(8085);
    let ended = wait(child);
    assert_succeeded(&ended);
    assert!(!is_running(passt), "passt is ended and waited for");
    assert!(returned == data(), "{} bytes came back", returned.len());
    assert_eq!(server.join().expect("server").ip().to_string(), HOST);
    assert!(ended.console.contains("10.0.2.15/24"), "{ended:#?}");
    assert!(ended.console.contains("default via 10.0.2.2"), "{ended:#?}");
    assert_eq!(ended.stderr, "", "{ended:#?}");
}

/// Services that the host offers to itself alone are not the guest's, by whatever address.
#[test]
fn user_network_does_not_reach_the_loopback_interface_of_the_host() {
    let server = TcpListener::bind("127.0.0.1:5202").expect("listen");
    server.set_nonblocking(true).expect("nonblocking");
    let ended = guest("").run(
        "for host in 10.0.2.2 127.0.0.1 169.254.1.1\n\
         do nc -w 2 $host 5202 < /dev/null && echo reached $host\ndone\ntrue",
    );
    assert_succeeded(&ended);
    assert!(!ended.console.contains("reached"), "{ended:#?}");
    assert!(server.accept().is_err());
}

/// Nothing that ends the monitor leaves passt behind.
#[test]
fn killed_monitor_leaves_no_passt_behind() {
    let guest = guest("").append(&run_words("echo ready; sleep 60"));
    let mut child = guest.start();
    wait_for(&mut child, "ready");
    let passt = passt_of(&child);
    assert!(is_running(passt));
    signal(child.id(), "KILL");
    child.wait().expect("wait");
    let deadline = Instant::now() + Duration::from_secs(10);
    while is_running(passt) {
        assert!(Instant::now() < deadline, "passt lives on");
        thread::sleep(Duration::from_millis(10));
    }
}

/// N7: passt that dies costs the guest its network, not the machine, and leaves no zombie.
#[test]
fn machine_outlives_passt() {
    let script =
        format!("echo ready\nsleep 2\nnc -w 2 {HOST} 5203 < /dev/null || echo gone\necho alive");
    let guest = guest("").append(&run_words(&script));
    let mut child = guest.start();
    wait_for(&mut child, "ready");
    let passt = passt_of(&child);
    signal(passt, "KILL");
    let deadline = Instant::now() + Duration::from_secs(10);
    while is_running(passt) {
        assert!(Instant::now() < deadline, "passt stays as a zombie");
        thread::sleep(Duration::from_millis(10));
    }
    let ended = wait(child);
    assert_succeeded(&ended);
    assert!(ended.console.contains("gone\nalive"), "{ended:#?}");
    assert!(ended.stderr.contains("passt is gone"), "{ended:#?}");
}

#[test]
fn published_port_in_use_is_refused_in_the_words_of_passt() {
    let _taken = TcpListener::bind("127.0.0.1:8086").expect("listen");
    let ended = guest(",publish=8086:80").boot();
    assert_eq!(ended.status, Some(3), "{ended:#?}");
    assert!(ended.stderr.contains("passt ended: "), "{ended:#?}");
    assert!(ended.stderr.contains("8086"), "{ended:#?}");
}
