//! Packets of a hostile guest to the socket device, and host programs that do not answer.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::spawn;

use support::driver::{Device, F_VERSION_1, Outcome, place};
use support::ring::{Desc, Ring, chained};
use support::script::{Script, Slot, Width};
use support::subject::{BUFFER, Everything, RING, SPARE, Subject, VSOCK, Works};
use support::vmm::Vmm;

/// A port nobody writes to, and one whose service writes 1000 bytes and then reads nothing.
const SILENT: u32 = 52;
const WRITER: u32 = 53;

const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RST: u16 = 3;
const SHUTDOWN: u16 = 4;
const RW: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
const STREAM: u16 = 1;

/// Buffers for answers: how many, how far apart, and bytes of each.
const ANSWERS: u16 = 64;
const APART: u64 = 256;
const ROOM: u32 = 44 + 200;
/// Where they and what the guest sends lie.
const RECEIVED: u64 = BUFFER + 0x1_0000;
const SENT: u64 = BUFFER + 0x2_0000;

/// A packet of the guest: its header, and how many bytes of data are behind it.
#[derive(Clone, Copy)]
struct Packet {
    cids: [u64; 2],
    ports: [u32; 2],
    len: u32,
    kind: u16,
    op: u16,
    flags: u32,
    credit: [u32; 2],
    behind: u32,
}

impl Packet {
    fn new(op: u16) -> Self {
        Self {
            cids: [3, 2],
            ports: [1025, SILENT],
            len: 0,
            kind: STREAM,
            op,
            flags: 0,
            credit: [1 << 18, 0],
            behind: 0,
        }
    }

    fn with_data(len: u32, behind: u32) -> Self {
        Self { len, behind, ..Self::new(RW) }
    }

    fn to(self, port: u32) -> Self {
        Self { ports: [1025, port], ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.cids.iter().for_each(|cid| bytes.extend(cid.to_le_bytes()));
        self.ports.iter().for_each(|port| bytes.extend(port.to_le_bytes()));
        bytes.extend(self.len.to_le_bytes());
        [self.kind, self.op].iter().for_each(|half| bytes.extend(half.to_le_bytes()));
        bytes.extend(self.flags.to_le_bytes());
        self.credit.iter().for_each(|count| bytes.extend(count.to_le_bytes()));
        bytes
    }

    /// The parts of a chain whose header is at `at`.
    fn parts(&self, at: u64) -> Vec<Desc> {
        let mut parts = vec![Desc::readable(at, 44)];
        parts.extend((self.behind > 0).then(|| Desc::readable(SPARE, self.behind)));
        parts
    }
}

/// Chains sent one after the other, with the operations that each is answered by.
struct Case {
    what: String,
    steps: Vec<(Vec<u8>, Vec<u32>, Vec<u16>)>,
}

impl Case {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), steps: Vec::new() }
    }

    fn then(mut self, packet: Packet, answers: &[u16]) -> Self {
        let lens = [Some(44), (packet.behind > 0).then_some(packet.behind)];
        self.steps.push((packet.bytes(), lens.into_iter().flatten().collect(), answers.to_vec()));
        self
    }

    /// A chain of parts of `lens` that begins with `bytes`.
    fn then_raw(mut self, bytes: Vec<u8>, lens: Vec<u32>, answers: &[u16]) -> Self {
        self.steps.push((bytes, lens, answers.to_vec()));
        self
    }

    /// A connection to the service that is silent.
    fn connected(what: &str) -> Self {
        Self::new(what).then(Packet::new(REQUEST), &[RESPONSE])
    }

    fn perform(self, script: &mut Script) -> Performed {
        let (sent, received) = (Ring::at(RING, 64), start(script, &VSOCK, ROOM));
        let mut answered = 0;
        for (number, (bytes, lens, answers)) in (1..).zip(&self.steps) {
            script.copy(SENT, bytes);
            let mut at = SENT;
            let parts: Vec<Desc> = lens
                .iter()
                .map(|len| {
                    at += u64::from(*len);
                    Desc::readable(at - u64::from(*len), *len)
                })
                .collect();
            script.copy(sent.desc, &support::ring::table(&chained(&parts)));
            script.write(Width::B2, sent.avail + 2, number);
            VSOCK.kick(script);
            VSOCK.device.await_used(script, &sent, number as u16);
            answered += answers.len() as u16;
            VSOCK.device.await_used(script, &received, answered);
        }
        // Time for an answer too much.
        let outcome = VSOCK.device.settle_briefly(script, &received, answered + 1);
        let headers: Vec<Slot> =
            (0..u64::from(answered)).map(|n| script.dump(RECEIVED + n * APART, 6)).collect();
        Performed { case: self, outcome, headers, works: VSOCK.works(script) }
    }
}

struct Performed {
    case: Case,
    outcome: Outcome,
    headers: Vec<Slot>,
    works: Works,
}

impl Performed {
    #[track_caller]
    fn expect(&self, output: &[u8]) {
        let what = &self.case.what;
        let wanted: Vec<u16> =
            self.case.steps.iter().flat_map(|(_, _, answers)| answers).copied().collect();
        self.outcome.state(output).expect_returned(wanted.len() as u16, what);
        let ops: Vec<u16> = self.headers.iter().map(|slot| half(slot, output, 30)).collect();
        assert_eq!(ops, wanted, "{what}");
        self.works.expect(output, what);
    }
}

fn half(header: &Slot, output: &[u8], at: usize) -> u16 {
    let bytes = header.bytes(output);
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Brings the device to work with both queues: what the guest sends is chain 0 each time, at
/// [`RING`], and there are buffers of `room` bytes for [`ANSWERS`], whose ring is returned.
fn start(script: &mut Script, subject: &Subject, room: u32) -> Ring {
    let (sent, received) = (Ring::at(RING, 64), Ring::at(RING + 0x8000, ANSWERS));
    let buffers: Vec<Desc> =
        (0..ANSWERS.into()).map(|n| Desc::writable(RECEIVED + n * APART, room)).collect();
    let all: Vec<u16> = (0..ANSWERS).collect();
    place(script, &received.contents().descriptors(0, &buffers).available(&all));
    place(script, &sent.contents());
    subject.device.negotiate(script, F_VERSION_1);
    subject.device.set_queue(script, 0, &received);
    subject.device.set_queue(script, 1, &sent);
    subject.device.driver_ok(script);
    received
}

fn service(socket: &Path, port: u32) -> UnixListener {
    UnixListener::bind(format!("{}_{port}", socket.display())).unwrap()
}

/// Performs `cases` in one machine, beside the two services.
fn perform(cases: Vec<Case>) {
    let mut script = Script::new();
    let performed: Vec<Performed> =
        cases.into_iter().map(|case| case.perform(&mut script)).collect();
    let everything = Everything::new();
    let _silent = service(&everything.socket(), SILENT);
    let writer = service(&everything.socket(), WRITER);
    spawn(move || {
        let mut open = Vec::new();
        for stream in writer.incoming() {
            let mut stream = stream.unwrap();
            // A guest may be gone already.
            let _ = stream.write_all(&[7; 1000]);
            open.push(stream);
        }
    });
    let end = everything.vmm(&script.then_reset()).run().expect(0);
    performed.iter().for_each(|case| case.expect(&end.stdout));
}

/// V1: packets that are not as long as they say, and in unusual parts.
#[test]
fn packets_of_any_length_and_form_harm_their_connection_alone() {
    let data = |len, behind| Packet::with_data(len, behind);
    let request = Packet::new(REQUEST).bytes();
    let mut cases = vec![
        Case::connected("as long as it says").then(data(100, 100), &[]),
        Case::connected("longer than it says").then(data(4, 100), &[]),
        Case::connected("a byte short").then(data(101, 100), &[RST]).then(data(0, 0), &[RST]),
        Case::connected("4 GiB").then(data(u32::MAX, 100), &[RST]),
        Case::connected("4 GiB without data").then(data(u32::MAX - 43, 0), &[RST]),
        Case::new("a request for 4 GiB")
            .then(Packet { len: u32::MAX, ..Packet::new(REQUEST) }, &[RST]),
        Case::new("a header in single bytes").then_raw(request.clone(), vec![1; 44], &[RESPONSE]),
        Case::new("a header in two").then_raw(request.clone(), vec![43, 1], &[RESPONSE]),
    ];
    for len in [1, 24, 43] {
        cases.push(Case::new(format!("{len} bytes")).then_raw(request.clone(), vec![len], &[]));
    }
    perform(cases);
}

/// V1: a buffer for answers without room behind the header.
#[test]
fn buffer_without_room_for_data_breaks_the_device() {
    let mut script = Script::new();
    let received = start(&mut script, &VSOCK, 44);
    VSOCK.device.kick(&mut script, 0);
    let outcome = VSOCK.device.settle(&mut script, &received, u16::MAX);
    let works = VSOCK.works(&mut script);
    let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
    outcome.state(&end.stdout).expect_broken("no room");
    works.expect(&end.stdout, "no room");
}

/// V4.
#[test]
fn packets_that_claim_other_addresses_are_dropped() {
    let addresses = [0, 1, 2, 4, u32::MAX.into(), 3 | 1 << 32, u64::MAX];
    let from = addresses.map(|cid| [cid, 2]);
    let to = [0, 1, 3, 4, u32::MAX.into(), 2 | 1 << 32, u64::MAX].map(|cid| [3, cid]);
    let cases = from.into_iter().chain(to).map(|cids| {
        Case::connected(&format!("from and to {cids:x?}"))
            .then(Packet { cids, ports: [1026, SILENT], ..Packet::new(REQUEST) }, &[])
            .then(Packet { cids, ..Packet::new(RST) }, &[])
            .then(Packet { cids, ..Packet::new(99) }, &[])
            // The connection did not notice.
            .then(Packet::with_data(8, 8), &[])
    });
    perform(cases.collect());
}

/// V5: the guest says what it has room for, and lies.
#[test]
fn credit_that_lies_gets_no_more_than_the_room_it_names() {
    let asks = |credit| Packet { credit, ..Packet::new(REQUEST).to(WRITER) };
    let says = |credit| Packet { credit, ..Packet::new(CREDIT_UPDATE).to(WRITER) };
    // What comes is as long as the buffer at most: 1000 bytes are five packets.
    let all = [RW; 5];
    let and = |first: u16, rest: &[u16]| [&[first], rest].concat();
    perform(vec![
        Case::new("no room").then(asks([0, 0]), &[RESPONSE]).then(says([0, u32::MAX]), &[]),
        Case::new("room").then(asks([u32::MAX, 0]), &and(RESPONSE, &all)),
        // More taken than was ever sent.
        Case::new("the future")
            .then(asks([100, 1]), &[RESPONSE])
            .then(says([100, u32::MAX]), &[RW]),
        Case::new("it shrinks")
            .then(asks([100, 0]), &and(RESPONSE, &[RW]))
            .then(says([10, 0]), &[])
            .then(says([99, 0]), &[])
            .then(says([150, 100]), &[RW]),
        Case::new("4 GiB, all of it full").then(asks([u32::MAX, 1]), &[RESPONSE]),
    ]);
}

/// V8.
#[test]
fn packets_nobody_waits_for_are_answered_with_a_reset() {
    let op = Packet::new;
    let both = Packet { flags: 3, ..op(SHUTDOWN) };
    let mut cases = vec![
        Case::connected("a request twice").then(op(REQUEST), &[RST]).then(op(REQUEST), &[RESPONSE]),
        Case::connected("a response").then(op(RESPONSE), &[RST]),
        Case::connected("data after the end")
            .then(both, &[RST])
            .then(Packet::with_data(8, 8), &[RST]),
        Case::connected("data after a reset")
            .then(op(RST), &[])
            .then(Packet::with_data(8, 8), &[RST]),
        Case::connected("data after half an end")
            .then(Packet { flags: 2, ..op(SHUTDOWN) }, &[])
            .then(Packet::with_data(8, 8), &[RST]),
        Case::connected("unknown flags").then(Packet { flags: !3, ..op(SHUTDOWN) }, &[]),
        Case::new("a reset of nothing").then(op(RST), &[]),
        Case::new("another type").then(Packet { kind: 2, ..op(REQUEST) }, &[RST]),
        Case::new("no type").then(Packet { kind: 0, ..op(RW) }, &[RST]),
    ];
    for unasked in [0, RESPONSE, SHUTDOWN, RW, CREDIT_UPDATE, 7, 8, 99, u16::MAX] {
        cases.push(Case::new(format!("{unasked} unasked")).then(op(unasked), &[RST]));
    }
    for unknown in [0, 8, 99, u16::MAX] {
        cases.push(Case::connected(&format!("{unknown} amid")).then(op(unknown), &[RST]));
    }
    for ports in [[1025, 0], [1025, u32::MAX], [u32::MAX, SILENT], [u32::MAX, u32::MAX]] {
        cases.push(Case::new(format!("{ports:?}")).then(Packet { ports, ..op(REQUEST) }, &[RST]));
    }
    cases.push(
        Case::new("from port 0").then(Packet { ports: [0, SILENT], ..op(REQUEST) }, &[RESPONSE]),
    );
    perform(cases);
}

/// The socket device of a machine that has nothing before it but the entropy source.
const ALONE: Subject = Subject { device: Device::nth(1), ..VSOCK };

/// V10: services that are not there, do not listen, are no sockets, or belong to somebody else: the
/// monitor has no more rights than the user it runs as.
#[test]
fn services_that_are_missing_or_somebody_elses_are_refused() {
    const NOBODY: u32 = 65534;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("vsock");
    let at = |port: u32| PathBuf::from(format!("{}_{port}", socket.display()));
    drop(service(&socket, 61));
    fs::write(at(62), b"").unwrap();
    fs::create_dir(at(63)).unwrap();
    // Another user's, by its mode; and in a directory that is closed.
    let others = [service(&socket, 64), UnixListener::bind(directory.path().join("s")).unwrap()];
    fs::set_permissions(at(64), Permissions::from_mode(0o600)).unwrap();
    chown(at(64), Some(NOBODY), Some(NOBODY)).unwrap();
    let closed = directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::rename(directory.path().join("s"), closed.join("s")).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    chown(&closed, Some(NOBODY), Some(NOBODY)).unwrap();
    symlink(closed.join("s"), at(65)).unwrap();
    symlink("nowhere", at(66)).unwrap();
    let open = service(&socket, SILENT);

    let mut script = Script::new();
    let sent = Ring::at(RING, 64);
    let received = start(&mut script, &ALONE, ROOM);
    let ports: Vec<u32> = (60..=66).chain([SILENT]).collect();
    for (number, port) in (1..).zip(&ports) {
        let request = Packet::new(REQUEST).to(*port);
        script.copy(SENT, &request.bytes());
        script.copy(sent.desc, &support::ring::table(&request.parts(SENT)));
        script.write(Width::B2, sent.avail + 2, number);
        ALONE.kick(&mut script);
        ALONE.device.await_used(&mut script, &received, number as u16);
    }
    let outcome = ALONE.device.settle_briefly(&mut script, &received, u16::MAX);
    let headers: Vec<Slot> =
        (0..ports.len() as u64).map(|n| script.dump(RECEIVED + n * APART, 6)).collect();
    let no_privilege = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];
    let vsock = format!("cid=3,socket={}", socket.display());
    let vmm = Vmm::evil(&script.then_reset()).by(no_privilege).args(["--vsock", &vsock]);
    let end = vmm.run().expect(0);
    outcome.state(&end.stdout).expect_returned(ports.len() as u16, "requests");
    for (header, port) in headers.iter().zip(&ports) {
        let expected = if *port == SILENT { RESPONSE } else { RST };
        assert_eq!(half(header, &end.stdout, 30), expected, "port {port}");
    }
    // Nobody was there.
    for other in others {
        other.set_nonblocking(true).unwrap();
        assert!(other.accept().is_err());
    }
    open.accept().unwrap();
}

/// V5, V10, O3, O4: services never read, and the guest sends on without credit: each connection is
/// ended, the monitor keeps a bounded amount, and does not spin.
#[test]
fn guest_that_sends_to_services_that_never_read_is_cut_off() {
    const CONNECTIONS: u32 = 10;
    const SIZE: u16 = 256;
    let (sent, received) = (Ring::at(RING, SIZE), Ring::at(RING + 0x8000, ANSWERS));
    let mut script = Script::new();
    VSOCK.works(&mut script);
    script.pause();
    let before = script.results() - 1;
    start(&mut script, &VSOCK, ROOM);
    VSOCK.device.negotiate(&mut script, F_VERSION_1);
    VSOCK.device.set_queue(&mut script, 0, &received);
    VSOCK.device.set_queue(&mut script, 1, &sent);
    let mut table = Packet::new(REQUEST).parts(SENT);
    table.extend(chained(&Packet::with_data(32 << 10, 32 << 10).parts(SENT + 64)));
    table[1].next = 2;
    // A request, then 2 MiB of data.
    let heads: Vec<u16> = (0..SIZE).map(|n| u16::from(n % 64 != 0)).collect();
    place(&mut script, &sent.contents().descriptors(0, &table).available(&heads));
    script.write(Width::B2, sent.avail + 2, 0);
    VSOCK.device.driver_ok(&mut script);
    for connection in 0..CONNECTIONS {
        let ports = [2000 + connection, SILENT];
        script.copy(SENT, &Packet { ports, ..Packet::new(REQUEST) }.bytes());
        script.copy(SENT + 64, &Packet { ports, ..Packet::with_data(32 << 10, 32 << 10) }.bytes());
        let index = (connection as u16 + 1) * 64;
        script.forward(Width::B2, received.used_index(), received.avail + 2, ANSWERS.into());
        VSOCK.device.kick(&mut script, 0);
        script.write(Width::B2, sent.avail + 2, index.into());
        VSOCK.kick(&mut script);
        VSOCK.device.await_used(&mut script, &sent, index);
    }
    script.pause();
    let flooded = script.results() - 1;
    let works = VSOCK.works(&mut script);

    let everything = Everything::new();
    let service = service(&everything.socket(), SILENT);
    let metrics = everything.socket().with_file_name("metrics");
    let vmm = everything.vmm(&script.then_reset()).arg("--metrics").arg(&metrics);
    let mut machine = vmm.spawn();
    machine.wait_for_output(before);
    let memory = machine.overhead();
    machine.type_in(b"\n");
    machine.wait_for_output(flooded);
    let grown = machine.overhead().saturating_sub(memory);
    assert!(grown < 1 << 20, "grew by {grown} bytes");
    machine.assert_event_loop_becomes_idle();
    machine.type_in(b"\n");
    let end = machine.finish().expect(0);
    works.expect(&end.stdout, "the flood");
    let counters = fs::read_to_string(&metrics).unwrap();
    assert!(counters.contains(&format!("\"resets\":{CONNECTIONS}")), "{counters}");
    drop(service);
}
