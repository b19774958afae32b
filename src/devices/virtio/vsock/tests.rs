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

mod flow;
mod hosts;

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

#[test]
fn configuration_tells_the_guest_its_address() {
    let mut machine = Machine::new();
    assert_eq!([0x100, 0x104, 0x108].map(|at| machine.driver.read(at)), [CID, 0, 0]);
    machine.driver.write(0x100, 77);
    assert_eq!(machine.driver.read(0x100), CID);
    assert_eq!(machine.driver.read(0x08), 19);
    for (queue, size) in [(0, 256), (1, 256), (2, 64), (3, 0)] {
        machine.driver.write(reg::QUEUE_SEL, queue);
        assert_eq!(machine.driver.read(reg::QUEUE_NUM_MAX), size);
    }
}

#[test]
fn guest_program_reaches_the_service_of_its_port() {
    let mut machine = Machine::new();
    let mut stream = machine.connected();
    machine.send(header(op::RW), b"hello");
    assert_eq!(read_now(&mut stream), b"hello");
    stream.write_all(b"welcome").unwrap();
    let packets = machine.packets();
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0].1, b"welcome");
    let sent = packets[0].0;
    assert_eq!((sent.op, sent.src_port, sent.dst_port), (op::RW, SERVED, PORT));
    assert_eq!((sent.buf_alloc, sent.fwd_cnt), (64 << 10, 5));
    assert_eq!(machine.counters.connections.get(), 1);
}

#[test]
fn host_program_reaches_the_port_it_names() {
    let mut machine = Machine::new();
    let (mut program, header) = machine.called();
    program.write_all(b"to the guest").unwrap();
    let packets = machine.packets();
    assert_eq!((packets.len(), &packets[0].1[..]), (1, &b"to the guest"[..]));
    machine.send(header, b"to the host");
    assert_eq!(read_now(&mut program), b"to the host");
}

/// What a program says before it is told OK reaches the guest all the same, after the answer.
#[test]
fn data_behind_the_first_line_waits_for_the_guest() {
    let mut machine = Machine::new();
    let mut program = machine.program();
    program.write_all(b"CONNECT 1025\nearly").unwrap();
    let packets = machine.packets();
    assert_eq!((packets.len(), packets[0].0.op), (1, op::REQUEST));
    machine.send(Header { op: op::RESPONSE, ..answer(&packets[0].0) }, &[]);
    let packets = machine.packets();
    assert_eq!((packets.len(), &packets[0].1[..]), (1, &b"early"[..]));
}

#[test]
fn host_program_whose_port_nobody_serves_is_disconnected() {
    let mut machine = Machine::new();
    let (mut program, request) = machine.calling();
    machine.send(Header { op: op::RST, ..answer(&request) }, &[]);
    assert!(is_lost(&mut program));
    assert_eq!(machine.ops(), NONE);
}

#[test]
fn every_host_program_gets_a_port_of_its_own() {
    let mut machine = Machine::new();
    let calls: Vec<_> = (0..20).map(|_| machine.called()).collect();
    let mut ports: Vec<u32> = calls.iter().map(|(_, header)| header.dst_port).collect();
    ports.dedup();
    assert_eq!(ports.len(), 20);
    assert!(ports.iter().all(|port| (1 << 30..1 << 31).contains(port)));
}

#[test]
fn end_of_the_guests_stream_leaves_the_other_direction_open() {
    let mut machine = Machine::new();
    let mut stream = machine.connected();
    machine.send(header(op::RW), b"last words");
    machine.send(Header { flags: ends::SEND, ..header(op::SHUTDOWN) }, &[]);
    assert_eq!(read_now(&mut stream), b"last words");
    assert!(is_ended(&mut stream));
    stream.write_all(b"answer").unwrap();
    let packets = machine.packets();
    assert_eq!((packets.len(), &packets[0].1[..]), (1, &b"answer"[..]));
    drop(stream);
    let packets = machine.packets();
    assert_eq!((packets.len(), packets[0].0.op, packets[0].0.flags), (1, op::SHUTDOWN, ends::BOTH));
    machine.send_op(op::RST);
    assert_eq!(machine.ops(), NONE);
}

#[test]
fn end_of_the_hosts_stream_leaves_the_other_direction_open() {
    let mut machine = Machine::new();
    let mut stream = machine.connected();
    stream.write_all(b"question").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let packets = machine.packets();
    let seen: Vec<_> = packets.iter().map(|(h, data)| (h.op, h.flags, &data[..])).collect();
    assert_eq!(seen, [(op::RW, 0, &b"question"[..]), (op::SHUTDOWN, ends::SEND, b"")]);
    machine.send(header(op::RW), b"answer");
    assert_eq!(read_now(&mut stream), b"answer");
    // Then the guest closes, and that is confirmed.
    machine.send(Header { flags: ends::BOTH, ..header(op::SHUTDOWN) }, &[]);
    assert_eq!(machine.ops(), [op::RST]);
    assert!(is_lost(&mut stream));
}

#[test]
fn guest_that_reads_no_more_ends_the_hosts_writing() {
    let mut machine = Machine::new();
    let mut stream = machine.connected();
    machine.send(Header { flags: ends::RECEIVE, ..header(op::SHUTDOWN) }, &[]);
    assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    machine.send(header(op::RW), b"still talking");
    assert_eq!(read_now(&mut stream), b"still talking");
    drop(stream);
    let packets = machine.packets();
    assert_eq!((packets.len(), packets[0].0.op, packets[0].0.flags), (1, op::SHUTDOWN, ends::BOTH));
}

/// Section 5.10.6.6.2: the guest has time to answer, and no more.
#[test]
fn guest_that_does_not_confirm_the_end_is_reset_in_time() {
    let mut machine = Machine::impatient();
    drop(machine.connected());
    assert_eq!(machine.ops(), [op::SHUTDOWN]);
    let begun = Instant::now();
    while machine.ops() != [op::RST] {
        assert!(begun.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(5));
    }
    machine.send_op(op::RW);
    machine.assert_reset("it is forgotten");
}

/// What the guest sent before it closed reaches a host program that reads slowly.
#[test]
fn closing_loses_nothing_the_host_has_not_read_yet() {
    let mut machine = Machine::new();
    let mut stream = machine.connected();
    let mut guest = flow::Guest::new(header(op::RW));
    let mut sent = Vec::new();
    while let Some(part) = guest.send(&mut machine, 5000) {
        sent.extend(part);
    }
    assert!(sent.len() > 64 << 10);
    machine.send(Header { flags: ends::BOTH, ..header(op::SHUTDOWN) }, &[]);
    assert_eq!(machine.ops(), [op::RST]);
    // The same ports serve another connection meanwhile.
    let mut other = machine.connected();
    machine.send(header(op::RW), b"other");
    assert_eq!(read_now(&mut other), b"other");
    let mut got = Vec::new();
    while got.len() < sent.len() {
        got.extend(read_now(&mut stream));
        machine.driver.run_backend();
    }
    assert!(got == sent);
    assert!(is_ended(&mut stream));
}

/// V1: nothing of it reaches the host.
#[test]
fn packet_that_is_not_as_long_as_it_says_ends_its_connection() {
    for (len, parts) in
        [(1, &[44][..]), (101, &[44, 100]), (u32::MAX, &[44, 100]), (u32::MAX - 43, &[20, 24, 100])]
    {
        for op in [op::RW, op::CREDIT_UPDATE, op::RESPONSE] {
            let mut machine = Machine::new();
            let mut stream = machine.connected();
            machine.send_raw(&Header { len, ..header(op) }.bytes(), parts);
            machine.assert_reset("it is not whole");
            assert_eq!(machine.counters.malformed.get(), 1);
            assert_eq!(read_now(&mut stream), b"");
            assert!(is_lost(&mut stream));
            // The same without a connection.
            let _service = machine.serve(SERVED);
            machine.send_raw(&Header { len, ..header(op::REQUEST) }.bytes(), parts);
            machine.assert_reset("it is not whole");
        }
    }
}

/// V1.
#[test]
fn packet_without_a_whole_header_is_dropped() {
    let mut machine = Machine::new();
    let mut stream = machine.connected();
    for parts in [&[43][..], &[1], &[10, 10, 10]] {
        machine.send_raw(&header(op::RST).bytes(), parts);
    }
    machine.driver.chain(TX, &[(DATA, 44, WRITE)]);
    machine.driver.kick(TX);
    assert_eq!(machine.driver.used(TX).len(), 5, "the first asked for the connection");
    assert_eq!((machine.ops().len(), machine.counters.malformed.get()), (0, 4));
    machine.send(header(op::RW), b"x");
    assert_eq!(read_now(&mut stream), b"x");
}

/// V1.
#[test]
fn packet_in_any_number_of_parts_is_one_packet() {
    let mut machine = Machine::new();
    let mut stream = machine.connected();
    let bytes = [&Header { len: 60, ..header(op::RW) }.bytes()[..], &[7; 60], &[9; 100]].concat();
    let bits = [vec![1; 60], vec![44]].concat();
    for lens in [vec![44, 60], vec![104], bits, vec![43, 1, 59, 1], vec![20, 24, 160]] {
        machine.send_raw(&bytes, &lens);
        assert_eq!(read_now(&mut stream), [7; 60]);
    }
    assert_eq!(machine.counters.tx_bytes.get(), 300);
}

/// V1.
#[test]
fn receive_buffers_without_room_break_the_device_until_reset() {
    for parts in [&[(DATA, 44, WRITE)][..], &[(DATA, 99, 0)], &[(DATA, 44, 0), (DATA, 99, WRITE)]] {
        let mut machine = Machine::stingy();
        machine.driver.chain(RX, parts);
        machine.driver.kick(RX);
        assert!(machine.driver.needs_reset(), "{parts:?}");
        machine.generous = true;
        machine.start();
        assert!(machine.works());
    }
}

#[test]
fn receive_buffers_of_any_shape_take_data_behind_a_header() {
    for lens in [vec![45], vec![44, 1], vec![1; 45], vec![40, 5000], vec![3, 41, 2, 10]] {
        let mut machine = Machine::stingy();
        machine.generous = false;
        let mut at = DATA + 0x8000;
        let parts: Vec<_> = lens
            .iter()
            .map(|len| {
                at += u64::from(*len);
                (at - u64::from(*len), *len, WRITE)
            })
            .collect();
        let service = machine.serve(SERVED);
        machine.driver.chain(RX, &[(HIGH_START, ROOM, WRITE)]);
        machine.send_op(op::REQUEST);
        assert_eq!(machine.driver.used(RX).len(), 1);
        service.accept().unwrap().0.write_all(&[5; 8000]).unwrap();
        machine.driver.chain(RX, &parts);
        machine.driver.kick(RX);
        machine.driver.run_backend();
        let total: u32 = lens.iter().sum();
        assert_eq!(machine.driver.used(RX).last().map(|used| used.1), Some(total));
        let bytes = machine.driver.peek(DATA + 0x8000, usize::try_from(total).unwrap());
        let (header, data) = bytes.split_first_chunk().unwrap();
        assert_eq!(Header::parse(header).len, total - 44);
        assert!(data.iter().all(|byte| *byte == 5));
    }
}

/// V2: see also what is done to the queues of every device.
#[test]
fn data_outside_memory_breaks_the_device_until_reset() {
    let rings = crate::devices::virtio::testing::default_rings(TX);
    let mut machine = Machine::new();
    for (addr, len, broken) in [
        (LOW_END, 16, true),
        (LOW_END - 8, 16, true),
        (HIGH_END, 16, true),
        (0xd000_0000, 16, true),
        (u64::MAX - 7, 16, true),
        (rings.used, 16, false),
    ] {
        let mut stream = machine.connected();
        machine.driver.poke(DATA, &Header { len: 16, ..header(op::RW) }.bytes());
        machine.driver.chain(TX, &[(DATA, 44, 0), (addr, len, 0)]);
        machine.driver.kick(TX);
        assert_eq!(machine.driver.needs_reset(), broken, "{addr:#x}");
        let got = read_now(&mut stream).len();
        assert_eq!(got, if broken { 0 } else { 16 }, "{addr:#x}");
        machine.start();
        assert!(machine.works());
    }
}

/// V3: the length is looked at once. Whatever a second processor makes of it meanwhile, it counts
/// as one of the values it had.
#[test]
fn header_changed_while_it_is_read_counts_as_it_was_at_one_moment() {
    const FLIPPED: u64 = DATA + 0x2_0000;
    const LENGTHS: [u32; 4] = [8, 0, 0x0100_0000, 1];
    let mut machine = Machine::new();
    let mut stream = machine.connected();
    machine.driver.poke(FLIPPED, &header(op::RW).bytes());
    let (mem, stop) = (machine.driver.mem.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let flipper = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            for len in LENGTHS {
                mem.write_obj(len, GuestAddress(FLIPPED + 24)).unwrap();
            }
        }
    });
    let (mut seen, mut cut) = (std::collections::BTreeSet::new(), 0);
    for _ in 0..5000 {
        machine.driver.chain(TX, &[(FLIPPED, 44, 0), (DATA + 0x1000, 8, 0)]);
        machine.driver.kick(TX);
        let got = read_now(&mut stream).len();
        match machine.ops()[..] {
            [op::RST] => {
                assert_eq!(got, 0);
                cut += 1;
                stream = machine.connected();
            }
            [] | [op::CREDIT_UPDATE] => drop(seen.insert(got)),
            ref ops => panic!("{ops:?}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    flipper.join().unwrap();
    assert!(cut > 0 && seen.iter().eq(&[0, 1, 8]), "{cut} {seen:?}");
    assert!(!machine.driver.needs_reset());
}

/// V4.
#[test]
fn packets_from_or_to_another_address_are_dropped() {
    let mut machine = Machine::new();
    let mut stream = machine.connected();
    let (own, host) = (u64::from(CID), 2);
    for (src_cid, dst_cid) in [
        (host, host),
        (own + 1, host),
        (0, host),
        (1, host),
        (u64::from(u32::MAX), host),
        (own | 1 << 32, host),
        (own, own),
        (own, own + 1),
        (own, 0),
        (own, 1),
        (own, u64::from(u32::MAX)),
        (own, host | 1 << 63),
        (host, own),
    ] {
        let before = machine.counters.dropped_foreign.get();
        for op in 0..9 {
            machine.send(Header { src_cid, dst_cid, ..header(op) }, b"x");
        }
        assert_eq!(machine.ops(), NONE, "{src_cid} to {dst_cid}");
        assert_eq!(machine.counters.dropped_foreign.get(), before + 9);
    }
    assert_eq!(read_now(&mut stream), b"");
    machine.send(header(op::RW), b"x");
    assert_eq!(read_now(&mut stream), b"x");
}

/// V8, section 5.10.6.4.2.
#[test]
fn packets_of_another_type_are_answered_with_a_reset_of_that_type() {
    let mut machine = Machine::new();
    let mut stream = machine.connected();
    for kind in [0, 2, 3, 0xffff] {
        for op in [op::REQUEST, op::RW, op::RST] {
            machine.send(Header { kind, ..header(op) }, b"x");
            let packets = machine.packets();
            let expected = usize::from(op != op::RST);
            assert_eq!(packets.len(), expected);
            assert!(packets.iter().all(|(h, _)| (h.op, h.kind) == (op::RST, kind)));
        }
    }
    machine.send(header(op::RW), b"x");
    assert_eq!(read_now(&mut stream), b"x");
}

/// V8: packets of no connection.
#[test]
fn packets_out_of_the_blue_are_answered_with_a_reset() {
    let mut machine = Machine::new();
    for op in (0..10).chain([0xff, u16::MAX]).filter(|op| ![op::REQUEST, op::RST].contains(op)) {
        for flags in [0, ends::SEND, ends::BOTH, u32::MAX] {
            machine.send(Header { flags, ..header(op) }, &[0; 10]);
            let packets = machine.packets();
            let [(reset, _)] = packets[..] else { panic!("{op}: {packets:?}") };
            assert_eq!((reset.op, reset.src_port, reset.dst_port), (op::RST, SERVED, PORT));
        }
    }
    machine.send_op(op::RST);
    assert_eq!(machine.ops(), NONE);
}

/// V8: each of these ends the connection it is about.
#[test]
fn packets_out_of_order_end_their_connection() {
    let mut machine = Machine::new();
    for packets in [
        &[(op::REQUEST, 0)][..],
        &[(op::RESPONSE, 0)],
        &[(0, 0)],
        &[(8, 0)],
        &[(u16::MAX, 0)],
        &[(op::SHUTDOWN, ends::SEND), (op::RW, 0)],
        &[(op::SHUTDOWN, ends::SEND), (op::SHUTDOWN, ends::RECEIVE)],
        &[(op::SHUTDOWN, u32::MAX)],
    ] {
        let mut stream = machine.connected();
        for (op, flags) in packets {
            machine.send(Header { flags: *flags, ..header(*op) }, b"x");
        }
        machine.assert_reset(&format!("{packets:?}"));
        assert_eq!(read_now(&mut stream), b"");
        assert!(is_lost(&mut stream), "{packets:?}");
        machine.send(header(op::RW), b"after the end");
        machine.assert_reset("it is forgotten");
        machine.send_op(op::RST);
    }
    assert!(machine.works());
}

/// V8: before the guest has answered a request, an answer is all it may send.
#[test]
fn packets_before_the_answer_end_the_request() {
    for op in [op::REQUEST, op::SHUTDOWN, op::RW, op::CREDIT_UPDATE, op::CREDIT_REQUEST, 0, 77] {
        let mut machine = Machine::new();
        let (mut program, request) = machine.calling();
        machine.send(Header { op, flags: ends::BOTH, ..answer(&request) }, &[]);
        machine.assert_reset(&op.to_string());
        assert!(is_lost(&mut program));
    }
    let mut machine = Machine::new();
    let (mut program, header) = machine.called();
    machine.send(Header { op: op::RESPONSE, ..header }, &[]);
    machine.assert_reset("two answers");
    assert!(is_lost(&mut program));
}

/// V8.
#[test]
fn port_that_stands_for_any_is_nobodys() {
    let mut machine = Machine::new();
    let _service = machine.serve(u32::MAX);
    machine.send(Header { dst_port: u32::MAX, ..header(op::REQUEST) }, &[]);
    machine.assert_reset("to any port");
    let _service = machine.serve(SERVED);
    machine.send(Header { src_port: u32::MAX, ..header(op::REQUEST) }, &[]);
    machine.assert_reset("from any port");
    // Port 0 is one like any other.
    let service = machine.serve(0);
    machine.send(Header { src_port: 0, dst_port: 0, ..header(op::REQUEST) }, &[]);
    assert_eq!(machine.ops(), [op::RESPONSE]);
    service.accept().unwrap();
}

/// V10.
#[test]
fn port_without_a_service_is_refused() {
    let mut machine = Machine::new();
    machine.send_op(op::REQUEST);
    machine.assert_reset("no socket");
    drop(machine.serve(SERVED));
    machine.send_op(op::REQUEST);
    machine.assert_reset("nobody listens");
    std::fs::remove_file(machine.path(SERVED)).unwrap();
    std::fs::write(machine.path(SERVED), b"").unwrap();
    machine.send_op(op::REQUEST);
    machine.assert_reset("a file");
    std::fs::remove_file(machine.path(SERVED)).unwrap();
    std::fs::create_dir(machine.path(SERVED)).unwrap();
    machine.send_op(op::REQUEST);
    machine.assert_reset("a directory");
    assert_eq!(machine.counters.refused.get(), 4);
    std::fs::remove_dir(machine.path(SERVED)).unwrap();
    assert!(machine.works());
}

/// V6: so many and no more; the rest is refused, and there is room again afterwards.
#[test]
fn flood_of_connections_is_refused_beyond_the_limit() {
    const MOST: u16 = 300;
    const FIRST: u32 = 5000;
    let mut machine = Machine::with_limits(Limits { sockets: MOST, ..LIMITS });
    let service = machine.serve(SERVED);
    let mut streams = Vec::new();
    for port in 0..10_000 {
        machine.send(Header { src_port: FIRST + port, ..header(op::REQUEST) }, &[]);
        if port < MOST.into() {
            let packets = machine.packets();
            let [(response, _)] = packets[..] else { panic!("{port}: {packets:?}") };
            // All that such a guest could have kept is bounded far below 64 KiB for each.
            let room = if port < 128 { 64 << 10 } else { 4 << 10 };
            assert_eq!((response.op, response.buf_alloc), (op::RESPONSE, room), "{port}");
            streams.push(service.accept().unwrap().0);
        } else {
            machine.assert_reset("no more room");
        }
    }
    assert_eq!(machine.counters.connections.get(), u64::from(MOST));
    assert_eq!(machine.counters.refused.get(), 10_000 - u64::from(MOST));
    // Nor is there for host programs.
    assert!(machine.program_is_refused());
    let lost = streams.pop().unwrap();
    drop(lost);
    assert_eq!(machine.ops(), [op::SHUTDOWN]);
    let src_port = FIRST + u32::from(MOST) - 1;
    machine.send(Header { src_port, ..header(op::RST) }, &[]);
    std::fs::remove_file(machine.path(SERVED)).unwrap();
    assert!(machine.works());
}

/// V7: what the host sends waits in its own socket, and nobody spins meanwhile.
#[test]
fn host_program_waits_while_the_guest_gives_no_buffers() {
    let mut machine = Machine::stingy();
    let service = machine.serve(SERVED);
    machine.driver.chain(RX, &[(buffer_at(0), ROOM, WRITE)]);
    machine.send_op(op::REQUEST);
    assert_eq!(machine.driver.used(RX).len(), 1);
    let mut stream = service.accept().unwrap().0;
    stream.set_nonblocking(true).unwrap();
    let bytes: Vec<u8> = (0..=250).cycle().take(8 << 20).collect();
    let mut written = 0;
    while let Ok(len) = stream.write(&bytes[written..]) {
        written += len;
        machine.driver.run_backend();
    }
    assert!((1 << 12..1 << 20).contains(&written), "{written}");
    assert_eq!(machine.driver.run_backend(), 0, "nothing to wait for without buffers");
    assert_eq!(machine.driver.run_backend(), 0);
    machine.generous = true;
    (0..SIZE).for_each(|_| machine.post());
    machine.driver.kick(RX);
    let mut got = Vec::new();
    while got.len() < written {
        got.extend(machine.packets().into_iter().flat_map(|(_, data)| data));
    }
    assert!(got == bytes[..written]);
    assert!(stream.write(&bytes).is_ok());
}

/// V7: a guest that takes no answers is not listened to, and its packets are not lost.
#[test]
fn guest_that_takes_no_answers_is_answered_once_it_does() {
    let mut machine = Machine::stingy();
    let mut sent = 0;
    for _ in 0..20 {
        for _ in 0..SIZE / 2 {
            machine.driver.poke(DATA, &header(op::RW).bytes());
            machine.driver.chain(TX, &[(DATA, 44, 0)]);
            sent += 1;
        }
        machine.driver.kick(TX);
        if machine.driver.used(TX).len() < usize::from(SIZE / 2) {
            break;
        }
    }
    assert!((256..=256 + u64::from(SIZE)).contains(&sent), "{sent}");
    assert_eq!(machine.counters.tx_packets.get(), 256);
    machine.driver.run_backend();
    assert_eq!(machine.driver.run_backend(), 0, "no spin");
    machine.generous = true;
    (0..SIZE).for_each(|_| machine.post());
    machine.driver.kick(RX);
    let mut answers = 0;
    while answers < sent {
        let packets = machine.ops();
        assert!(!packets.is_empty(), "{answers} of {sent}");
        answers += u64::try_from(packets.len()).unwrap();
    }
    assert_eq!(answers, sent);
}

#[test]
fn reset_of_the_driver_ends_every_connection() {
    let mut machine = Machine::new();
    let mut guest = machine.connected();
    let (mut host, _) = machine.called();
    let (mut half, _) = machine.calling();
    let mut young = machine.program();
    machine.driver.run_backend();
    machine.start();
    assert!(is_lost(&mut guest) && is_lost(&mut host) && is_lost(&mut half));
    assert!(is_lost(&mut young));
    assert!(machine.works());
}

/// Pause and snapshot: the buffer taken and not used goes back.
#[test]
fn deactivated_device_gives_its_buffer_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::stingy();
    let mut vsock = Vsock::open(CID, &dir.path().join("vsock")).unwrap();
    let heads: Vec<_> =
        (0..3).map(|n| machine.driver.chain(RX, &[(buffer_at(n), ROOM, WRITE)])).collect();
    let mut queues: Vec<_> = [RX, TX, EVENTS].map(|queue| machine.driver.live_queue(queue)).into();
    for head in heads {
        machine.driver.poke(DATA, &header(op::RW).bytes());
        machine.driver.chain(TX, &[(DATA, 44, 0)]);
        let signal = crate::devices::virtio::testing::Counter::default();
        vsock.activate(Activation {
            mem: machine.driver.mem.clone(),
            queues,
            features: 0,
            signal: Arc::new(super::super::Signal::new(Box::new(signal))),
            throttles: crate::devices::virtio::throttle::Throttles::default(),
        });
        vsock.process_queue(RX).unwrap();
        vsock.process_queue(TX).unwrap();
        assert_eq!(machine.driver.used(RX), [(head, 44)]);
        vsock.process_queue(RX).unwrap();
        queues = vsock.deactivate().unwrap();
        assert!(vsock.deactivate().is_none());
    }
}

/// The event queue exists, takes anything and gives nothing.
#[test]
fn event_queue_is_left_alone() {
    let mut machine = Machine::new();
    machine.driver.chain(EVENTS, &[(DATA, 4, WRITE)]);
    machine.driver.offer(EVENTS, 0xffff);
    machine.driver.kick(EVENTS);
    assert_eq!(machine.driver.used(EVENTS), []);
    assert!(machine.works());
}

#[test]
fn batch_of_packets_is_announced_with_one_interrupt() {
    let mut machine = Machine::new();
    machine.driver.start(F_INDIRECT_DESC);
    (0..SIZE).for_each(|_| machine.post());
    machine.driver.kick(RX);
    for _ in 0..20 {
        machine.driver.poke(DATA, &header(op::RW).bytes());
        machine.driver.chain(TX, &[(DATA, 44, 0)]);
    }
    machine.driver.interrupts();
    machine.driver.kick(TX);
    assert_eq!((machine.driver.used(TX).len(), machine.driver.used(RX).len()), (20, 20));
    assert_eq!(machine.driver.interrupts(), 2);
}
