//! Floods, guests and programs that do not answer, and the life of the device.

use super::*;

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
            let room = match port {
                ..16 => 256 << 10,
                16..80 => 64 << 10,
                _ => 4 << 10,
            };
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
            signal: Arc::new(crate::devices::virtio::Signal::new(Box::new(signal))),
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
