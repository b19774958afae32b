//! Programs as people run them: nginx behind a published port, Python and its own tests.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::world::{World, eventually, run};
use crate::user_net::connect_host;

/// Asks for a page behind a port of this host until there is an answer.
#[track_caller]
pub fn fetch(port: u16, path: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let _ = write!(stream, "GET {path} HTTP/1.0\r\n\r\n");
            let _ = stream.read_to_string(&mut answer);
        }
        if answer.contains("\r\n\r\n") {
            return answer;
        }
        assert!(Instant::now() < deadline, "no answer from port {port}: {answer:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn nginx_is_served_to_curl_and_stops_in_order() {
    connect_host();
    let world = World::new();
    world.ok(&["run", "-d", "--name", "web", "-p", "127.0.0.1:8096:80", "nginx"]);
    assert!(fetch(8096, "/").contains("Welcome to nginx!"));
    let script = "head -c 3000000 /dev/urandom > /var/www/html/big; md5sum < /var/www/html/big";
    let sum = world.ok(&["exec", "web", "sh", "-c", script]);
    let curl = "curl --silent --fail http://127.0.0.1:8096/big | md5sum";
    assert_eq!(run(Command::new("sh").args(["-c", curl]), b"").success().trim(), sum);
    // nginx writes its log to the standard output.
    eventually("curl is in the log", || {
        let log = world.ok(&["logs", "web"]);
        log.contains("GET /big HTTP/1.1\" 200 3000000") && log.contains("curl/")
    });
    assert!(world.ok(&["ps"]).contains("127.0.0.1:8096->80/tcp"), "{}", world.ok(&["ps"]));
    assert!(world.ok(&["top", "web"]).contains("nginx: master process"));
    // The image says that QUIT stops it, which lets nginx end in order.
    world.ok(&["stop", "web"]);
    assert_eq!(world.ok(&["wait", "web"]), "0");
    world.ok(&["rm", "web"]);
    world.wait_for_quiet();
}

/// Answers each datagram in capital letters.
const ECHO: &str = "
import socket
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.bind(('', 53))
print('ready', flush=True)
while True:
    data, peer = own.recvfrom(65536)
    own.sendto(data.upper(), peer)
";

#[test]
fn published_port_of_the_smallest_image_answers() {
    connect_host();
    let world = World::new();
    let serve = "echo from a container > /tmp/page; exec httpd -f -p 80 -h /tmp";
    let line = ["run", "-d", "--name", "web", "-p", "8081:80", "busybox", "sh", "-c", serve];
    world.ok(&line);
    let answer = fetch(8081, "/page");
    assert!(answer.ends_with("from a container\n"), "{answer}");
    world.ok(&["rm", "-f", "web"]);
    world.assert_nothing_left();
}

/// From this host by its address in a network, as from other hosts.
#[test]
fn datagrams_reach_a_published_port_and_are_answered() {
    connect_host();
    let world = World::new();
    let line = ["run", "-d", "--name", "names", "-p", "5353:53/udp"];
    world.ok(&[&line[..], &["python", "python3", "-c", ECHO]].concat());
    eventually("it listens", || world.ok(&["logs", "names"]).contains("ready"));
    assert!(world.ok(&["ps"]).contains("0.0.0.0:5353->53/udp"), "{}", world.ok(&["ps"]));
    let socket = UdpSocket::bind(("192.0.2.1", 0)).expect("socket");
    socket.connect(("192.0.2.1", 5353)).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
    // As small as there are, and as large as a link takes at once.
    for (byte, len) in [(b'a', 1), (b'b', 64), (b'c', 1400)] {
        let wanted = vec![byte.to_ascii_uppercase(); len];
        let mut answer = vec![0; 2000];
        let mut answered = || {
            // A datagram may be lost; the answer to one before may come late.
            let _ = socket.send(&vec![byte; len]);
            socket.recv(&mut answer).is_ok_and(|count| answer[..count] == wanted)
        };
        assert!((0..15).any(|_| answered()), "{len} bytes");
    }
    let none = TcpStream::connect(("192.0.2.1", 5353));
    assert!(none.is_err(), "a port of TCP that nobody asked for");
}

/// What of Python's own tests is left out of `test_json`: 114,000 calls of the decoder, and thirty
/// interpreters started one after the other. Where processors are emulated twice that takes a minute of
/// processor time, and nothing else: neither the clock nor random numbers are waited for. All of
/// `test_subprocess`, which starts hundreds, had not ended after six minutes.
const LEFT_OUT: [&str; 4] = ["-i", "test_unicode_decode", "-i", "test.test_json.test_tool.*"];
/// What of `test_subprocess` is run: pipes, limits of time, signals, sessions, other groups, descriptors.
const PROCESSES: [&str; 7] = [
    "test_communicate",
    "test_wait_timeout",
    "test_kill_dead",
    "test_start_new_session",
    "test_extra_groups",
    "test_preexec_errpipe_does_not_double_close_pipes",
    "test_close_fds",
];

#[test]
fn python_passes_tests_of_its_own() {
    let world = World::new();
    // Some tests look at every descriptor that there may be; a million takes a minute here.
    let line = ["run", "-d", "--network", "none", "--ulimit", "nofile=1024", "--name", "python"];
    world.ok(&[&line[..], &["python", "sleep", "1000"]].concat());
    let test = |args: &[&str]| {
        let line = ["exec", "python", "timeout", "200", "python3", "-m", "test", "-v"];
        let ran = world.run(&[&line[..], args].concat());
        assert_eq!(ran.status, 0, "{}{}", ran.out(), ran.err());
        assert!(ran.out().contains("Tests result: SUCCESS"), "{}", ran.out());
        ran.out().matches(" ... ok\n").count()
    };
    let count = test(&[&LEFT_OUT[..], &["test_json"]].concat());
    assert!(count > 140, "{count} tests of test_json");
    let chosen = PROCESSES.iter().flat_map(|name| ["-m", *name]);
    let count = test(&chosen.chain(["test_subprocess"]).collect::<Vec<_>>());
    assert!(count >= PROCESSES.len(), "{count} tests of test_subprocess");
}
