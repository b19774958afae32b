//! Host programs that misbehave, and those that wait.

use super::*;

/// V11: what is no request is refused at once, whatever it is.
#[test]
fn program_that_does_not_say_connect_is_disconnected() {
    let mut machine = Machine::new();
    for line in ["CONNECT x\n", "CONNECT\n", "\n", "GET / HTTP/1.1\r\nHost: guest\r\n\r\n"] {
        let mut program = machine.program();
        program.write_all(line.as_bytes()).unwrap();
        machine.driver.run_backend();
        program.set_nonblocking(true).unwrap();
        assert!(is_lost(&mut program), "{line:?}");
    }
    // A line of a megabyte is not read to its end.
    let mut program = machine.program();
    program.set_nonblocking(true).unwrap();
    let _ = program.write(&vec![b'C'; 1 << 20]);
    machine.driver.run_backend();
    assert!(is_lost(&mut program));
    assert_eq!(machine.counters.refused.get(), 5);
    assert_eq!(machine.ops(), NONE);
    assert!(machine.works());
}

/// V11: one that says nothing, or half a line, has so much time and no more.
#[test]
fn program_that_does_not_finish_its_line_is_disconnected_in_time() {
    let mut machine = Machine::impatient();
    let mut programs = [machine.program(), machine.program()];
    programs[1].write_all(b"CONNECT 10").unwrap();
    programs.iter().for_each(|program| program.set_nonblocking(true).unwrap());
    let begun = Instant::now();
    machine.driver.run_backend();
    while !programs.iter_mut().all(is_lost) {
        assert!(begun.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(5));
        machine.driver.run_backend();
    }
    assert!(begun.elapsed() >= Duration::from_millis(80));
    assert_eq!((machine.counters.timeouts.get(), machine.counters.refused.get()), (2, 2));
    // Then there is nothing to wait for.
    sleep(Duration::from_millis(120));
    machine.driver.run_backend();
    sleep(Duration::from_millis(60));
    assert_eq!(machine.driver.run_backend(), 0);
}

/// V11: a crowd that says nothing keeps others waiting for so long and no longer.
#[test]
fn crowd_of_silent_programs_holds_the_others_up_for_a_moment() {
    let mut machine = Machine::impatient();
    let silent: Vec<_> = (0..120).map(|_| machine.program()).collect();
    let mut program = machine.program();
    program.write_all(b"CONNECT 1025\n").unwrap();
    assert_eq!(machine.ops(), NONE);
    let begun = Instant::now();
    loop {
        let ops = machine.ops();
        if ops == [op::REQUEST] {
            break;
        }
        assert_eq!(ops, NONE);
        assert!(begun.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(5));
    }
    // The first of them had to go before.
    assert!(machine.counters.timeouts.get() >= 57);
    drop(silent);
}

#[test]
fn guest_that_never_answers_a_request_is_given_up() {
    let mut machine = Machine::impatient();
    let (mut program, request) = machine.calling();
    let begun = Instant::now();
    while !is_lost(&mut program) {
        assert!(begun.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(5));
        machine.driver.run_backend();
    }
    machine.assert_reset("the guest is told");
    machine.send(Header { op: op::RESPONSE, ..answer(&request) }, &[]);
    machine.assert_reset("too late");
}

/// A request the guest was never shown is forgotten without a word.
#[test]
fn request_that_found_no_buffer_is_given_up_silently() {
    let mut machine = Machine::impatient();
    machine.generous = false;
    machine.start();
    let mut programs = [machine.program(), machine.program()];
    programs.iter_mut().for_each(|program| program.write_all(b"CONNECT 1025\n").unwrap());
    machine.driver.run_backend();
    // One goes by itself.
    let [mut stays, goes] = programs;
    drop(goes);
    machine.driver.run_backend();
    stays.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    while !is_lost(&mut stays) {
        assert!(begun.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(5));
        machine.driver.run_backend();
    }
    machine.generous = true;
    (0..SIZE).for_each(|_| machine.post());
    machine.driver.kick(RX);
    assert_eq!(machine.ops(), NONE);
}

#[test]
fn program_that_goes_before_the_answer_is_no_request_any_more() {
    let mut machine = Machine::new();
    let (program, request) = machine.calling();
    drop(program);
    machine.assert_reset("the guest knew");
    machine.send(Header { op: op::RESPONSE, ..answer(&request) }, &[]);
    machine.assert_reset("the answer crosses");
}

/// A program that ends its output at once, as `echo CONNECT 1 | nc` does, still gets its answer.
#[test]
fn program_that_only_listens_is_served() {
    let mut machine = Machine::new();
    let mut program = machine.program();
    program.write_all(b"CONNECT 1025\nbye").unwrap();
    program.shutdown(std::net::Shutdown::Write).unwrap();
    let packets = machine.packets();
    assert_eq!((packets.len(), packets[0].0.op), (1, op::REQUEST));
    let header = answer(&packets[0].0);
    machine.send(Header { op: op::RESPONSE, ..header }, &[]);
    let seen: Vec<_> = machine.packets().into_iter().map(|(h, data)| (h.op, data)).collect();
    assert_eq!(seen, [(op::RW, b"bye".to_vec()), (op::SHUTDOWN, vec![])]);
    machine.send(header, b"news");
    program.set_nonblocking(true).unwrap();
    let expected = format!("OK {}\nnews", header.dst_port);
    assert_eq!(read_now(&mut program), expected.into_bytes());
}

/// However many wait, each hears that there is no room.
#[test]
fn crowd_without_room_is_refused_to_the_last() {
    let mut machine = Machine::with_limits(Limits { sockets: 1, ..LIMITS });
    let _only = machine.connected();
    let mut programs: Vec<_> = (0..100).map(|_| machine.program()).collect();
    machine.driver.run_backend();
    programs.iter().for_each(|program| program.set_nonblocking(true).unwrap());
    assert!(programs.iter_mut().all(is_lost));
    assert_eq!(machine.counters.refused.get(), 100);
}

/// Each gets its turn: a program that has much to say does not keep another from the guest.
#[test]
fn connections_take_turns_with_the_guests_buffers() {
    let mut machine = Machine::stingy();
    let service = machine.serve(SERVED);
    let mut streams = Vec::new();
    for port in 0..4 {
        machine.post();
        machine.send(Header { src_port: port, ..header(op::REQUEST) }, &[]);
        streams.push(service.accept().unwrap().0);
    }
    machine.packets();
    streams.iter_mut().for_each(|stream| stream.write_all(&[1; 40_000]).unwrap());
    machine.driver.run_backend();
    (0..8).for_each(|_| machine.post());
    machine.driver.kick(RX);
    let mut ports: Vec<_> = machine.packets().iter().map(|(header, _)| header.dst_port).collect();
    ports.sort_unstable();
    assert_eq!(ports, [0, 0, 1, 1, 2, 2, 3, 3]);
}

/// The line in which connections wait does not grow with connections that come and go.
#[test]
fn connections_that_come_and_go_leave_no_place_in_the_line() {
    let mut machine = Machine::stingy();
    let _service = machine.serve(SERVED);
    for _ in 0..1000 {
        machine.send_op(op::REQUEST);
        machine.send_op(op::RST);
        machine.driver.used(TX);
    }
    machine.generous = true;
    (0..SIZE).for_each(|_| machine.post());
    machine.driver.kick(RX);
    assert_eq!(machine.ops(), NONE);
}
