use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{readv, writev};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::devices::virtio::net::header::HEADER_LEN;
use crate::devices::virtio::net::{Backend, Net, feature};
use crate::devices::virtio::testing::{DATA, Driver, HIGH_START, WRITE, reg};

const COMMAND: u64 = DATA;
const ANSWER: u64 = DATA + 0x1000;
const FRAME: u64 = DATA + 0x2000;
const BOTH: u64 = feature::MQ | feature::CTRL_VQ;

/// One connection to a host network over a pair of packet sockets.
struct Line {
    fd: OwnedFd,
    attached: Arc<AtomicBool>,
    stuck: Arc<AtomicBool>,
}

impl Backend for Line {
    fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
    fn features(&self) -> u64 {
        0
    }
    fn set_offloads(&mut self, _features: u64) -> Result<(), Errno> {
        Ok(())
    }
    fn set_attached(&mut self, attached: bool) -> Result<(), Errno> {
        if attached && self.stuck.load(Ordering::Relaxed) {
            return Err(Errno::INVAL);
        }
        self.attached.store(attached, Ordering::Relaxed);
        Ok(())
    }
    fn receive(&mut self, frame: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        readv(&self.fd, frame)
    }
    fn send(&mut self, frame: &[IoSlice<'_>]) -> Result<(), Errno> {
        writev(&self.fd, frame).map(drop)
    }
}

/// A device with three pairs of queues, and the host's ends of them.
struct Machine {
    driver: Driver,
    hosts: Vec<OwnedFd>,
    attached: Vec<Arc<AtomicBool>>,
    stuck: Vec<Arc<AtomicBool>>,
}

impl Machine {
    fn new(features: u64) -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (mut lines, mut hosts): (Vec<Box<dyn Backend>>, _) = (Vec::new(), Vec::new());
        let (mut attached, mut stuck) = (Vec::new(), Vec::new());
        for index in 0..3 {
            let (fd, host) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
            attached.push(Arc::new(AtomicBool::new(index == 0)));
            stuck.push(Arc::new(AtomicBool::new(false)));
            let (attached, stuck) = (attached[index].clone(), stuck[index].clone());
            lines.push(Box::new(Line { fd, attached, stuck }));
            hosts.push(host);
        }
        let mut driver = Driver::new(Box::new(Net::with_queues(lines, [2; 6], None)));
        driver.set_queue_size(64);
        driver.always = 0;
        driver.start(features);
        Self { driver, hosts, attached, stuck }
    }

    fn attached(&self) -> Vec<bool> {
        self.attached.iter().map(|attached| attached.load(Ordering::Relaxed)).collect()
    }

    /// Sends a command through `queue`; returns the answer.
    fn command(&mut self, queue: usize, parts: &[(u64, u32, u16)]) -> Option<u8> {
        self.driver.poke(ANSWER, &[0x77, 0x77]);
        let parts = [parts, &[(ANSWER, 2, WRITE)]].concat();
        let head = self.driver.chain(queue, &parts);
        self.driver.kick(queue);
        let used = self.driver.used(queue);
        assert!(used.is_empty() || used == [(head, 1)], "{used:?}");
        assert_eq!(self.driver.peek(ANSWER + 1, 1), [0x77]);
        used.first().map(|_| self.driver.peek(ANSWER, 1)[0])
    }

    fn use_pairs(&mut self, pairs: u16) -> Option<u8> {
        let [p0, p1] = pairs.to_le_bytes();
        self.driver.poke(COMMAND, &[CLASS_MQ, VQ_PAIRS_SET, p0, p1]);
        self.command(6, &[(COMMAND, 4, 0)])
    }

    /// Which receive queues got a frame when the host sends one on each line.
    fn receiving(&mut self) -> Vec<usize> {
        let frame = [0; HEADER_LEN + 60];
        for host in &self.hosts {
            writev(host, &[IoSlice::new(&frame)]).unwrap();
        }
        self.driver.run_backend();
        (0..3).filter(|pair| self.driver.used(pair * 2).len() == 1).collect()
    }

    fn post(&mut self) {
        for pair in 0..3u32 {
            let queue = usize::try_from(pair * 2).unwrap();
            self.driver.chain(queue, &[(FRAME + u64::from(pair) * 4096, 4096, WRITE)]);
            self.driver.kick(queue);
        }
    }
}

#[test]
fn configuration_tells_the_number_of_pairs() {
    let mut m = Machine::new(BOTH);
    assert_eq!(m.driver.offered() & BOTH, BOTH);
    assert_eq!(m.driver.read(0x108) & 0xffff, 3);
    let sizes: Vec<_> = (0..8)
        .map(|queue| {
            m.driver.write(reg::QUEUE_SEL, queue);
            m.driver.read(reg::QUEUE_NUM_MAX)
        })
        .collect();
    assert_eq!(sizes, [256, 256, 256, 256, 256, 256, 64, 0]);
}

/// Section 5.1.6.5.5: one pair after a reset, then as many as the driver asks for.
#[test]
fn pairs_are_used_as_the_driver_asks_and_one_after_a_reset() {
    let mut m = Machine::new(BOTH);
    m.post();
    assert_eq!(m.attached(), [true, false, false]);
    assert_eq!(m.receiving(), [0]);
    for (pairs, attached) in [
        (3, [true, true, true]),
        (2, [true, true, false]),
        (2, [true, true, false]),
        (1, [true, false, false]),
        (3, [true, true, true]),
    ] {
        assert_eq!(m.use_pairs(pairs), Some(OK));
        assert_eq!(m.attached(), attached);
    }
    m.driver.start(BOTH);
    assert_eq!(m.attached(), [true, false, false]);
}

/// Buffers given before the pair was used are used at once: their kick is not repeated.
#[test]
fn frames_of_a_newly_used_pair_come_to_the_buffers_it_has() {
    let mut m = Machine::new(BOTH);
    m.post();
    assert_eq!(m.receiving(), [0]);
    assert_eq!(m.use_pairs(2), Some(OK));
    assert_eq!(m.driver.used(2).len(), 1);
    assert!(m.driver.used(4).is_empty());
    m.post();
    assert_eq!(m.receiving(), [0, 1]);
    assert_eq!(m.use_pairs(1), Some(OK));
    m.post();
    assert_eq!(m.receiving(), [0]);
}

#[test]
fn each_pair_sends_through_its_own_connection() {
    let mut m = Machine::new(BOTH);
    assert_eq!(m.use_pairs(3), Some(OK));
    for pair in 0..3 {
        m.driver.poke(FRAME, &[0; HEADER_LEN + 60]);
        m.driver.chain(pair * 2 + 1, &[(FRAME, 72, 0)]);
        m.driver.kick(pair * 2 + 1);
        let got = m.hosts.iter().map(|host| {
            let mut bytes = [0; 100];
            readv(host, &mut [IoSliceMut::new(&mut bytes)]).is_ok_and(|len| len == 72)
        });
        let got: Vec<_> = got.collect();
        assert_eq!(got, [0, 1, 2].map(|index| index == pair));
    }
}

/// Section 5.1.2: without MQ there is one pair, and the commands' queue is the third.
#[test]
fn commands_have_their_place_by_what_was_negotiated() {
    let command = [(COMMAND, 4, 0)];
    for (features, place) in [(BOTH, Some(6)), (feature::CTRL_VQ, Some(2)), (0, None)] {
        let mut m = Machine::new(features);
        m.driver.poke(COMMAND, &[CLASS_MQ, VQ_PAIRS_SET, 1, 0]);
        for queue in [2, 6] {
            let answer = m.command(queue, &command);
            assert_eq!(answer, (Some(queue) == place).then_some(OK), "{features:#x} {queue}");
        }
    }
}

/// N11.
#[test]
fn unknown_and_malformed_commands_are_refused_and_change_nothing() {
    let mut m = Machine::new(BOTH);
    assert_eq!(m.use_pairs(2), Some(OK));
    for pairs in [0, 4, 0x0100, u16::MAX] {
        assert_eq!(m.use_pairs(pairs), Some(ERR), "{pairs}");
    }
    for class in (0..=u8::MAX).filter(|class| *class != CLASS_MQ) {
        m.driver.poke(COMMAND, &[class, 0, 1, 0]);
        assert_eq!(m.command(6, &[(COMMAND, 4, 0)]), Some(ERR), "{class}");
    }
    for command in 1..=u8::MAX {
        m.driver.poke(COMMAND, &[CLASS_MQ, command, 1, 0]);
        assert_eq!(m.command(6, &[(COMMAND, 4, 0)]), Some(ERR), "{command}");
    }
    m.driver.poke(COMMAND, &[CLASS_MQ, VQ_PAIRS_SET, 1, 0, 0]);
    for len in [1, 2, 3, 5, 4096] {
        assert_eq!(m.command(6, &[(COMMAND, len, 0)]), Some(ERR), "{len}");
    }
    assert_eq!(m.command(6, &[]), Some(ERR));
    assert_eq!(m.attached(), [true, true, false]);
    assert_eq!(m.command(6, &[(COMMAND, 1, 0), (COMMAND + 1, 3, 0)]), Some(OK));
}

/// N11: a table of addresses of 16 MiB is not looked at.
#[test]
fn giant_table_of_addresses_is_refused_unread() {
    let mut m = Machine::new(BOTH);
    let table = [(HIGH_START, 1 << 20, 0); 16];
    m.driver.poke(HIGH_START, &[1, 0]);
    assert_eq!(m.command(6, &table), Some(ERR));
    m.driver.poke(HIGH_START, &[CLASS_MQ, VQ_PAIRS_SET, 2, 0]);
    assert_eq!(m.command(6, &table), Some(ERR));
    assert_eq!(m.attached(), [true, false, false]);
}

/// N11.
#[test]
fn command_without_room_for_its_answer_breaks_the_device_until_reset() {
    let mut m = Machine::new(BOTH);
    m.driver.poke(COMMAND, &[CLASS_MQ, VQ_PAIRS_SET, 2, 0, 0]);
    m.driver.chain(6, &[(COMMAND, 4, 0), (ANSWER, 1, 0)]);
    m.driver.kick(6);
    assert!(m.driver.needs_reset());
    assert_eq!(m.attached(), [true, false, false]);
    m.driver.start(BOTH);
    assert_eq!(m.use_pairs(2), Some(OK));
}

/// N11: many commands at once are served in turns, and all of them.
#[test]
fn flood_of_commands_is_answered_in_turns() {
    let mut m = Machine::new(BOTH);
    m.driver.poke(COMMAND, &[CLASS_MQ, VQ_PAIRS_SET, 3, 0]);
    for _ in 0..30 {
        m.driver.chain(6, &[(COMMAND, 4, 0), (ANSWER, 1, WRITE)]);
    }
    m.driver.kick(6);
    assert_eq!(m.driver.used(6).len(), 30);
    assert_eq!(m.attached(), [true, true, true]);
}

#[test]
fn host_that_refuses_a_queue_leaves_the_driver_with_what_it_had() {
    let mut m = Machine::new(BOTH);
    m.stuck[2].store(true, Ordering::Relaxed);
    assert_eq!(m.use_pairs(3), Some(ERR));
    assert_eq!(m.attached(), [true, false, false]);
    assert_eq!(m.use_pairs(2), Some(OK));
    assert_eq!(m.use_pairs(3), Some(ERR));
    assert_eq!(m.attached(), [true, true, false]);
}
