//! Streams under random credit, buffers and readers; and random packets.

use proptest::prelude::*;

use super::super::credit::BUF_ALLOC;
use super::*;

/// The guest's end of a connection, that keeps to its credit.
pub(super) struct Guest {
    header: Header,
    /// What the host was last heard to keep and to have passed on.
    room: u32,
    forwarded: u32,
    sent: u32,
    received: u32,
    /// Whether the host has ended its stream.
    ended: bool,
}

impl Guest {
    /// The end of a new connection that sends packets of `header`.
    pub(super) fn new(header: Header) -> Self {
        Self { header, room: BUF_ALLOC, forwarded: 0, sent: 0, received: 0, ended: false }
    }

    /// Sends the next up to `most` bytes of a stream that counts, as far as credit reaches; `None`
    /// without any.
    pub(super) fn send(&mut self, machine: &mut Machine, most: u32) -> Option<Vec<u8>> {
        self.hear(machine);
        let free = self.room - self.sent.wrapping_sub(self.forwarded);
        let len = most.min(free);
        if len == 0 {
            return None;
        }
        let data = counting(self.sent, len);
        self.sent = self.sent.wrapping_add(len);
        machine.send(self.header, &data);
        Some(data)
    }

    /// Takes what the device has sent; returns the data.
    fn hear(&mut self, machine: &mut Machine) -> Vec<u8> {
        let mut got = Vec::new();
        for (header, data) in machine.packets() {
            assert_ne!(header.op, op::RST);
            (self.room, self.forwarded) = (header.buf_alloc, header.fwd_cnt);
            self.ended |= header.op == op::SHUTDOWN;
            got.extend(data);
        }
        self.received = self.received.wrapping_add(u32::try_from(got.len()).unwrap());
        got
    }

    /// Tells the device to have passed all on, with `room` for more.
    fn update(&mut self, machine: &mut Machine, room: u32) {
        (self.header.buf_alloc, self.header.fwd_cnt) = (room, self.received);
        machine.send(Header { op: op::CREDIT_UPDATE, ..self.header }, &[]);
    }
}

/// `len` bytes of a stream from its byte `start` on, no two neighbouring stretches of which are alike.
fn counting(start: u32, len: u32) -> Vec<u8> {
    (start..start.wrapping_add(len))
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0])
        .collect()
}

/// Reads at most `most` bytes of what is there.
fn read_some(stream: &mut UnixStream, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; most];
    let len = stream.read(&mut bytes).unwrap_or(0);
    bytes.truncate(len);
    bytes
}

/// V5: a guest that sends more than it was told it may is reset; up to there all is kept.
#[test]
fn data_beyond_the_credit_end_the_connection() {
    for beyond in [1, 4096, 65536] {
        let mut machine = Machine::new();
        let mut stream = machine.connected();
        let mut guest = Guest::new(header(op::RW));
        let mut sent = Vec::new();
        while let Some(part) = guest.send(&mut machine, 40_000) {
            sent.extend(part);
        }
        machine.send(header(op::RW), &vec![0; beyond]);
        machine.assert_reset("beyond");
        // What was accepted and not passed on yet is lost with the connection.
        let got = read_now(&mut stream);
        assert!(sent.starts_with(&got) && sent.len() - got.len() <= 256 << 10);
        assert!(is_lost(&mut stream));
    }
    let mut machine = Machine::new();
    let _stream = machine.connected();
    machine.send(header(op::RW), &vec![0; (256 << 10) + 1]);
    machine.assert_reset("more at once than there ever is");
}

/// V5: no data without credit, whatever sort of claim takes it away; and they flow again with it.
#[test]
fn guest_without_credit_is_sent_nothing() {
    for (room, forwarded) in [(0, 0), (1000, 0), (999, 0), (5, 0), (1000, 1001), (1000, u32::MAX)] {
        let mut machine = Machine::new();
        let service = machine.serve(SERVED);
        machine.send(Header { buf_alloc: 1000, ..header(op::REQUEST) }, &[]);
        assert_eq!(machine.ops(), [op::RESPONSE]);
        let mut stream = service.accept().unwrap().0;
        stream.write_all(&[1; 5000]).unwrap();
        let got: usize = machine.packets().iter().map(|(_, data)| data.len()).sum();
        assert_eq!(got, 1000);
        let claim = Header { buf_alloc: room, fwd_cnt: forwarded, ..header(op::CREDIT_UPDATE) };
        machine.send(claim, &[]);
        assert_eq!(machine.ops(), NONE, "{room} {forwarded}");
        assert_eq!(machine.driver.run_backend(), 0, "no spin");
        machine.send(Header { buf_alloc: 9000, fwd_cnt: 1000, ..header(op::CREDIT_UPDATE) }, &[]);
        let got: usize = machine.packets().iter().map(|(_, data)| data.len()).sum();
        assert_eq!(got, 4000);
    }
}

#[test]
fn guest_that_asks_is_told_its_credit() {
    let mut machine = Machine::new();
    let _stream = machine.connected();
    machine.send(header(op::RW), &[0; 100]);
    assert_eq!(machine.ops(), NONE, "no need to tell yet");
    machine.send_op(op::CREDIT_REQUEST);
    let packets = machine.packets();
    let [(update, _)] = packets[..] else { panic!("{packets:?}") };
    assert_eq!((update.op, update.buf_alloc, update.fwd_cnt), (op::CREDIT_UPDATE, BUF_ALLOC, 100));
}

/// V10: a program that never reads costs 256 KiB here, and the guest waits.
#[test]
fn host_program_that_never_reads_holds_the_guest_back() {
    let mut machine = Machine::new();
    let _stream = machine.connected();
    let mut guest = Guest::new(header(op::RW));
    let mut sent = 0;
    while let Some(part) = guest.send(&mut machine, 30_000) {
        sent += part.len();
        assert!(sent < 1 << 20);
    }
    assert!(sent > 256 << 10);
    assert_eq!(machine.driver.run_backend(), 0, "no spin");
    // Others are not held back.
    assert!(machine.works());
}

/// V9: a program that goes ends the connection, once; nothing is sent twice to anybody.
#[test]
fn host_program_that_goes_amid_the_data_ends_the_connection() {
    for (read, close) in [(0, false), (10_000, false), (0, true), (10_000, true)] {
        let mut machine = Machine::new();
        let mut stream = machine.connected();
        let mut guest = Guest::new(header(op::RW));
        let mut sent = Vec::new();
        while let Some(part) = guest.send(&mut machine, 50_000) {
            sent.extend(part);
        }
        let got = read_some(&mut stream, read);
        assert!(sent.starts_with(&got));
        if close {
            drop(stream);
        } else {
            stream.shutdown(std::net::Shutdown::Read).unwrap();
            machine.driver.run_backend();
            if machine.ops().is_empty() {
                machine.send(header(op::RW), b"x");
            }
        }
        let ops = machine.ops();
        assert!(ops.iter().filter(|op| **op == op::RST).count() <= 1, "{ops:?}");
        assert!(!machine.driver.needs_reset());
        assert!(machine.works());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// V9: from the guest to a host that reads as it likes, whatever sizes are sent.
    #[test]
    fn any_stream_to_the_host_arrives_whole_and_in_order(
        parts in prop::collection::vec((1u32..70_000, 0usize..200_000), 1..60),
    ) {
        let mut machine = Machine::new();
        let mut stream = machine.connected();
        let mut guest = Guest::new(header(op::RW));
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for (len, read) in parts {
            sent.extend(guest.send(&mut machine, len).unwrap_or_default());
            got.extend(read_some(&mut stream, read));
        }
        machine.send(Header { flags: ends::SEND, ..header(op::SHUTDOWN) }, &[]);
        while got.len() < sent.len() {
            // The last read may have made room for what is kept.
            machine.driver.run_backend();
            let some = read_some(&mut stream, 100_000);
            prop_assert!(!some.is_empty(), "{} of {}", got.len(), sent.len());
            got.extend(some);
        }
        machine.driver.run_backend();
        prop_assert!(got == sent);
        prop_assert!(is_ended(&mut stream));
        prop_assert_eq!(machine.counters.tx_bytes.get(), u64::try_from(sent.len()).unwrap());
    }

    /// V5, V7: from the host to a guest that gives credit and buffers as it likes.
    #[test]
    fn any_stream_to_the_guest_arrives_whole_in_order_and_within_its_credit(
        steps in prop::collection::vec((0usize..90_000, 0u32..50_000, any::<bool>()), 1..60),
    ) {
        let mut machine = Machine::new();
        let service = machine.serve(SERVED);
        let mut guest = Guest::new(Header { buf_alloc: 0, ..header(op::RW) });
        machine.send(Header { buf_alloc: 0, ..header(op::REQUEST) }, &[]);
        prop_assert_eq!(machine.ops(), [op::RESPONSE]);
        let mut stream = service.accept().unwrap().0;
        stream.set_nonblocking(true).unwrap();
        let (mut written, mut got, mut room) = (0u32, Vec::new(), 0u32);
        for (write, new_room, greedy) in steps {
            let data = counting(written, u32::try_from(write).unwrap());
            written += u32::try_from(stream.write(&data).unwrap_or(0)).unwrap();
            let before = got.len();
            got.extend(guest.hear(&mut machine));
            prop_assert!(got.len() - before <= usize::try_from(room).unwrap());
            room = room.saturating_sub(u32::try_from(got.len() - before).unwrap());
            if greedy {
                guest.update(&mut machine, new_room);
                room = new_room;
            }
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        while !guest.ended {
            guest.update(&mut machine, 10_000);
            got.extend(guest.hear(&mut machine));
        }
        prop_assert!(got == counting(0, written));
        prop_assert_eq!(machine.counters.rx_bytes.get(), u64::from(written));
    }
}

fn any_packet() -> impl Strategy<Value = (Header, usize)> {
    let op = prop_oneof![9 => 0u16..9, 1 => any::<u16>()];
    let port = prop_oneof![
        Just(SERVED),
        Just(SERVED + 1),
        Just(1 << 30),
        Just((1 << 30) + 1),
        Just(u32::MAX)
    ];
    let guest_port = prop_oneof![4 => PORT..PORT + 3, 1 => any::<u32>()];
    let number = || prop_oneof![Just(0u32), 0u32..100_000, Just(u32::MAX), any::<u32>()];
    let cid = prop_oneof![20 => Just(u64::from(CID)), 1 => any::<u64>()];
    let kind = prop_oneof![20 => Just(STREAM), 1 => any::<u16>()];
    let len = prop_oneof![3 => Just(0usize), 3 => 1usize..2000, 1 => 1usize..66_000];
    (op, port, guest_port, cid, kind, number(), number(), number(), len).prop_map(
        |(op, dst_port, src_port, src_cid, kind, flags, buf_alloc, fwd_cnt, len)| {
            let header = Header {
                src_cid,
                dst_port,
                src_port,
                kind,
                flags,
                buf_alloc,
                fwd_cnt,
                ..header(op)
            };
            (header, len)
        },
    )
}

/// What the host does between the guest's packets.
#[derive(Clone, Copy, Debug)]
enum Host {
    Nothing,
    Accept,
    Write(usize),
    Read(usize),
    Close,
    Call,
}

fn any_host() -> impl Strategy<Value = Host> {
    prop_oneof![
        4 => Just(Host::Nothing),
        2 => Just(Host::Accept),
        2 => (0usize..100_000).prop_map(Host::Write),
        2 => (0usize..100_000).prop_map(Host::Read),
        1 => Just(Host::Close),
        1 => Just(Host::Call),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// V5, V8: no sequence of sound packets breaks the device, and what it keeps is bounded.
    #[test]
    fn any_packets_leave_a_device_that_works_within_its_bounds(
        steps in prop::collection::vec((any_packet(), any_host()), 1..120),
        generous in any::<bool>(),
    ) {
        let mut machine = Machine::new();
        machine.generous = generous;
        machine.start();
        let service = machine.serve(SERVED);
        service.set_nonblocking(true).unwrap();
        let mut streams: VecDeque<UnixStream> = VecDeque::new();
        for ((header, len), host) in steps {
            machine.send(header, &vec![7; len]);
            machine.driver.used(TX);
            match host {
                Host::Nothing => {}
                Host::Accept => streams.extend(service.accept().map(|(stream, _)| stream)),
                Host::Write(len) => {
                    if let Some(stream) = streams.front_mut() {
                        stream.set_nonblocking(true).unwrap();
                        let _ = stream.write(&vec![8; len]);
                    }
                }
                Host::Read(len) => {
                    if let Some(stream) = streams.front_mut() {
                        stream.set_nonblocking(true).unwrap();
                        read_some(stream, len);
                    }
                    streams.rotate_left(usize::from(!streams.is_empty()));
                }
                Host::Close => drop(streams.pop_front()),
                Host::Call => {
                    let mut program = machine.program();
                    writeln!(program, "CONNECT {PORT}").unwrap();
                    streams.push_front(program);
                }
            }
            machine.driver.run_backend();
            if generous {
                machine.packets();
            }
            prop_assert!(!machine.driver.needs_reset());
        }
        machine.generous = true;
        machine.start();
        drop((service, streams));
        std::fs::remove_file(machine.path(SERVED)).unwrap();
        prop_assert!(machine.works());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    /// A driver that kicks only when it is asked to is never forgotten, however its packets and
    /// its buffers come.
    #[test]
    fn every_packet_is_answered_though_kicks_come_only_when_asked_for(
        steps in prop::collection::vec((0u16..SIZE, 0u16..SIZE), 1..120),
    ) {
        let mut machine = Machine::stingy();
        let (mut sent, mut answered, mut posted) = (0u64, 0u64, 0u16);
        let mut in_tx = 0;
        let rounds = steps.into_iter().chain(std::iter::repeat_n((0, SIZE), 40));
        for (packets, buffers) in rounds {
            in_tx -= machine.driver.used(TX).len();
            for _ in 0..packets {
                if in_tx < usize::from(SIZE) {
                    machine.driver.poke(DATA, &header(op::RW).bytes());
                    machine.driver.chain(TX, &[(DATA, 44, 0)]);
                    in_tx += 1;
                    sent += 1;
                }
            }
            machine.driver.kick_if_asked(TX);
            machine.driver.run_backend();
            let used = machine.driver.used(RX).len();
            answered += u64::try_from(used).unwrap();
            posted -= u16::try_from(used).unwrap();
            for _ in 0..buffers.min(SIZE - posted) {
                machine.post();
                posted += 1;
            }
            machine.driver.kick_if_asked(RX);
            machine.driver.run_backend();
        }
        prop_assert_eq!((sent, machine.counters.tx_packets.get()), (answered, sent));
    }
}
