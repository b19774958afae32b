//! What a container tries, with everything docker lets it do and more.

use std::{env, fs, io};

use rustix::net::{AddressFamily, SocketType, socket};
use vmm_protocol::{CAPABILITIES, Reply, Request, Role, Setup, Start};

use super::client::{self, Machine, command, shell};
use super::setup;

/// The variable that tells this very program, copied into the container, what to do.
const PART: &str = "AGENT_PART";

/// In the container: tries to make a socket to the host. Elsewhere: that this can be told.
#[test]
fn sockets_to_the_host_are_no_family_here() {
    if env::var_os(PART).is_none() {
        assert_eq!(EXPECTED.lines().count(), 3);
        return;
    }
    let attempt = |family, kind| match socket(family, kind, None) {
        Ok(_) => "made".to_owned(),
        Err(error) => io::Error::from(error).kind().to_string(),
    };
    println!("inet {}", attempt(AddressFamily::INET, SocketType::STREAM));
    println!("vsock {:?}", socket(AddressFamily::VSOCK, SocketType::STREAM, None).err());
    println!("datagram {:?}", socket(AddressFamily::VSOCK, SocketType::DGRAM, None).err());
}

const EXPECTED: &str = "inet made\nvsock Some(Os { code: 97, kind: Uncategorized, message: \"Address family not supported by protocol\" })\ndatagram Some(Os { code: 97, kind: Uncategorized, message: \"Address family not supported by protocol\" })\n";

/// F6.
#[test]
fn container_reaches_neither_disks_nor_host_nor_agent() {
    let (machine, _first) = Machine::asleep(Setup { writable_disk: true, ..setup() });
    let powerful = |command: &str| {
        let capabilities = CAPABILITIES.map(str::to_owned).into();
        machine.run(Start { capabilities, ..shell(command) }).expect("started").finish()
    };
    let nodes = machine.sh("ls /dev; ls -l /dev/null | cut -c1-10").good();
    let expected = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero crw-rw-rw-";
    assert_eq!(nodes.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    // Disks, by any node anybody makes or mounts.
    let steal = "for m in 254 253 252 259; do mknod /tmp/d$m b $m 0; done; cat /tmp/d* | wc -c; \
                 mknod /dev/d b 254 16; head -c 512 /dev/d | wc -c; \
                 mknod /tmp/mem c 1 1; head -c 1 /tmp/mem | wc -c; \
                 mknod /tmp/null c 1 3; echo x >/tmp/null && echo null works";
    let done = machine.sh(&format!("({steal}) 2>/dev/null"));
    assert_eq!(done.good(), "0\n0\n0\nnull works\n");
    let steal = "mkdir -p /tmp/m && mount -t devtmpfs none /tmp/m && ls /tmp/m/vda && \
                 head -c 512 /tmp/m/vda | wc -c; head -c 512 /tmp/m/vdb | wc -c; \
                 ls /tmp/m/vsock && head -c 1 /tmp/m/vsock | wc -c";
    let done = powerful(&format!("({steal}) 2>/dev/null; true"));
    assert_eq!(done.good(), "/tmp/m/vda\n0\n0\n/tmp/m/vsock\n0\n");
    // The agent is in no namespace of the container, and has left nothing there.
    let traces = "ls /proc | grep -c '^[0-9]*$'; ls -d /agent /lower /upper /files /cgroup /init 2>/dev/null; \
                  cut -d' ' -f5 /proc/self/mountinfo | grep -cE '^/(lower|upper|files|cgroup|agent)'; ls /proc/self/fd | wc -l";
    let said = powerful(traces).good();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 3 && lines[1] == "0" && lines[2] == "4", "{said}");
    // What docker hides and protects.
    let said = machine.sh(
        "(cat /proc/kcore /proc/keys /proc/timer_list; ls /sys/firmware; ls /proc/acpi) 2>/dev/null | wc -c; \
         echo 1 2>/dev/null >/proc/sys/kernel/domainname || echo protected; \
         echo 1 2>/dev/null >/proc/sysrq-trigger || echo protected; \
         mkdir /sys/fs/cgroup/x 2>/dev/null || echo protected; \
         mount -t tmpfs none /mnt 2>/dev/null || echo forbidden; reboot -f 2>/dev/null || echo forbidden",
    );
    assert_eq!(said.good(), "0\nprotected\nprotected\nprotected\nforbidden\nforbidden\n");
    let said = powerful("reboot -f; echo still here").text().to_owned();
    assert!(said.is_empty() || said == "still here\n", "{said}");
}

/// F6: also for a program that calls the kernel itself.
#[test]
fn container_makes_no_socket_to_the_host() {
    let (machine, _first) = Machine::asleep(setup());
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    fs::copy("/proc/self/exe", path("program")).expect("copy");
    command("tar", &["-C", &path(""), "-cf", &path("program.tar"), "program"]);
    let mut link = machine.connect();
    link.say(&Request::CopyIn { directory: "/".into() });
    let tar = fs::read(path("program.tar")).expect("read");
    assert_eq!(client::send_with_credit(&mut link, &tar), Reply::Copied);
    let name = "agent::hostile::sockets_to_the_host_are_no_family_here";
    let start = Start {
        env: vec![format!("{PART}=try")],
        capabilities: CAPABILITIES.map(str::to_owned).into(),
        ..shell(&format!("/program --exact {name} --nocapture"))
    };
    let said = machine.run(start).expect("started").finish().good();
    assert!(said.contains(EXPECTED), "{said}");
    machine.shut_down();
}

/// F6: links of the container lead a copy nowhere but into the container.
#[test]
fn copies_follow_no_link_out_of_the_container() {
    let (machine, _first) = Machine::asleep(setup());
    machine
        .sh("ln -s /proc/self/exe /tmp/self; ln -s / /tmp/root; mkfifo /tmp/pipe; ln -s /proc/1/root/etc /tmp/magic")
        .good();
    let copy = |path: &str, follow| {
        let mut link = machine.connect();
        link.say(&Request::CopyOut { path: path.into(), follow });
        client::receive_copy(&mut link)
    };
    for path in ["/tmp/self", "/proc/self/exe", "/proc/1/exe", "/tmp/magic/passwd", "/tmp/pipe"] {
        let reply = copy(path, true);
        assert!(matches!(reply, Err(Reply::Refused { .. })), "{path}");
    }
    let passwd = copy("/tmp/root/../../etc/passwd", true).expect("the container's own");
    assert!(String::from_utf8_lossy(&passwd).contains("user:x:1000"));
    let start = Start { role: Role::Exec, ..shell("cat /etc/passwd | wc -l") };
    assert_eq!(machine.run(start).expect("started").finish().good(), "2\n");
    machine.shut_down();
}
