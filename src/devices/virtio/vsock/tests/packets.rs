//! Packets that break the rules.

use super::*;

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

/// Q7, Q9.
#[test]
fn receive_buffer_given_twice_while_held_breaks_the_device_until_reset() {
    let mut machine = Machine::stingy();
    machine.post();
    let mut stream = machine.connected();
    let head = machine.driver.next_head(RX);
    machine.post();
    machine.driver.offer(RX, head);
    machine.driver.kick(RX);
    stream.write_all(&[1; 9000]).unwrap();
    machine.driver.run_backend();
    assert!(machine.driver.needs_reset());
    machine.generous = true;
    machine.start();
    assert!(machine.works());
}

/// What is read at once for many buffers comes as whole packets that tell the same credit; buffers that
/// it did not reach are there for the next.
#[test]
fn data_for_many_small_buffers_are_as_many_packets() {
    let mut machine = Machine::new();
    let mut stream = machine.connected();
    machine.send(header(op::RW), &[0; 7]);
    for lens in [40_000, 1, ROOM - HEADER_LEN, ROOM - HEADER_LEN + 1] {
        let sent: Vec<u8> = (0..lens).map(|n| (n % 251).to_le_bytes()[0]).collect();
        stream.write_all(&sent).unwrap();
        let packets = machine.packets();
        let most = ROOM - HEADER_LEN;
        assert_eq!(packets.len(), usize::try_from(lens.div_ceil(most)).unwrap());
        assert!(packets.iter().all(|(header, _)| (header.op, header.fwd_cnt) == (op::RW, 7)));
        let (last, whole) = packets.split_last().unwrap();
        assert!(whole.iter().all(|(header, _)| header.len == most));
        assert_eq!(last.0.len, (lens - 1) % most + 1);
        let got: Vec<u8> = packets.into_iter().flat_map(|(_, data)| data).collect();
        assert!(got == sent, "{lens}");
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
