//! The console device by itself: its ports, its messages, and what a hostile driver makes of them.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::control::{Message, event};
use super::endpoint::Watched;
use super::*;
use crate::devices::console::{ConsoleInput, ConsoleOutput, InputSink, KEPT};
use crate::devices::virtio::Direction;
use crate::devices::virtio::device::{F_EVENT_IDX, F_INDIRECT_DESC};
use crate::devices::virtio::fuzz::{Host, attack};
use crate::devices::virtio::testing::{DATA, Driver, NEXT, WRITE};
use crate::listener::ListenError;
use crate::rate_limiter::Rate;

/// An endpoint that sends back what it got last.
struct Echo {
    bytes: VecDeque<u8>,
    event: Watched<OwnedFd>,
}

impl Echo {
    fn boxed() -> Box<dyn Endpoint> {
        let event = Watched::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        Box::new(Self { bytes: VecDeque::new(), event })
    }
}

impl Endpoint for Echo {
    fn is_open(&self) -> bool {
        true
    }
    fn watch(&mut self, epoll: std::os::fd::BorrowedFd<'_>, port: u64, wish: Wish) {
        let wanted = if wish.input { EventFlags::IN } else { EventFlags::empty() };
        self.event.watch(epoll, port, wanted);
    }
    fn receive(&mut self, bytes: &mut [u8]) -> usize {
        let count = bytes.len().min(self.bytes.len());
        bytes.iter_mut().zip(self.bytes.drain(..count)).for_each(|(to, from)| *to = from);
        if self.bytes.is_empty() {
            let _ = rustix::io::read(&self.event.fd, &mut [0; 8]);
        }
        count
    }
    fn send(&mut self, bytes: &[u8]) -> Option<usize> {
        self.bytes = bytes.to_vec().into();
        rustix::io::write(&self.event.fd, &1u64.to_ne_bytes()).unwrap();
        Some(bytes.len())
    }
}

/// A console and a port with all their queues in use, for drivers that know nothing of either.
pub(crate) struct Opened(Console);

impl Opened {
    pub(crate) fn boxed() -> Box<dyn VirtioDevice> {
        let named = [("echo".to_owned(), Echo::boxed())];
        Box::new(Self(Console::new(Some(Echo::boxed()), named).unwrap()))
    }
}

impl VirtioDevice for Opened {
    fn device_type(&self) -> u32 {
        self.0.device_type()
    }
    fn features(&self) -> u64 {
        self.0.features()
    }
    fn queue_sizes(&self) -> &[u16] {
        self.0.queue_sizes()
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.0.read_config(offset, data);
    }
    fn activate(&mut self, mut activation: Activation) {
        activation.features |= feature::MULTIPORT;
        self.0.activate(activation);
        self.0.open_everything();
    }
    fn deactivate(&mut self) -> Option<Vec<Queue>> {
        self.0.deactivate()
    }
    fn process_queue(&mut self, index: usize) -> Result<Progress, QueueError> {
        self.0.process_queue(index)
    }
    fn backend_fds(&self, wanted: &mut Vec<BackendFd>) {
        self.0.backend_fds(wanted);
    }
    fn process_backend(&mut self, index: usize) -> Result<(), QueueError> {
        self.0.process_backend(index)
    }
}

/// Whether an echo comes back on the port whose receive queue is `rx`.
pub(crate) fn echoes(driver: &mut Driver, rx: usize) -> bool {
    driver.run_backend();
    for queue in [rx, rx + 1] {
        driver.used(queue);
    }
    driver.poke(DATA, b"echo");
    let sent = driver.chain(rx + 1, &[(DATA, 4, 0)]);
    driver.kick(rx + 1);
    let buffer = driver.chain(rx, &[(DATA + 0x1000, 64, WRITE)]);
    driver.kick(rx);
    driver.run_backend();
    driver.used(rx + 1) == [(sent, 0)]
        && driver.used(rx) == [(buffer, 4)]
        && driver.peek(DATA + 0x1000, 4) == b"echo"
}

/// Whether the device answers a control message by one.
pub(crate) fn answers(driver: &mut Driver) -> bool {
    for queue in [CONTROL_RX, CONTROL_TX] {
        driver.used(queue);
    }
    driver.poke(DATA, &Message { id: 0, event: event::DEVICE_READY, value: 1 }.bytes());
    let sent = driver.chain(CONTROL_TX, &[(DATA, 8, 0)]);
    driver.kick(CONTROL_TX);
    let buffer = driver.chain(CONTROL_RX, &[(DATA + 0x1000, 64, WRITE)]);
    driver.kick(CONTROL_RX);
    let told = driver.used(CONTROL_RX);
    driver.used(CONTROL_TX) == [(sent, 0)] && matches!(told[..], [(head, 8..)] if head == buffer)
}

/// A console to `output` and `input`, with `ports` named ports that echo.
struct Machine {
    driver: Driver,
    output: Arc<ConsoleOutput>,
    input: Arc<ConsoleInput>,
    counters: Arc<ConsoleCounters>,
}

impl Machine {
    fn new(ports: usize) -> Self {
        Self::with(0, (0..ports).map(|n| (format!("port{n}"), Echo::boxed())))
    }

    fn with(features: u64, named: impl IntoIterator<Item = (String, Box<dyn Endpoint>)>) -> Self {
        let output = Arc::new(ConsoleOutput::new(true).unwrap());
        let input = Arc::new(ConsoleInput::new().unwrap());
        let terminal = Terminal::new(output.clone(), input.clone());
        let console = Console::new(Some(Box::new(terminal)), named).unwrap();
        let counters = console.counters.clone();
        let several = if console.ports.len() > 1 { feature::MULTIPORT } else { 0 };
        let features = features | feature::SIZE | several;
        Self { driver: Driver::started(Box::new(console), features), output, input, counters }
    }

    /// A machine with one named port on a socket, which is in the directory.
    fn with_socket() -> (Self, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let socket = PortSocket::open(&dir.path().join("s")).unwrap();
        let socket: Box<dyn Endpoint> = Box::new(socket);
        (Self::with(0, [("named".to_owned(), socket)]), dir)
    }

    fn say(&mut self, id: u32, event: u16, value: u16) {
        self.driver.poke(DATA, &Message { id, event, value }.bytes());
        let sent = self.driver.chain(CONTROL_TX, &[(DATA, 8, 0)]);
        self.driver.kick(CONTROL_TX);
        assert_eq!(self.driver.used(CONTROL_TX), [(sent, 0)]);
    }

    /// Control messages the device has for the driver.
    fn hear(&mut self) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        loop {
            self.driver.run_backend();
            let buffer = self.driver.chain(CONTROL_RX, &[(DATA + 0x4000, 128, WRITE)]);
            self.driver.kick(CONTROL_RX);
            match self.driver.used(CONTROL_RX)[..] {
                [] => return heard,
                [(head, len)] => {
                    assert_eq!(head, buffer);
                    heard.push(self.driver.peek(DATA + 0x4000, usize::try_from(len).unwrap()));
                }
                _ => panic!("more buffers were used than given"),
            }
        }
    }

    /// The messages since the last one, with the buffer that was left the last time.
    fn hear_one(&mut self) -> Vec<u8> {
        self.driver.run_backend();
        let used = self.driver.used(CONTROL_RX);
        assert_eq!(used.len(), 1, "{used:?}");
        self.driver.peek(DATA + 0x4000, usize::try_from(used[0].1).unwrap())
    }

    fn send(&mut self, queue: usize, bytes: &[u8]) -> Vec<(u16, u32)> {
        self.driver.poke(DATA, bytes);
        self.driver.chain(queue, &[(DATA, u32::try_from(bytes.len()).unwrap(), 0)]);
        self.driver.kick(queue);
        self.driver.used(queue)
    }
}

fn told(id: u32, event: u16, value: u16, more: &[u8]) -> Vec<u8> {
    [&Message { id, event, value }.bytes(), more].concat()
}

#[test]
fn one_port_is_a_console_without_messages() {
    let mut machine = Machine::new(0);
    assert_eq!(machine.driver.offered() & feature::MULTIPORT, 0);
    assert_eq!(machine.send(1, b"hello").len(), 1);
    assert_eq!(machine.output.last_lines(1), ["hello"]);
    machine.input.give(b"typed");
    let head = machine.driver.chain(0, &[(DATA, 3, WRITE)]);
    let next = machine.driver.chain(0, &[(DATA + 16, 64, WRITE)]);
    machine.driver.kick(0);
    machine.driver.run_backend();
    assert_eq!(machine.driver.used(0), [(head, 3), (next, 2)]);
    assert_eq!(machine.driver.peek(DATA, 3), b"typ");
    assert_eq!(machine.driver.peek(DATA + 16, 2), b"ed");
    assert_eq!((machine.counters.rx_bytes.get(), machine.counters.tx_bytes.get()), (5, 5));
}

#[test]
fn driver_that_refuses_several_ports_has_a_console() {
    let mut machine = Machine::new(1);
    machine.driver.start(feature::SIZE);
    assert_eq!(machine.send(1, b"hello").len(), 1);
    assert_eq!(machine.output.last_lines(1), ["hello"]);
    for queue in 2..6 {
        machine.driver.chain(queue, &[(DATA, 8, 0)]);
        machine.driver.kick(queue);
        assert!(machine.driver.used(queue).is_empty() && !machine.driver.needs_reset());
    }
}

#[test]
fn ports_are_introduced_in_the_order_of_the_specification() {
    let mut machine = Machine::new(2);
    assert_eq!(machine.hear(), Vec::<Vec<u8>>::new());
    machine.say(0, event::DEVICE_READY, 1);
    assert_eq!(machine.hear_one(), told(0, event::DEVICE_ADD, 0, b""));
    let added = [1, 2].map(|id| told(id, event::DEVICE_ADD, 0, b""));
    assert_eq!(machine.hear(), added);
    machine.driver.transport.update(&Change::ConsoleSize { columns: 80, rows: 25 }).unwrap();
    machine.say(0, event::PORT_READY, 1);
    assert_eq!(machine.hear_one(), told(0, event::CONSOLE_PORT, 1, b""));
    let size = told(0, event::RESIZE, 0, &[80, 0, 25, 0]);
    assert_eq!(machine.hear(), [size, told(0, event::PORT_OPEN, 1, b"")]);
    machine.say(2, event::PORT_READY, 1);
    assert_eq!(machine.hear_one(), told(2, event::PORT_NAME, 0, b"port1"));
    assert_eq!(machine.hear(), [told(2, event::PORT_OPEN, 1, b"")]);
}

#[test]
fn size_is_in_the_configuration_and_its_change_is_told_once() {
    let mut machine = Machine::new(0);
    machine.driver.interrupts();
    let size = |machine: &mut Machine| machine.driver.read(0x100);
    assert_eq!(size(&mut machine), 0);
    let change = Change::ConsoleSize { columns: 132, rows: 43 };
    machine.driver.transport.update(&change).unwrap();
    assert_eq!((size(&mut machine), machine.driver.interrupts()), (43 << 16 | 132, 1));
    machine.driver.transport.update(&change).unwrap();
    assert_eq!(machine.driver.interrupts(), 0);
    assert!(machine.driver.transport.update(&Change::BalloonTarget(1)).is_err());
    let mut ports_alone = Driver::new(Box::new(Console::new(None, []).unwrap()));
    assert!(ports_alone.transport.update(&change).is_err());
}

/// S7: a storm of sizes is one message, with the last of them.
#[test]
fn storm_of_sizes_is_told_by_its_last() {
    let mut machine = Machine::new(1);
    machine.say(0, event::PORT_READY, 1);
    machine.hear();
    for rows in 1..=10_000 {
        machine.driver.transport.update(&Change::ConsoleSize { columns: 80, rows }).unwrap();
    }
    assert_eq!(machine.hear_one(), told(0, event::RESIZE, 0, &[80, 0, 0x10, 0x27]));
    assert_eq!(machine.hear(), Vec::<Vec<u8>>::new());
}

/// Section 2.1.2: a device that needs a reset touches nothing.
#[test]
fn broken_device_tells_no_size() {
    let mut machine = Machine::new(1);
    machine.say(0, event::PORT_READY, 1);
    machine.hear();
    machine.driver.offer(CONTROL_TX, 0xffff);
    machine.driver.kick(CONTROL_TX);
    assert!(machine.driver.needs_reset());
    machine.driver.transport.update(&Change::ConsoleSize { columns: 80, rows: 25 }).unwrap();
    machine.driver.run_backend();
    assert!(machine.driver.used(CONTROL_RX).is_empty());
}

/// S7: short, long, unknown and misdirected messages change nothing and are counted.
#[test]
fn control_messages_that_mean_nothing_are_ignored_and_counted() {
    let mut machine = Machine::new(1);
    for id in [2, 17, 0x10000, u32::MAX] {
        machine.say(id, event::PORT_READY, 1);
        machine.say(id, event::PORT_OPEN, 1);
    }
    for event in [1, 2, 4, 5, 7, 8, 0xffff] {
        machine.say(0, event, 1);
    }
    for len in [1, 7, 9, 4096] {
        machine.driver.poke(DATA, &[0; 16]);
        machine.driver.chain(CONTROL_TX, &[(DATA, len, 0)]);
        machine.driver.kick(CONTROL_TX);
        assert_eq!(machine.driver.used(CONTROL_TX).len(), 1);
    }
    assert_eq!(machine.counters.control_ignored.get(), 8 + 7 + 4);
    assert_eq!(machine.counters.control_received.get(), 0);
    assert_eq!(machine.hear(), Vec::<Vec<u8>>::new());
    let unused = Console::new(None, [("a".to_owned(), Echo::boxed())]).unwrap();
    let counters = unused.counters.clone();
    let mut driver = Driver::started(Box::new(unused), feature::MULTIPORT);
    driver.poke(DATA, &Message { id: 0, event: event::PORT_READY, value: 1 }.bytes());
    driver.chain(CONTROL_TX, &[(DATA, 8, 0)]);
    driver.kick(CONTROL_TX);
    assert_eq!(counters.control_ignored.get(), 1, "port 0 is nothing here");
}

/// S7: a driver that asks without end and takes no answers makes nothing grow; one whose buffers
/// are too small gets them back empty.
#[test]
fn questions_without_buffers_for_answers_are_answered_once() {
    let mut machine = Machine::new(1);
    for _ in 0..1000 {
        machine.say(0, event::DEVICE_READY, 1);
        machine.say(1, event::PORT_READY, 1);
    }
    let small = machine.driver.chain(CONTROL_RX, &[(DATA, 7, WRITE)]);
    machine.driver.kick(CONTROL_RX);
    assert_eq!(machine.driver.used(CONTROL_RX), [(small, 0)]);
    // PORT_READY starts the port anew: that it exists is known by then.
    let expected = [
        told(0, event::DEVICE_ADD, 0, b""),
        told(1, event::PORT_NAME, 0, b"port0"),
        told(1, event::PORT_OPEN, 1, b""),
    ];
    assert_eq!(machine.hear(), expected);
}

/// S2: a driver that prints without end fills a ring of 64 KiB and waits for nobody.
#[test]
fn flood_of_output_is_taken_at_once_and_the_loss_counted() {
    let mut machine = Machine::new(0);
    for _ in 0..1000 {
        for _ in 0..10 {
            machine.driver.chain(1, &[(DATA, 4096, 0)]);
        }
        machine.driver.kick(1);
        assert_eq!(machine.driver.used(1).len(), 10);
    }
    let printed = 40_960_000;
    assert_eq!(machine.counters.tx_bytes.get(), printed);
    assert_eq!(machine.output.counters().dropped.get(), printed - u64::try_from(KEPT).unwrap());
}

/// S2: a megabyte in one buffer does not keep other devices waiting.
#[test]
fn huge_output_is_taken_in_turns() {
    let mut machine = Machine::new(0);
    machine.driver.chain(1, &[(DATA, 0x10_0000, 0)]);
    machine.driver.transport.process_queue(1);
    assert!(machine.driver.used(1).is_empty(), "a megabyte was moved in one turn");
    machine.driver.run();
    assert_eq!(machine.driver.used(1).len(), 1);
    assert_eq!(machine.counters.tx_bytes.get(), 0x10_0000);
}

/// S1: what is typed waits for buffers, and the device for nothing meanwhile.
#[test]
fn input_without_buffers_waits_and_wakes_nobody() {
    let mut machine = Machine::new(0);
    machine.input.give(&[b'x'; 1000]);
    assert_eq!(machine.driver.run_backend(), 0, "woken for input that has no buffer");
    machine.driver.chain(0, &[(DATA, 4096, WRITE)]);
    machine.driver.kick(0);
    assert_eq!(machine.driver.used(0).len(), 1);
    assert!(machine.input.room() > 0);
}

#[test]
fn named_port_carries_bytes_both_ways_while_somebody_is_there() {
    let (mut machine, dir) = Machine::with_socket();
    machine.say(1, event::PORT_READY, 1);
    assert_eq!(machine.hear(), [told(1, event::PORT_NAME, 0, b"named")]);
    // Nobody is there: what the guest says is lost.
    assert_eq!(machine.send(5, b"lost").len(), 1);
    assert_eq!(machine.counters.tx_dropped.get(), 4);

    let mut client = UnixStream::connect(dir.path().join("s")).unwrap();
    assert_eq!(machine.hear_one(), told(1, event::PORT_OPEN, 1, b""));
    assert_eq!(machine.send(5, b"from the guest").len(), 1);
    let mut bytes = [0; 64];
    assert_eq!(client.read(&mut bytes).unwrap(), 14);

    // The guest has not opened the port: it would throw away what it gets.
    client.write_all(b"to the guest").unwrap();
    let buffer = machine.driver.chain(4, &[(DATA, 64, WRITE)]);
    machine.driver.kick(4);
    assert_eq!(machine.driver.run_backend(), 0);
    machine.say(1, event::PORT_OPEN, 1);
    machine.driver.run_backend();
    assert_eq!(machine.driver.used(4), [(buffer, 12)]);
    assert_eq!(machine.driver.peek(DATA, 12), b"to the guest");

    machine.hear();
    machine.driver.chain(4, &[(DATA, 64, WRITE)]);
    machine.driver.kick(4);
    drop(client);
    assert_eq!(machine.hear_one(), told(1, event::PORT_OPEN, 0, b""));
    assert_eq!(machine.driver.run_backend(), 0, "a client that left keeps the device awake");
}

#[test]
fn second_client_is_served_after_the_first() {
    let (mut machine, dir) = Machine::with_socket();
    machine.say(1, event::PORT_READY, 1);
    machine.say(1, event::PORT_OPEN, 1);
    let path = dir.path().join("s");
    let first = UnixStream::connect(&path).unwrap();
    let mut second = UnixStream::connect(&path).unwrap();
    second.write_all(b"second").unwrap();
    for _ in 0..3 {
        machine.driver.chain(4, &[(DATA, 64, WRITE)]);
    }
    machine.driver.kick(4);
    machine.driver.run_backend();
    assert!(machine.driver.used(4).is_empty(), "both are served");
    let open = |value| told(1, event::PORT_OPEN, value, b"");
    assert_eq!(machine.hear(), [told(1, event::PORT_NAME, 0, b"named"), open(1)]);
    drop(first);
    assert_eq!(machine.hear_one(), open(0));
    assert_eq!(machine.hear(), [open(1)]);
    assert_eq!(machine.driver.used(4).len(), 1);
    assert_eq!(machine.driver.peek(DATA, 6), b"second");
}

#[test]
fn slow_reader_of_a_port_holds_the_guest_back_and_loses_nothing() {
    let (mut machine, dir) = Machine::with_socket();
    machine.say(1, event::PORT_READY, 1);
    let mut client = UnixStream::connect(dir.path().join("s")).unwrap();
    machine.hear();
    let pattern: Vec<u8> = (0..=250).cycle().take(0x8_0000).collect();
    machine.driver.poke(DATA, &pattern);
    let half = 0x4_0000;
    machine.driver.chain(5, &[(DATA, half, 0), (DATA + u64::from(half), half, 0)]);
    machine.driver.kick(5);
    assert!(machine.driver.used(5).is_empty(), "more was taken than a socket holds");
    let mut read: Vec<u8> = Vec::new();
    let mut chunk = [0; 1 << 16];
    while read.len() < pattern.len() {
        let count = client.read(&mut chunk).unwrap();
        read.extend(&chunk[..count]);
        machine.driver.writable_backend();
    }
    assert!(read == pattern);
    assert_eq!(machine.driver.used(5).len(), 1);
}

#[test]
fn limits_hold_ports_back_and_never_the_console() {
    let (mut machine, dir) = Machine::with_socket();
    machine.say(0, event::PORT_READY, 1);
    machine.say(1, event::PORT_READY, 1);
    machine.say(1, event::PORT_OPEN, 1);
    let mut client = UnixStream::connect(dir.path().join("s")).unwrap();
    machine.hear();
    for direction in [Direction::Send, Direction::Receive] {
        let one = NonZeroU64::new(1);
        let operations = one.map(|one| Rate { per_second: one, burst: one });
        let limit = Change::Limit { direction, bytes: None, operations };
        machine.driver.transport.update(&limit).unwrap();
    }
    for _ in 0..2 {
        machine.driver.chain(5, &[(DATA, 4, 0)]);
        machine.driver.chain(4, &[(DATA + 0x1000, 4, WRITE)]);
    }
    client.write_all(b"two buffers").unwrap();
    machine.driver.kick(5);
    machine.driver.kick(4);
    for _ in 0..3 {
        machine.driver.chain(1, &[(DATA, 4, 0)]);
    }
    machine.driver.kick(1);
    assert_eq!(machine.driver.used(1).len(), 3, "the console waits");
    assert_eq!((machine.driver.used(5).len(), machine.driver.used(4).len()), (1, 1));
    let started = Instant::now();
    let mut later = (0, 0);
    while later != (1, 1) {
        assert!(started.elapsed() < Duration::from_secs(20), "{later:?}");
        machine.driver.run_backend();
        later.0 += machine.driver.used(5).len();
        later.1 += machine.driver.used(4).len();
        sleep(Duration::from_millis(10));
    }
}

/// What was meant for a client that left goes to nobody else, however its leaving is noticed.
#[test]
fn output_for_a_reader_that_left_is_dropped() {
    for by_kick in [false, true] {
        let (mut machine, dir) = Machine::with_socket();
        machine.say(1, event::PORT_READY, 1);
        machine.say(1, event::PORT_OPEN, 1);
        let client = UnixStream::connect(dir.path().join("s")).unwrap();
        machine.hear();
        machine.driver.chain(5, &[(DATA, 0x8_0000, 0)]);
        machine.driver.kick(5);
        assert!(machine.driver.used(5).is_empty());
        drop(client);
        if by_kick {
            machine.driver.chain(4, &[(DATA, 64, WRITE)]);
            machine.driver.kick(4);
        } else {
            machine.driver.writable_backend();
        }
        assert_eq!(machine.driver.used(5).len(), 1, "by kick: {by_kick}");
        assert!(machine.counters.tx_dropped.get() > 0);
    }
}

#[test]
fn driver_reset_keeps_the_client_and_forgets_the_port() {
    let (mut machine, dir) = Machine::with_socket();
    machine.say(1, event::PORT_READY, 1);
    let _client = UnixStream::connect(dir.path().join("s")).unwrap();
    machine.hear();
    machine.driver.chain(5, &[(DATA, 0x8_0000, 0)]);
    machine.driver.kick(5);
    machine.driver.start(feature::MULTIPORT);
    assert_eq!(machine.hear(), Vec::<Vec<u8>>::new());
    machine.say(1, event::PORT_READY, 1);
    assert_eq!(machine.hear_one(), told(1, event::PORT_NAME, 0, b"named"));
    assert_eq!(machine.hear(), [told(1, event::PORT_OPEN, 1, b"")]);
}

#[test]
fn socket_is_private_replaces_an_abandoned_one_and_goes_with_its_port() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let socket = PortSocket::open(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(PortSocket::open(&path), Err(ListenError::InUse(_))));
    drop(socket);
    assert!(!path.exists());

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let abandoned = path.metadata().unwrap().ino();
    let socket = PortSocket::open(&path).unwrap();
    // Somebody else's file by that name stays.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"precious").unwrap();
    drop(socket);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert!(matches!(PortSocket::open(&path), Err(ListenError::Exists { .. })), "{abandoned}");
    let missing = dir.path().join("no/s");
    assert!(matches!(PortSocket::open(&missing), Err(ListenError::Setup { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// S7: any messages of any length, with or without buffers for the answers: the device stays
    /// whole, answers with whole messages, and works after a reset.
    #[test]
    fn any_control_messages_leave_a_device_that_works(
        messages in prop::collection::vec(
            (
                prop_oneof![0u32..4, any::<u32>()],
                prop_oneof![0u16..9, any::<u16>()],
                any::<u16>(),
                prop_oneof![Just(8u32), 1u32..12, 1u32..5000],
                prop::option::of(1u32..64),
            ),
            1..60,
        ),
        indirect: bool,
        split in 1u32..8,
    ) {
        let ring = if indirect { F_INDIRECT_DESC | F_EVENT_IDX } else { 0 };
        let mut machine = Machine::with(ring, [("a".to_owned(), Echo::boxed())]);
        for (id, event, value, len, room) in messages {
            machine.driver.poke(DATA, &Message { id, event, value }.bytes());
            match len.checked_sub(split) {
                Some(rest @ 1..) => {
                    let second = DATA + u64::from(split);
                    machine.driver.chain(CONTROL_TX, &[(DATA, split, NEXT), (second, rest, 0)])
                }
                _ => machine.driver.chain(CONTROL_TX, &[(DATA, len, 0)]),
            };
            machine.driver.kick(CONTROL_TX);
            prop_assert_eq!(machine.driver.used(CONTROL_TX).len(), 1);
            if let Some(room) = room {
                // One at a time, so that the small ring does not overflow.
                machine.driver.used(CONTROL_RX);
                machine.driver.chain(CONTROL_RX, &[(DATA + 0x4000, room, WRITE)]);
                machine.driver.kick(CONTROL_RX);
                for (_, len) in machine.driver.used(CONTROL_RX) {
                    prop_assert!(len == 0 || (8..=room.min(14)).contains(&len), "{}", len);
                }
            }
            machine.driver.run_backend();
            prop_assert!(!machine.driver.needs_reset());
            if machine.driver.outstanding(CONTROL_RX) > 8 {
                machine.driver.start(ring | feature::MULTIPORT);
            }
        }
        machine.driver.start(ring | feature::MULTIPORT);
        prop_assert!(answers(&mut machine.driver));
        prop_assert_eq!(machine.send(1, b"alive").len(), 1);
        prop_assert_eq!(machine.output.last_lines(1), ["alive"]);
    }
}

/// What clients do when it is their turn: one comes where there is room, says something, hears what
/// there is, or leaves.
fn client(path: &Path) -> Host {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let address = SocketAddrUnix::new(path).unwrap();
    let come = move || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        connect(&socket, &address).is_ok().then(|| UnixStream::from(socket))
    };
    let mut client = None;
    Box::new(move |input| {
        let Some(mut stream) = client.take().or_else(&come) else { return Ok(()) };
        let len = input.int_in_range(0..=300_000)?;
        match input.int_in_range(0..=2)? {
            0 => return Ok(()),
            1 => drop(stream.write(&vec![0x5a; len])),
            _ => drop(stream.read(&mut vec![0; len])),
        }
        client = Some(stream);
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// S7, S4: whatever a driver does to any queue or register, and a client meanwhile.
    #[test]
    fn any_deeds_of_driver_and_client_leave_a_device_that_begins_anew(
        data in prop::collection::vec(any::<u8>(), 0..1024),
        opened: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let socket: Box<dyn Endpoint> = Box::new(PortSocket::open(&path).unwrap());
        let console = Console::new(Some(Echo::boxed()), [("t".to_owned(), socket)]).unwrap();
        let device: Box<dyn VirtioDevice> =
            if opened { Box::new(Opened(console)) } else { Box::new(console) };
        attack(device, client(&path), &data);
    }
}

#[test]
fn backend_is_one_descriptor() {
    let console = Console::new(Some(Echo::boxed()), []).unwrap();
    let mut wanted = Vec::new();
    console.backend_fds(&mut wanted);
    let fd = console.epoll.as_raw_fd();
    assert_eq!(wanted, [BackendFd { fd, readable: true, writable: false }]);
}
