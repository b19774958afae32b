//! virtio-vsock under a kernel's driver.
//!
//! What runs in the guest is this very program: it is static, and comes on a disk.

// UNSAFETY: no safe interface knows the addresses of AF_VSOCK.
#![expect(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs, mem};

use rustix::net::{AddressFamily, SocketType, accept, listen, socket};

use crate::guest::{Guest, run_words, signal, wait, wait_for};

/// The variable that names the part this program has to play in the guest.
const PART: &str = "VSOCK_PART";
/// Bytes of a stream.
const LENGTH: u32 = 4 << 20;
/// Connections at a time, from the host and from the guest.
const CROWD: u32 = 1000;
const RUSH: u32 = 300;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The host's address.
const HOST: u32 = 2;

/// A guest with a socket device that plays `parts`, one after the other, and powers off.
struct Machine {
    child: Option<Child>,
    guest: Guest,
}

impl Drop for Machine {
    /// Ends a machine whose test has failed, and shows what it said.
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            signal(child.id(), "TERM");
            println!("{:#?}", wait(child));
        }
    }
}

impl Machine {
    fn start(parts: &str) -> Self {
        let guest = Guest::minimal();
        let program = guest.file("program");
        fs::copy("/proc/self/exe", &program).expect("copy");
        let file = fs::File::options().append(true).open(&program).expect("open");
        let sectors = file.metadata().expect("metadata").len().next_multiple_of(512);
        file.set_len(sectors).expect("pad");
        let script = format!(
            "set -e; cat /dev/vdb >/tmp/part; chmod +x /tmp/part; for part in {parts}; do \
             {PART}=$part /tmp/part --exact vsock::parts_of_guest_and_host_agree --nocapture; done"
        );
        let guest = guest
            .arg("--disk")
            .arg(format!("path={},readonly=on", program.display()))
            .append(&run_words(&script));
        let socket = guest.file("vsock");
        let guest = guest.arg("--vsock").arg(format!("cid=3,socket={}", socket.display()));
        Self { child: Some(guest.start()), guest }
    }

    fn socket(&self) -> PathBuf {
        self.guest.file("vsock")
    }

    /// A service on a port of the host.
    fn serve(&self, port: u32) -> Service {
        let path = self.guest.file(&format!("vsock_{port}"));
        Service(UnixListener::bind(path).expect("bind"))
    }

    /// Connects to a port of the guest.
    fn call(&self, port: u32) -> Option<UnixStream> {
        call(&self.socket(), port)
    }

    /// Waits until the guest serves `port`.
    fn wait_for_port(&mut self, port: u32) {
        let child = self.child.as_mut().expect("running");
        wait_for(child, &format!("port {port} is served"));
    }

    /// Waits for the end, which must be a good one.
    fn finish(mut self) {
        let socket = self.socket();
        let ended = wait(self.child.take().expect("running"));
        assert_eq!(ended.status, Some(0), "{ended:#?}");
        assert!(ended.console.contains("vmm.run: exit status 0"), "{ended:#?}");
        assert!(!socket.exists(), "the socket goes with the machine");
    }
}

/// A service of the host.
struct Service(UnixListener);

impl Service {
    /// The next connection of the guest.
    fn accept(&self) -> UnixStream {
        self.0.set_nonblocking(true).expect("not block");
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.0.accept() {
                Ok((stream, _)) => return patient(stream),
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock, "{e}"),
            }
            assert!(Instant::now() < deadline, "the guest does not connect");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A stream that fails when nothing happens on it.
fn patient(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
    stream
}

/// Connects to `port` of the guest behind `socket`; `None` when it is refused.
fn call(socket: &Path, port: u32) -> Option<UnixStream> {
    let mut stream = patient(UnixStream::connect(socket).expect("connect"));
    writeln!(stream, "CONNECT {port}").expect("say where to");
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        match stream.read(&mut byte) {
            Ok(1) => line.push(byte[0]),
            // Closed, or reset for what was not read.
            Ok(_) => return None,
            Err(e) => {
                assert_ne!(e.kind(), io::ErrorKind::WouldBlock, "no answer");
                return None;
            }
        }
    }
    let port = line.strip_prefix(b"OK ").and_then(|rest| rest.strip_suffix(b"\n"));
    assert!(port.is_some_and(|port| port.iter().all(u8::is_ascii_digit)), "{line:?}");
    Some(stream)
}

/// Sends a stream of [`LENGTH`] bytes that count; returns its sum.
fn send(stream: &mut impl Write) -> u64 {
    let mut sum = Sum::default();
    for start in (0..LENGTH).step_by(0x1_0000) {
        let bytes = |n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8;
        let chunk: Vec<u8> = (start..start + 0x1_0000).map(bytes).collect();
        sum.add(&chunk);
        stream.write_all(&chunk).expect("send");
    }
    sum.number()
}

/// Receives a stream to its end, `chunk` bytes at a time with a pause after each; returns its sum.
fn receive(stream: &mut impl Read, chunk: usize, pause: Duration) -> u64 {
    let (mut sum, mut bytes) = (Sum::default(), vec![0; chunk]);
    loop {
        match stream.read(&mut bytes).expect("receive") {
            0 => return sum.number(),
            len => sum.add(&bytes[..len]),
        }
        thread::sleep(pause);
    }
}

/// The length of a stream and its 64-bit FNV-1a, in one number.
#[derive(Default)]
struct Sum(u64, u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.0 += bytes.len() as u64;
        self.1 = bytes.iter().fold(self.1, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3).wrapping_add(1)
        });
    }

    fn number(&self) -> u64 {
        self.1 ^ self.0
    }
}

/// Sends a stream, ends it, and compares what the other side says it was.
fn send_and_compare(mut stream: UnixStream) {
    let sum = send(&mut stream);
    stream.shutdown(Shutdown::Write).expect("end the stream");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answer");
    assert_eq!(answer, sum.to_le_bytes());
}

/// The other side of [`send_and_compare`], which begins to read after a pause.
fn receive_and_answer(mut stream: UnixStream, pause: Duration) {
    thread::sleep(pause);
    let sum = receive(&mut stream, 0x1_0000, Duration::ZERO);
    stream.write_all(&sum.to_le_bytes()).expect("answer");
}

/// Tells every stream its number, the last one first, and expects the next from each.
fn count_in(mut streams: Vec<UnixStream>) {
    for (number, stream) in streams.iter_mut().enumerate().rev() {
        stream.write_all(&(number as u32).to_le_bytes()).expect("send");
    }
    for (number, mut stream) in (0u32..).zip(streams) {
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).expect("answer");
        assert_eq!(u32::from_le_bytes(answer), number + 1);
    }
}

/// The other side of [`count_in`].
fn count_on(streams: Vec<UnixStream>) {
    for mut stream in streams {
        let mut number = [0; 4];
        stream.read_exact(&mut number).expect("number");
        let next = u32::from_le_bytes(number) + 1;
        stream.write_all(&next.to_le_bytes()).expect("answer");
    }
}

/// An address of AF_VSOCK.
fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    (address.svm_cid, address.svm_port) = (cid, port);
    address
}

fn with_address(
    fd: &OwnedFd,
    address: &libc::sockaddr_vm,
    call: unsafe extern "C" fn(libc::c_int, *const libc::sockaddr, libc::socklen_t) -> libc::c_int,
) -> io::Result<()> {
    let len = mem::size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: bind and connect read an address of the length given.
    match unsafe { call(fd.as_raw_fd(), (&raw const *address).cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn guest_socket() -> OwnedFd {
    socket(AddressFamily::VSOCK, SocketType::STREAM, None).expect("a kernel with vsock")
}

/// Gives a connection that is asked for more than the 2 seconds it usually has: on a busy host the
/// kernel's packets wait behind others for longer.
fn be_patient(fd: &OwnedFd) {
    let time = libc::timeval { tv_sec: PATIENCE.as_secs() as libc::time_t, tv_usec: 0 };
    let len = mem::size_of_val(&time) as libc::socklen_t;
    // SO_VM_SOCKETS_CONNECT_TIMEOUT of linux/vm_sockets.h.
    let option = 6;
    // SAFETY: the option is a time of the length given.
    let set = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::AF_VSOCK, option, (&raw const time).cast(), len)
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}

/// Connects to a port of the host.
fn guest_connect(port: u32) -> io::Result<UnixStream> {
    let fd = guest_socket();
    be_patient(&fd);
    with_address(&fd, &address(HOST, port), libc::connect)?;
    // What is done with it from here on does not depend on the family.
    Ok(UnixStream::from(fd))
}

/// Listens on a port of the guest, says so on the console, and takes `count` connections.
fn guest_accept(port: u32, count: u32) -> Vec<UnixStream> {
    let fd = guest_socket();
    with_address(&fd, &address(libc::VMADDR_CID_ANY, port), libc::bind).expect("bind");
    listen(&fd, 1024).expect("listen");
    println!("port {port} is served");
    (0..count).map(|_| UnixStream::from(accept(&fd).expect("accept"))).collect()
}

/// What the guest does.
fn play(part: &str) {
    let one = |port| guest_accept(port, 1).remove(0);
    match part {
        "take" => receive_and_answer(one(1025), Duration::ZERO),
        "give" => send_and_compare(guest_connect(52).expect("connect")),
        "take-late" => receive_and_answer(one(1026), Duration::from_secs(2)),
        // And closes at once.
        "give-and-go" => drop(send(&mut guest_connect(53).expect("connect"))),
        "crowd" => count_on(guest_accept(1027, CROWD)),
        "rush" => {
            let connect = |_| guest_connect(54).expect("connect");
            count_in((0..RUSH).map(connect).collect());
        }
        "knock" => {
            let error = guest_connect(99).expect_err("nobody there");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
            receive(&mut one(1028), 1, Duration::ZERO);
        }
        other => assert_eq!(other, "a part"),
    }
}

/// In the guest, the part that is asked for; elsewhere the parts against each other.
#[test]
fn parts_of_guest_and_host_agree() {
    if let Ok(part) = env::var(PART) {
        return play(&part);
    }
    let (guest, host) = UnixStream::pair().expect("pair");
    let receiver = thread::spawn(|| receive_and_answer(guest, Duration::ZERO));
    send_and_compare(host);
    receiver.join().expect("receiver");
    let (guests, hosts) = (0..10).map(|_| UnixStream::pair().expect("pair")).unzip();
    let counter = thread::spawn(|| count_on(guests));
    count_in(hosts);
    counter.join().expect("counter");
}

#[test]
fn streams_arrive_whole_both_ways_and_end_one_way_at_a_time() {
    let mut machine = Machine::start("take give");
    let service = machine.serve(52);
    machine.wait_for_port(1025);
    send_and_compare(machine.call(1025).expect("accepted"));
    receive_and_answer(service.accept(), Duration::ZERO);
    machine.finish();
}

/// V7, V9, V10: the one that reads slowly holds the other back, and loses nothing even when that one closes.
#[test]
fn slow_readers_get_every_byte() {
    let mut machine = Machine::start("give-and-go take-late");
    let service = machine.serve(53);
    let mut stream = service.accept();
    let mut expected = io::sink();
    let sum = receive(&mut stream, 0x2_0000, Duration::from_millis(50));
    assert_eq!(sum, send(&mut expected));
    machine.wait_for_port(1026);
    send_and_compare(machine.call(1026).expect("accepted"));
    machine.finish();
}

#[test]
fn thousand_connections_work_at_once() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit })
        .expect("descriptors");
    let mut machine = Machine::start("crowd rush");
    let service = machine.serve(54);
    machine.wait_for_port(1027);
    count_in((0..CROWD).map(|_| machine.call(1027).expect("accepted")).collect());
    count_on((0..RUSH).map(|_| service.accept()).collect());
    machine.finish();
}

/// V10.
#[test]
fn ports_nobody_serves_are_refused() {
    let mut machine = Machine::start("knock");
    machine.wait_for_port(1028);
    assert!(machine.call(1029).is_none());
    let mut unasked = UnixStream::connect(machine.socket()).expect("connect");
    unasked.write_all(b"CONNECT x\n").expect("say nonsense");
    assert_ne!(unasked.read(&mut [0]).ok(), Some(1));
    drop(machine.call(1028).expect("accepted"));
    machine.finish();
}
