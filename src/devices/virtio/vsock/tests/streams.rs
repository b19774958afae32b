//! What programs on both sides get of each other.

use super::*;

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
    assert_eq!((sent.buf_alloc, sent.fwd_cnt), (256 << 10, 5));
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
