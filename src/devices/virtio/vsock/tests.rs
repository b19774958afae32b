//! The device as a guest and host programs meet it: each case of docs/threat-model.md by its id.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Instant;

use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

use super::packet::{STREAM, ends, op};
use super::*;
use crate::devices::virtio::device::{F_EVENT_IDX, F_INDIRECT_DESC};
use crate::devices::virtio::testing::{DATA, Driver, HIGH_END, HIGH_START, LOW_END, WRITE, reg};

mod bounds;
mod flow;
mod hosts;
mod packets;
mod streams;

const CID: u32 = 3;
/// Entries of the queues, and receive buffers at hand.
const SIZE: u16 = 64;
/// Bytes of a receive buffer.
const ROOM: u32 = 4096;
/// The guest's port, unless a test wants another.
const PORT: u32 = 1025;
/// The host's port that is served.
const SERVED: u32 = 52;
/// What a guest keeps for its programs.
const GUEST_ROOM: u32 = 1 << 18;
/// No operation at all.
const NONE: [u16; 0] = [];

/// A machine with a socket device, a directory for its sockets and a guest that does as it is told.
struct Machine {
    driver: Driver,
    dir: TempDir,
    counters: Arc<VsockCounters>,
    /// Whether receive buffers are given again as they are used.
    generous: bool,
}

impl Machine {
    fn new() -> Self {
        Self::with_limits(Limits { patience: Duration::from_secs(60), ..LIMITS })
    }

    /// A machine that waits for nobody longer than it must.
    fn impatient() -> Self {
        Self::with_limits(Limits { patience: Duration::from_millis(80), ..LIMITS })
    }

    fn with_limits(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vsock = Vsock::with_limits(CID, &dir.path().join("vsock"), limits).unwrap();
        let counters = vsock.counters.clone();
        let mut driver = Driver::new(Box::new(vsock));
        driver.set_queue_size(SIZE);
        let mut machine = Self { driver, dir, counters, generous: true };
        machine.start();
        machine
    }

    /// Resets the device and gives it all receive buffers there are.
    fn start(&mut self) {
        self.driver.start(F_EVENT_IDX);
        if self.generous {
            (0..SIZE).for_each(|_| self.post());
            self.driver.kick(RX);
        }
    }

    /// A machine whose guest never gives receive buffers.
    fn stingy() -> Self {
        let mut machine = Self::new();
        machine.generous = false;
        machine.start();
        machine
    }

    /// Puts the next receive buffer into the queue; each has a place of its own.
    fn post(&mut self) {
        let head = self.driver.next_head(RX);
        self.driver.chain(RX, &[(buffer_at(head), ROOM, WRITE)]);
    }

    fn path(&self, port: u32) -> PathBuf {
        self.dir.path().join(format!("vsock_{port}"))
    }

    /// A service of the host on `port`.
    fn serve(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(port)).unwrap()
    }

    /// A host program that has connected to the device.
    fn program(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("vsock")).unwrap()
    }

    /// Whether a host program that connects is disconnected at once.
    fn program_is_refused(&mut self) -> bool {
        let mut program = self.program();
        self.driver.run_backend();
        program.set_nonblocking(true).unwrap();
        is_lost(&mut program)
    }

    /// The guest sends a packet of `header`, with `data`.
    fn send(&mut self, header: Header, data: &[u8]) {
        let header = Header { len: u32::try_from(data.len()).unwrap(), ..header };
        self.driver.poke(DATA, &header.bytes());
        self.driver.poke(DATA + 0x1000, data);
        let mut parts = vec![(DATA, HEADER_LEN, 0)];
        if header.len > 0 {
            parts.push((DATA + 0x1000, header.len, 0));
        }
        self.driver.chain(TX, &parts);
        self.driver.kick(TX);
    }

    /// The guest sends a chain of parts of these lengths that begins with `bytes`.
    fn send_raw(&mut self, bytes: &[u8], lens: &[u32]) {
        self.driver.poke(DATA, bytes);
        let mut at = DATA;
        let mut parts = Vec::new();
        for len in lens {
            parts.push((at, *len, 0));
            at += u64::from(*len);
        }
        self.driver.chain(TX, &parts);
        self.driver.kick(TX);
    }

    /// The guest sends an `op` from [`PORT`] to [`SERVED`].
    fn send_op(&mut self, op: u16) {
        self.send(header(op), &[]);
    }

    /// What the guest was sent since the last call.
    fn packets(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        loop {
            self.driver.run_backend();
            let used = self.driver.used(RX);
            if used.is_empty() {
                return packets;
            }
            for (head, len) in used {
                let bytes = self.driver.peek(buffer_at(head), usize::try_from(len).unwrap());
                let (header, data) = bytes.split_first_chunk().expect("a whole header");
                let header = Header::parse(header);
                assert_eq!(usize::try_from(header.len).unwrap(), data.len());
                assert_eq!((header.src_cid, header.dst_cid), (2, CID.into()));
                packets.push((header, data.to_vec()));
                if self.generous {
                    self.post();
                }
            }
            self.driver.kick(RX);
        }
    }

    /// The operations of those packets.
    fn ops(&mut self) -> Vec<u16> {
        self.packets().iter().map(|(header, _)| header.op).collect()
    }

    /// A guest program connected to a service of the host.
    fn connected(&mut self) -> UnixStream {
        self.connected_from(PORT)
    }

    fn connected_from(&mut self, guest_port: u32) -> UnixStream {
        let service = self.serve(SERVED);
        self.send(Header { src_port: guest_port, ..header(op::REQUEST) }, &[]);
        assert_eq!(self.ops(), [op::RESPONSE]);
        let stream = service.accept().unwrap().0;
        std::fs::remove_file(self.path(SERVED)).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// A host program connected to a service of the guest on [`PORT`]; with the packets' header.
    fn called(&mut self) -> (UnixStream, Header) {
        let (mut program, request) = self.calling();
        self.send(Header { op: op::RESPONSE, ..answer(&request) }, &[]);
        assert_eq!(read_now(&mut program), format!("OK {}\n", request.src_port).into_bytes());
        (program, answer(&request))
    }

    /// The same before the guest has answered the request returned.
    fn calling(&mut self) -> (UnixStream, Header) {
        let mut program = self.program();
        writeln!(program, "CONNECT {PORT}").unwrap();
        program.set_nonblocking(true).unwrap();
        let packets = self.packets();
        let [(request, _)] = packets[..] else { panic!("{packets:?}") };
        assert_eq!((request.op, request.dst_port, request.kind), (op::REQUEST, PORT, STREAM));
        (program, request)
    }

    /// Whether a connection of the guest works, both ways.
    fn works(&mut self) -> bool {
        let mut stream = self.connected_from(9);
        let header = Header { src_port: 9, ..header(op::RW) };
        self.send(header, b"ping");
        stream.write_all(b"pong").unwrap();
        let pong = self.packets();
        self.send(Header { op: op::RST, ..header }, &[]);
        read_now(&mut stream) == b"ping" && pong.len() == 1 && pong[0].1 == b"pong"
    }

    /// The guest's packet ends the connection: it is told so by a RST, and the device lives.
    #[track_caller]
    fn assert_reset(&mut self, why: &str) {
        assert_eq!(self.ops(), [op::RST], "{why}");
        assert!(!self.driver.needs_reset(), "{why}");
    }
}

fn buffer_at(head: u16) -> u64 {
    HIGH_START + u64::from(head) * u64::from(ROOM)
}

/// A packet of the guest from [`PORT`] to [`SERVED`].
fn header(op: u16) -> Header {
    Header {
        src_cid: CID.into(),
        dst_cid: 2,
        src_port: PORT,
        dst_port: SERVED,
        kind: STREAM,
        op,
        buf_alloc: GUEST_ROOM,
        ..Header::default()
    }
}

/// A packet of the guest that answers `to`.
fn answer(to: &Header) -> Header {
    Header { src_port: to.dst_port, dst_port: to.src_port, ..header(op::RW) }
}

/// What a socket has now, up to the end of the stream.
fn read_now(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock, "{e}"),
    }
    bytes
}

/// Whether the other side has ended the stream, and all of it was read.
fn is_ended(stream: &mut UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0))
}

/// Whether the connection is lost both ways.
fn is_lost(stream: &mut UnixStream) -> bool {
    let read = stream.read(&mut [0]);
    let lost =
        matches!(&read, Ok(0)) || read.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset);
    lost && stream.write(b"x").is_err()
}
