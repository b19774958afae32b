//! virtio-net on a TAP interface under a kernel's driver.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread;

use rustix::net::{
    AddressFamily, Protocol, RawProtocol, RecvFlags, SocketFlags, SocketType, recv, socket_with,
};

use crate::guest::{Ended, Guest, run_words, wait, wait_for};

/// A TAP interface of the test's own, with an address; removed at the end.
struct Cable {
    tap: String,
    host: String,
    guest: String,
}

impl Cable {
    /// Each test has a subnet of its own: they share one network namespace.
    fn new(number: u8) -> Self {
        Self::of_kind(number, "")
    }

    fn of_kind(number: u8, kind: &str) -> Self {
        let cable = Self {
            tap: format!("vmmtest{number}"),
            host: format!("172.30.{number}.1"),
            guest: format!("172.30.{number}.2"),
        };
        ip(&format!("tuntap add dev {} mode tap{kind}", cable.tap));
        ip(&format!("address add {}/24 dev {}", cable.host, cable.tap));
        ip(&format!("link set {} up", cable.tap));
        cable
    }

    /// A guest at the other end.
    fn guest(&self, options: &str) -> Guest {
        Guest::minimal()
            .arg("--net")
            .arg(format!("tap={}{options}", self.tap))
            .append(&format!("ip={}::{}:255.255.255.0", self.guest, self.host))
    }
}

/// Every frame that passes an interface of the host.
struct Eavesdropper(OwnedFd);

impl Eavesdropper {
    fn new() -> Self {
        // ETH_P_ALL, in network byte order (packet(7)).
        let all = Protocol::from_raw(RawProtocol::new(u32::from(3u16.to_be())).expect("not zero"));
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(all));
        Self(socket.expect("packet socket"))
    }

    /// Whether a frame with the bytes `sign` among its first 34 has passed since the last call.
    fn heard(&self, sign: &[u8]) -> bool {
        let mut frame = [0; 34];
        let mut heard = false;
        while let Ok((len, _)) = recv(&self.0, &mut frame, RecvFlags::empty()) {
            heard |= frame[..len].windows(sign.len()).any(|bytes| bytes == sign);
        }
        heard
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.tap]).status();
    }
}

fn ip(line: &str) {
    assert!(Command::new("ip").args(line.split(' ')).status().expect("ip").success(), "ip {line}");
}

fn assert_succeeded(ended: &Ended) {
    assert_eq!(ended.status, Some(0), "{ended:#?}");
    assert!(ended.console.contains("vmm.run: exit status 0"), "{ended:#?}");
}

#[test]
fn ping_reaches_the_host_with_every_size() {
    let cable = Cable::new(1);
    let host = &cable.host;
    let console = cable.guest("").succeed(&format!(
        "ping -c 3 -W 5 {host}; ping -c 2 -s 1472 -W 5 {host}; ping -c 2 -s 60000 -W 5 {host}"
    ));
    assert_eq!(console.matches("0% packet loss").count(), 3, "{console}");
}

#[test]
fn mac_and_mtu_are_as_asked() {
    let cable = Cable::new(2);
    let console = cable
        .guest(",mac=02:11:22:33:44:55,mtu=1300")
        .succeed("cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu");
    assert!(console.contains("02:11:22:33:44:55\n1300\n"), "{console}");
}

#[test]
fn mac_is_the_same_at_every_start_and_locally_administered() {
    let cable = Cable::new(3);
    let macs: Vec<String> = (0..2)
        .map(|_| {
            let console = cable.guest("").succeed("echo mac=$(cat /sys/class/net/eth0/address)");
            let line = console.lines().find(|line| line.starts_with("mac=")).expect("a MAC");
            line.to_owned()
        })
        .collect();
    assert_eq!(macs[0], macs[1]);
    assert!(macs[0].starts_with("mac=02:"), "{macs:?}");
}

/// Offloads on: segments far larger than the MTU cross the TAP in both directions, unharmed.
#[test]
fn bulk_tcp_arrives_unharmed_in_both_directions() {
    let cable = Cable::new(4);
    let data: Vec<u8> =
        (0..40_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let listen = |port: u16| TcpListener::bind((cable.host.as_str(), port)).expect("listen");
    let (source, sink) = (listen(5002), listen(5001));
    let sent = data.clone();
    let server = thread::spawn(move || {
        source.accept().expect("accept").0.write_all(&sent).expect("send");
        let mut returned = Vec::new();
        sink.accept().expect("accept").0.read_to_end(&mut returned).expect("receive");
        returned
    });
    let host = &cable.host;
    cable.guest("").args("--memory 512M").succeed(&format!(
        "nc {host} 5002 > /tmp/data; ls -l /tmp/data; nc {host} 5001 < /tmp/data"
    ));
    assert!(server.join().expect("server") == data, "the bytes that came back differ");
}

/// N6: frames that arrive while nobody listens do not stop the interface for good.
#[test]
fn traffic_resumes_after_a_flood_that_nobody_read() {
    let cable = Cable::new(5);
    let host = &cable.host;
    let script = format!(
        "set -e; ping -c 1 -W 5 {host}; ifconfig eth0 down; sleep 2; ifconfig eth0 {} up; ping -c 2 -W 5 {host}",
        cable.guest
    );
    let guest = cable.guest("").append(&run_words(&script));
    let child = guest.start();
    let flood = format!("ping -b -q -f -w 8 172.30.5.255 -s 1000; ping -q -f -w 4 {}", cable.guest);
    let flood =
        Command::new("sh").args(["-c", &flood]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let ended = wait(child);
    flood.expect("ping").wait().expect("ping");
    assert_succeeded(&ended);
}

/// N7: an interface deleted under a running guest costs its traffic, not the machine.
#[test]
fn deleted_interface_leaves_the_machine_alive() {
    let cable = Cable::new(6);
    let host = &cable.host;
    let script = format!(
        "ping -c 1 -W 5 {host} && echo ready; sleep 3; ping -c 2 -W 1 {host} || echo gone; echo alive"
    );
    let guest = cable.guest("").append(&run_words(&script));
    let mut child = guest.start();
    wait_for(&mut child, "ready");
    ip(&format!("link delete {}", cable.tap));
    let ended = wait(child);
    assert_succeeded(&ended);
    assert!(ended.console.contains("gone\nalive"), "{ended:#?}");
}

#[test]
fn interface_that_did_not_exist_is_gone_afterwards() {
    let ended = Guest::minimal().args("--net tap=vmmtest7").append(&run_words("ip link")).boot();
    assert_succeeded(&ended);
    assert!(!std::path::Path::new("/sys/class/net/vmmtest7").exists());
}

#[test]
fn busy_interface_is_refused_by_name() {
    let cable = Cable::new(8);
    let guest = cable.guest("").append(&run_words("echo ready; sleep 60"));
    let mut first = guest.start();
    wait_for(&mut first, "ready");
    let second = cable.guest("").boot();
    crate::guest::signal(first.id(), "TERM");
    wait(first);
    assert_eq!(second.status, Some(3), "{second:#?}");
    assert!(second.stderr.contains("vmmtest8"), "{second:#?}");
    assert!(second.stderr.contains("busy") || second.stderr.contains("in use"), "{second:#?}");
}

/// N4: the guest changes its addresses; with the filter off the frames show what is missing.
#[test]
fn spoofed_frames_do_not_reach_the_host() {
    let cable = Cable::new(9);
    let (host, own) = (&cable.host, &cable.guest);
    let script = format!(
        "ping -c 1 -W 5 {host} && echo mine\n\
         address=$(cat /sys/class/net/eth0/address)\n\
         ip link set dev eth0 address 02:66:66:66:66:66\n\
         ping -c 2 -W 1 {host} || echo no MAC\n\
         ip link set dev eth0 address $address\n\
         ip addr add 172.30.9.77/24 dev eth0\n\
         ping -c 2 -W 1 -I 172.30.9.77 {host} || echo no IP\n\
         ip addr del 172.30.9.77/24 dev eth0\n\
         ping -c 1 -W 5 -I {own} {host} && echo mine again\n\
         ip route | grep default"
    );
    let net = format!("tap={},ip={own}/24,gateway={host}", cable.tap);
    let run = |more| Guest::minimal().arg("--net").arg(format!("{net}{more}")).run(&script);
    let ears = Eavesdropper::new();
    let filtered = run("");
    assert_succeeded(&filtered);
    for said in ["mine\n", "no MAC\n", "no IP\n", "mine again\n", "default via 172.30.9.1"] {
        assert!(filtered.console.contains(said), "{said}: {filtered:#?}");
    }
    assert!(filtered.stderr.contains("a frame of the guest was refused"), "{filtered:#?}");
    assert!(!ears.heard(&[0x02, 0x66, 0x66, 0x66, 0x66, 0x66]));

    let open = run(",filter=off");
    assert_succeeded(&open);
    assert!(!open.stderr.contains("refused"), "{open:#?}");
    assert!(ears.heard(&[0x02, 0x66, 0x66, 0x66, 0x66, 0x66]), "{open:#?}");
    assert!(!open.console.contains("no IP\n"), "{open:#?}");
}

/// Both CPUs of the guest send and receive at once, each through a pair of queues of its own.
#[test]
fn two_queues_carry_the_traffic_of_two_cpus_unharmed() {
    let cable = Cable::of_kind(10, " multi_queue");
    let host = &cable.host;
    let data: Vec<u8> =
        (0..4_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let echo = TcpListener::bind((host.as_str(), 5003)).expect("listen");
    let sent = data.clone();
    let server = thread::spawn(move || {
        let streams: Vec<_> = (0..4).map(|_| echo.accept().expect("accept").0).collect();
        let serve = |mut stream: std::net::TcpStream| {
            let sent = sent.clone();
            thread::spawn(move || {
                stream.write_all(&sent).expect("send");
                stream.shutdown(std::net::Shutdown::Write).expect("end");
            })
        };
        let threads: Vec<_> = streams.into_iter().map(serve).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("stream"));
    });
    let script = format!(
        "ls -d /sys/class/net/eth0/queues/*\n\
         for n in 0 1 2 3; do taskset $((1 << n % 2)) nc {host} 5003 > /tmp/$n & done\n\
         wait\n\
         for cpu in 1 2; do taskset $cpu ping -c 3 -W 5 {host}; done\n\
         cat /tmp/0 /tmp/1 /tmp/2 /tmp/3 | md5sum"
    );
    let guest = cable.guest(",queues=2").args("--cpus 2");
    let file = guest.file("data");
    std::fs::write(&file, data.repeat(4)).expect("write");
    let sum = Command::new("md5sum").arg(&file).output().expect("md5sum").stdout;
    let sum = String::from_utf8_lossy(&sum[..32]).into_owned();
    let console = guest.succeed(&script);
    server.join().expect("server");
    for queue in ["rx-0", "rx-1", "tx-0", "tx-1"] {
        assert!(console.contains(&format!("/sys/class/net/eth0/queues/{queue}")), "{console}");
    }
    assert_eq!(console.matches(" 0% packet loss").count(), 2, "{console}");
    assert!(console.contains(&sum), "{console}");
}
