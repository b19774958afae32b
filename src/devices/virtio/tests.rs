//! What every device must survive: one table of devices, one of hostile queues.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rustix::io::Errno;
use tempfile::NamedTempFile;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::balloon::Balloon;
use super::block::tests::Patient;
use super::block::{Block, Disk};
use super::console::tests::{Opened, answers, echoes};
use super::device::{Change, F_EVENT_IDX, F_INDIRECT_DESC, RING_FEATURES, VirtioDevice};
use super::mmio::{QUEUE_NOTIFY, status};
use super::net::{Backend, Net};
use super::rng::Rng;
use super::testing::{
    DATA, Desc, Driver, HIGH_END, HIGH_START, INDIRECT, LOW_END, NEXT, Rings, WRITE, default_rings,
    reg, scatter,
};
use super::throttle::Direction;
use super::vsock::Vsock;
use crate::config::{self, Engine};
use crate::metrics::Counters;
use crate::rate_limiter::Rate;

/// A queue of a device under test.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// The queue that gets the hostile chains.
    pub(crate) queue: usize,
    make: fn() -> Box<dyn VirtioDevice>,
    works: fn(&mut Driver) -> bool,
}

pub(crate) const KINDS: &[Kind] = &[
    Kind { name: "block", queue: 0, make: block, works: block_works },
    Kind { name: "block by io_uring", queue: 0, make: block_by_io_uring, works: block_works },
    Kind { name: "net receiving", queue: 0, make: net, works: net_works },
    Kind { name: "net sending", queue: 1, make: net, works: net_works },
    Kind { name: "net sending by the second pair", queue: 3, make: nets, works: nets_work },
    Kind { name: "net commands", queue: 4, make: nets, works: nets_work },
    Kind { name: "rng", queue: 0, make: || Box::new(Rng::new()), works: rng_works },
    Kind { name: "vsock receiving", queue: 0, make: vsock, works: vsock_works },
    Kind { name: "vsock sending", queue: 1, make: vsock, works: vsock_works },
    Kind { name: "balloon inflation", queue: 0, make: balloon, works: balloon_inflates },
    Kind { name: "balloon deflation", queue: 1, make: balloon, works: balloon_deflates },
    Kind { name: "balloon statistics", queue: 2, make: balloon, works: balloon_has_statistics },
    Kind { name: "balloon reporting", queue: 3, make: balloon, works: balloon_takes_reports },
    Kind { name: "console receiving", queue: 0, make: Opened::boxed, works: |d| echoes(d, 0) },
    Kind { name: "console sending", queue: 1, make: Opened::boxed, works: |d| echoes(d, 0) },
    Kind { name: "console telling", queue: 2, make: Opened::boxed, works: answers },
    Kind { name: "console listening", queue: 3, make: Opened::boxed, works: answers },
    Kind { name: "port receiving", queue: 4, make: Opened::boxed, works: |d| echoes(d, 4) },
    Kind { name: "port sending", queue: 5, make: Opened::boxed, works: |d| echoes(d, 4) },
];

impl Kind {
    pub(crate) fn device(&self) -> Box<dyn VirtioDevice> {
        (self.make)()
    }

    /// A driver that is not started yet.
    pub(crate) fn driver(&self) -> Driver {
        Driver::new(self.device())
    }

    pub(crate) fn started(&self, features: u64) -> Driver {
        let mut driver = self.driver();
        driver.start(features);
        driver
    }

    /// Whether a request of a decent driver is served.
    pub(crate) fn works(&self, driver: &mut Driver) -> bool {
        (self.works)(driver)
    }
}

fn block() -> Box<dyn VirtioDevice> {
    block_with(Engine::Sync)
}

fn block_by_io_uring() -> Box<dyn VirtioDevice> {
    block_with(Engine::IoUring)
}

fn block_with(engine: Engine) -> Box<dyn VirtioDevice> {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(64 * 512).unwrap();
    let disk = Disk::open(file.path(), false).unwrap();
    Box::new(Patient(Block::new(disk, "test").with_engine(engine)))
}

fn block_works(driver: &mut Driver) -> bool {
    driver.poke(DATA, &[0; 16]);
    driver.poke(DATA + 0x1000, &[0xff; 513]);
    driver.used(0);
    let head = driver.chain(0, &[(DATA, 16, 0), (DATA + 0x1000, 513, WRITE)]);
    driver.kick(0);
    driver.used(0) == [(head, 513)] && driver.peek(DATA + 0x1000, 513) == [0; 513]
}

/// A host network that sends back what it gets.
struct Echo {
    frames: VecDeque<Vec<u8>>,
    event: EventFd,
}

impl Backend for Echo {
    fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
    fn features(&self) -> u64 {
        0
    }
    fn set_offloads(&mut self, _features: u64) -> Result<(), Errno> {
        Ok(())
    }
    fn receive(&mut self, frame: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        let Some(bytes) = self.frames.pop_front() else {
            let _ = self.event.read();
            return Err(Errno::AGAIN);
        };
        Ok(scatter(&bytes, frame))
    }
    fn send(&mut self, frame: &[IoSlice<'_>]) -> Result<(), Errno> {
        self.frames.push_back(frame.iter().flat_map(|part| part.iter().copied()).collect());
        self.event.write(1).unwrap();
        Ok(())
    }
}

fn echo() -> Box<dyn Backend> {
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    Box::new(Echo { frames: VecDeque::new(), event })
}

fn net() -> Box<dyn VirtioDevice> {
    Box::new(Net::with_queues(vec![echo()], [2; 6], None))
}

fn nets() -> Box<dyn VirtioDevice> {
    Box::new(Net::with_queues(vec![echo(), echo()], [2; 6], None))
}

/// Whether both pairs can be used, and the second one echoes.
/// Takes every frame the host has, and offers the buffer that the next one gets.
fn offer_behind_what_waits(driver: &mut Driver, queue: usize) -> u16 {
    loop {
        let head = driver.chain(queue, &[(DATA + 0x1000, 2000, WRITE)]);
        driver.kick(queue);
        driver.run_backend();
        if driver.used(queue).is_empty() {
            return head;
        }
    }
}

fn nets_work(driver: &mut Driver) -> bool {
    driver.run_backend();
    (2..5).for_each(|queue| drop(driver.used(queue)));
    driver.poke(DATA + 0x8000, &[4, 0, 2, 0, 0xff]);
    let command = driver.chain(4, &[(DATA + 0x8000, 4, 0), (DATA + 0x8004, 1, WRITE)]);
    driver.kick(4);
    let answered = driver.used(4) == [(command, 1)] && driver.peek(DATA + 0x8004, 1) == [0];
    let head = offer_behind_what_waits(driver, 2);
    driver.poke(DATA, &[0; 12]);
    driver.poke(DATA + 12, &[0x77; 60]);
    let sent = driver.chain(3, &[(DATA, 72, 0)]);
    driver.kick(3);
    driver.run_backend();
    answered && driver.used(3) == [(sent, 0)] && driver.used(2) == [(head, 72)]
}

fn net_works(driver: &mut Driver) -> bool {
    driver.used(0);
    driver.used(1);
    let head = offer_behind_what_waits(driver, 0);
    driver.poke(DATA, &[0; 12]);
    driver.poke(DATA + 12, &[0x77; 60]);
    let sent = driver.chain(1, &[(DATA, 72, 0)]);
    driver.kick(1);
    driver.run_backend();
    driver.used(1) == [(sent, 0)]
        && driver.used(0) == [(head, 72)]
        && driver.peek(DATA + 0x1000 + 12, 60) == [0x77; 60]
}

fn rng_works(driver: &mut Driver) -> bool {
    driver.used(0);
    driver.poke(DATA, &[0; 64]);
    let head = driver.chain(0, &[(DATA, 64, WRITE)]);
    driver.kick(0);
    driver.used(0) == [(head, 64)] && driver.peek(DATA, 64) != [0; 64]
}

fn vsock() -> Box<dyn VirtioDevice> {
    // The socket loses its name with the directory, and nobody connects to it.
    let directory = tempfile::tempdir().unwrap();
    Box::new(Vsock::open(3, &directory.path().join("vsock")).unwrap())
}

/// A packet of the guest that belongs to no connection.
fn vsock_packet() -> [u8; 44] {
    let mut packet = [0; 44];
    for (at, byte) in [(0, 3), (8, 2), (28, 1), (30, 5)] {
        packet[at] = byte;
    }
    packet
}

fn vsock_works(driver: &mut Driver) -> bool {
    driver.run_backend();
    driver.used(0);
    driver.used(1);
    let head = driver.chain(0, &[(DATA + 0x1000, 2000, WRITE)]);
    driver.kick(0);
    driver.poke(DATA, &vsock_packet());
    let sent = driver.chain(1, &[(DATA, 44, 0)]);
    driver.kick(1);
    driver.used(1) == [(sent, 0)]
        && driver.used(0) == [(head, 44)]
        // A stream (1) is reset (3).
        && driver.peek(DATA + 0x1000 + 28, 3) == [1, 0, 3]
}

fn balloon() -> Box<dyn VirtioDevice> {
    let statistics = Some("1s".parse().unwrap());
    let config = config::Balloon { statistics, ..config::Balloon::default() };
    let mut balloon = Balloon::open(&config).unwrap();
    balloon.ask_every(Duration::from_millis(1));
    Box::new(balloon)
}

/// A page for the balloon's requests to name.
const GIVEN: u64 = DATA + 0x4000;

fn balloon_gives_back(driver: &mut Driver, queue: usize, part: (u64, u32, u16)) -> bool {
    let frame = u32::try_from(GIVEN >> 12).unwrap();
    driver.poke(DATA, &frame.to_le_bytes());
    driver.poke(GIVEN, &[0xff; 4096]);
    driver.used(queue);
    let head = driver.chain(queue, &[part]);
    driver.kick(queue);
    driver.used(queue) == [(head, 0)] && driver.peek(GIVEN, 4096) == [0; 4096]
}

fn balloon_inflates(driver: &mut Driver) -> bool {
    balloon_gives_back(driver, 0, (DATA, 4, 0))
}

fn balloon_takes_reports(driver: &mut Driver) -> bool {
    balloon_gives_back(driver, 3, (GIVEN, 4096, WRITE))
}

fn balloon_deflates(driver: &mut Driver) -> bool {
    driver.used(1);
    let head = driver.chain(1, &[(DATA, 4, 0)]);
    driver.kick(1);
    driver.used(1) == [(head, 0)]
}

fn balloon_has_statistics(driver: &mut Driver) -> bool {
    driver.used(2);
    let head = driver.chain(2, &[(DATA, 10, 0)]);
    driver.kick(2);
    let kept = driver.used(2).is_empty();
    let deadline = Instant::now() + Duration::from_secs(10);
    while driver.run_backend() == 0 {
        assert!(Instant::now() < deadline, "the timer does not go off");
        std::thread::sleep(Duration::from_micros(100));
    }
    kept && driver.used(2) == [(head, 0)]
}

/// Breaks a queue; the device must then need a reset.
type Break = (&'static str, fn(&mut Driver, usize));

/// Offers a chain of the given descriptors, from index 0 on.
fn offer(driver: &mut Driver, queue: usize, table: &[(u64, u32, u16, u16)]) {
    for (index, (addr, len, flags, next)) in (0..).zip(table.iter().copied()) {
        driver.put_desc(queue, index, Desc { addr, len, flags, next });
    }
    driver.offer(queue, 0);
}

/// Offers a chain of one indirect descriptor, whose table holds `table`.
fn offer_indirect(
    driver: &mut Driver,
    queue: usize,
    (addr, len, flags): (u64, u32, u16),
    table: &[(u64, u32, u16, u16)],
) {
    let bytes = table.iter().copied();
    let bytes = bytes.map(|(addr, len, flags, next)| Desc { addr, len, flags, next }.bytes());
    driver.poke(TABLE, &bytes.collect::<Vec<_>>().concat());
    offer(driver, queue, &[(addr, len, INDIRECT | flags, 1), (DATA, 16, WRITE, 0)]);
}

const TABLE: u64 = DATA + 0x8000;

const BROKEN: &[Break] = &[
    ("Q1 self-loop", |d, q| offer(d, q, &[(DATA, 16, NEXT, 0)])),
    ("Q1 two-cycle", |d, q| offer(d, q, &[(DATA, 16, NEXT, 1), (DATA, 16, NEXT, 0)])),
    ("Q1 loop through the last", |d, q| {
        d.put_desc(q, 15, Desc { addr: DATA, len: 16, flags: NEXT, next: 0 });
        offer(d, q, &[(DATA, 16, NEXT, 15)]);
    }),
    ("Q1 writable loop", |d, q| offer(d, q, &[(DATA, 16, NEXT | WRITE, 0)])),
    ("Q2 size + 1", |d, q| {
        let table: Vec<_> = (0..17).map(|n| (DATA, 16, u16::from(n < 16), n + 1)).collect();
        offer_indirect(d, q, (TABLE, 17 * 16, 0), &table);
    }),
    ("Q2 32768 entries", |d, q| offer_indirect(d, q, (TABLE, 32768 * 16, 0), &[])),
    ("Q3 next is size", |d, q| offer(d, q, &[(DATA, 16, NEXT, 16)])),
    ("Q3 next is 65535", |d, q| offer(d, q, &[(DATA, 16, NEXT, 0xffff)])),
    ("Q4 beyond memory", |d, q| offer(d, q, &[(HIGH_END, 16, 0, 0)])),
    ("Q4 in the device window", |d, q| offer(d, q, &[(0xd000_0000, 16, WRITE, 0)])),
    ("Q4 in the hole", |d, q| offer(d, q, &[(LOW_END, 16, WRITE, 0)])),
    ("Q4 across the hole", |d, q| offer(d, q, &[(LOW_END - 8, 16, 0, 0)])),
    ("Q4 over the hole", |d, q| offer(d, q, &[(LOW_END - 8, 0x20_0010, WRITE, 0)])),
    ("Q4 before the end of memory", |d, q| offer(d, q, &[(HIGH_END - 15, 16, WRITE, 0)])),
    ("Q5 length 0", |d, q| offer(d, q, &[(DATA, 0, WRITE, 0)])),
    ("Q5 length 2^32 - 1", |d, q| offer(d, q, &[(DATA, u32::MAX, 0, 0)])),
    ("Q5, N1 1 GiB", |d, q| offer(d, q, &[(DATA, 1 << 30, 0, 0)])),
    ("Q5 address wraps", |d, q| offer(d, q, &[(u64::MAX - 7, 16, WRITE, 0)])),
    ("Q6 index jumps", |d, q| d.set_avail_idx(q, 18)),
    ("Q6 index goes backwards", |d, q| d.set_avail_idx(q, 0xffff)),
    ("Q7 head is size", |d, q| d.offer(q, 16)),
    ("Q7 head is 65535", |d, q| d.offer(q, 0xffff)),
    ("Q12 readable behind writable", |d, q| {
        offer(d, q, &[(DATA, 16, WRITE | NEXT, 1), (DATA, 16, 0, 0)]);
    }),
    ("Q14 nested", |d, q| {
        offer_indirect(d, q, (TABLE, 32, 0), &[(TABLE, 16, INDIRECT, 0), (DATA, 16, WRITE, 0)]);
    }),
    ("Q14 INDIRECT and NEXT", |d, q| {
        offer_indirect(d, q, (TABLE, 16, NEXT), &[(DATA, 16, WRITE, 0)]);
    }),
    ("Q14 table of no bytes", |d, q| offer_indirect(d, q, (TABLE, 0, 0), &[])),
    ("Q14 table of 15 bytes", |d, q| offer_indirect(d, q, (TABLE, 15, 0), &[])),
    ("Q14 table of 17 bytes", |d, q| {
        offer_indirect(d, q, (TABLE, 17, 0), &[(DATA, 16, WRITE, 0)]);
    }),
    ("Q14 table of 4 GiB", |d, q| offer_indirect(d, q, (TABLE, u32::MAX - 15, 0), &[])),
    ("Q14 table beyond memory", |d, q| offer_indirect(d, q, (HIGH_END, 16, 0), &[])),
    ("Q14 table wraps", |d, q| offer_indirect(d, q, (u64::MAX - 15, 32, 0), &[])),
    ("Q14 table runs out of memory", |d, q| {
        d.poke(LOW_END - 16, &Desc { addr: DATA, len: 16, flags: NEXT, next: 1 }.bytes());
        offer_indirect(d, q, (LOW_END - 16, 32, 0), &[]);
    }),
    ("Q14 loop in the table", |d, q| {
        offer_indirect(d, q, (TABLE, 32, 0), &[(DATA, 16, NEXT, 1), (DATA, 16, NEXT, 0)]);
    }),
    ("Q14 next beyond the table", |d, q| {
        offer_indirect(d, q, (TABLE, 32, 0), &[(DATA, 16, NEXT, 2), (DATA, 16, WRITE, 0)]);
    }),
];

/// Q1-Q7, Q12, Q14, Q23.
#[test]
fn broken_queue_needs_a_reset_tells_the_driver_and_recovers() {
    for kind in KINDS {
        for features in [F_INDIRECT_DESC, F_INDIRECT_DESC | F_EVENT_IDX] {
            let mut driver = kind.started(features);
            for (name, break_queue) in BROKEN {
                driver.interrupts();
                driver.write(reg::INTERRUPT_ACK, 3);
                break_queue(&mut driver, kind.queue);
                driver.kick(kind.queue);
                let at = format!("{} on {}", name, kind.name);
                assert!(driver.needs_reset(), "{at}");
                assert_eq!(driver.interrupts(), 1, "{at}");
                assert_eq!(driver.read(reg::INTERRUPT_STATUS), 2, "{at}: configuration change");
                assert!(driver.used(kind.queue).is_empty(), "{at}");
                // Nothing happens until the reset, whatever the driver does.
                driver.kick(kind.queue);
                driver.run_backend();
                assert_eq!(driver.interrupts(), 0, "{at}");
                driver.start(features);
                assert!(kind.works(&mut driver), "{at}");
            }
        }
    }
}

/// Q14.
#[test]
fn indirect_descriptor_without_the_feature_needs_a_reset() {
    for kind in KINDS {
        let mut driver = kind.started(0);
        offer_indirect(&mut driver, kind.queue, (TABLE, 16, 0), &[(DATA, 512, WRITE, 0)]);
        driver.kick(kind.queue);
        assert!(driver.needs_reset(), "{}", kind.name);
    }
}

/// Q13: what is not returned as used makes the device need a reset; no slot is lost silently.
#[test]
fn chains_a_device_has_no_use_for_are_returned_or_need_a_reset() {
    let cases: [&[(u64, u32, u16)]; 5] = [
        &[(DATA, 1, 0)],
        &[(DATA, 16, 0)],
        &[(DATA, 1, WRITE)],
        &[(DATA, 4096, WRITE)],
        &[(DATA, 16, 0), (DATA + 0x1000, 1, WRITE)],
    ];
    // Those keep the buffers of a driver until there is something to put into them.
    let keeps = ["receiving", "telling", "statistics"];
    let keeps = |kind: &&Kind| keeps.iter().any(|end| kind.name.ends_with(end));
    for kind in KINDS.iter().filter(|kind| !keeps(kind)) {
        for parts in cases {
            let mut driver = kind.started(0);
            for _ in 0..40 {
                driver.poke(DATA, &[0; 64]);
                driver.chain(kind.queue, parts);
                driver.kick(kind.queue);
                if driver.needs_reset() {
                    driver.start(0);
                } else {
                    assert_eq!(driver.used(kind.queue).len(), 1, "{} {parts:?}", kind.name);
                }
            }
            assert!(kind.works(&mut driver), "{} {parts:?}", kind.name);
        }
    }
}

/// Q23.
#[test]
fn device_recovers_from_a_thousand_breakdowns() {
    for kind in KINDS {
        let mut driver = kind.started(0);
        for _ in 0..1000 {
            driver.offer(kind.queue, 0xffff);
            driver.kick(kind.queue);
            assert!(driver.needs_reset());
            driver.start(0);
            assert!(!driver.needs_reset());
        }
        assert!(kind.works(&mut driver), "{}", kind.name);
    }
}

/// Q6: the indices wrap in the middle of a batch.
#[test]
fn indices_that_wrap_lose_nothing() {
    let kind = KINDS.iter().find(|k| k.name == "rng").unwrap();
    for features in [0, F_EVENT_IDX] {
        let mut driver = kind.started(features);
        for round in 0..70_000 / 13 {
            for _ in 0..13 {
                driver.chain(0, &[(DATA, 1, WRITE)]);
            }
            driver.kick(0);
            assert_eq!(driver.used(0).len(), 13, "round {round}");
        }
    }
}

/// Q7: the same head in every entry, all at once.
#[test]
fn same_head_in_every_entry_is_served_or_needs_a_reset() {
    for kind in KINDS {
        let mut driver = kind.started(0);
        driver.poke(DATA, &[0; 64]);
        let head = driver.chain(kind.queue, &[(DATA, 16, 0), (DATA + 0x100, 513, WRITE)]);
        (1..16).for_each(|_| driver.offer(kind.queue, head));
        driver.kick(kind.queue);
        let used = driver.used(kind.queue);
        assert!(driver.needs_reset() || used.len() == 16, "{}", kind.name);
        driver.start(0);
        assert!(kind.works(&mut driver), "{}", kind.name);
    }
}

/// Q8: kicks with nothing new, and poison in every field that only suppresses notifications.
#[test]
fn idle_kicks_and_poisoned_event_fields_change_nothing() {
    for kind in KINDS {
        for features in [0, F_EVENT_IDX] {
            let mut driver = kind.started(features);
            for _ in 0..100 {
                driver.kick(kind.queue);
            }
            assert_eq!(driver.interrupts(), 0, "{}", kind.name);
            let rings = default_rings(kind.queue);
            for poison in [0u16, 1, 0x7fff, 0x8000, 0xffff] {
                driver.poke(rings.avail, &poison.to_le_bytes());
                driver.poke(rings.avail + 4 + 2 * 16, &poison.to_le_bytes());
                driver.poke(rings.used, &poison.to_le_bytes());
                driver.poke(rings.used + 4 + 8 * 16, &poison.to_le_bytes());
                assert!(kind.works(&mut driver), "{} {poison:#x}", kind.name);
            }
        }
    }
}

/// Section 2.7.7: interrupts the driver does not want are not sent.
#[test]
fn interrupts_are_suppressed_as_the_driver_asks() {
    let kind = KINDS.iter().find(|k| k.name == "rng").unwrap();
    let rings = default_rings(0);
    let mut driver = kind.started(0);
    driver.poke(rings.avail, &1u16.to_le_bytes());
    driver.chain(0, &[(DATA, 1, WRITE)]);
    driver.kick(0);
    assert_eq!((driver.used(0).len(), driver.interrupts()), (1, 0));
    let mut driver = kind.started(F_EVENT_IDX);
    driver.poke(rings.avail + 4 + 2 * 16, &2u16.to_le_bytes());
    for (requests, interrupts) in [(1, 0), (1, 0), (1, 1), (1, 0), (5, 0)] {
        for _ in 0..requests {
            driver.chain(0, &[(DATA, 1, WRITE)]);
        }
        driver.kick(0);
        assert_eq!((driver.used(0).len(), driver.interrupts()), (requests, interrupts));
    }
}

/// Q15: rings over each other and over the data.
#[test]
fn overlapping_rings_harm_only_their_device() {
    let good = default_rings(0);
    for kind in KINDS {
        for rings in [
            Rings { used: good.avail, ..good },
            Rings { avail: good.used, ..good },
            Rings { used: good.desc, ..good },
            Rings { desc: good.avail & !15, ..good },
            Rings { desc: DATA, avail: DATA, used: DATA },
            Rings { used: DATA + 0x1000, ..good },
        ] {
            let mut driver = kind.driver();
            driver.negotiate(0);
            for queue in 0..=kind.queue {
                driver.set_up_queue(queue, rings, 16);
            }
            driver.set_status(status::DRIVER_OK);
            for _ in 0..40 {
                driver.chain(kind.queue, &[(DATA, 16, 0), (DATA + 0x1000, 64, WRITE)]);
                driver.write(QUEUE_NOTIFY, u32::try_from(kind.queue).unwrap());
                driver.run();
                driver.run_backend();
            }
            let mut driver = kind.started(0);
            assert!(kind.works(&mut driver));
        }
    }
}

/// Q18.
#[test]
fn used_index_written_behind_the_device_is_not_believed() {
    for kind in KINDS {
        let mut driver = kind.started(0);
        assert!(kind.works(&mut driver));
        let idx = default_rings(kind.queue).used + 2;
        assert_eq!(driver.peek_obj::<u16>(idx), 1);
        driver.poke(idx, &0x1234u16.to_le_bytes());
        assert!(!kind.works(&mut driver), "the driver lost its own place");
        assert_eq!(driver.peek_obj::<u16>(idx), 2, "{}", kind.name);
    }
}

/// Q21.
#[test]
fn kicks_before_driver_ok_after_failed_and_after_reset_consume_nothing() {
    for kind in KINDS {
        let untouched = |driver: &mut Driver, when: &str| {
            driver.kick(kind.queue);
            driver.run_backend();
            let idx: u16 = driver.peek_obj(default_rings(kind.queue).used + 2);
            assert_eq!((idx, driver.interrupts()), (0, 0), "{} {when}", kind.name);
        };
        let mut driver = kind.driver();
        untouched(&mut driver, "at power-on");
        driver.negotiate(0);
        driver.set_up_queue(kind.queue, default_rings(kind.queue), 16);
        driver.chain(kind.queue, &[(DATA, 16, 0), (DATA + 0x1000, 513, WRITE)]);
        untouched(&mut driver, "before DRIVER_OK");
        driver.set_status(status::FAILED);
        driver.set_status(status::DRIVER_OK);
        untouched(&mut driver, "after FAILED");
        driver.write(reg::STATUS, 0);
        untouched(&mut driver, "after reset");
        driver.start(0);
        driver.set_status(status::FAILED);
        driver.chain(kind.queue, &[(DATA, 16, 0), (DATA + 0x1000, 513, WRITE)]);
        untouched(&mut driver, "FAILED while running");
        driver.start(0);
        assert!(kind.works(&mut driver), "{}", kind.name);
    }
}

/// A chain that was offered before DRIVER_OK is served after it without another kick.
#[test]
fn early_kick_is_not_lost() {
    let kind = KINDS.iter().find(|k| k.name == "rng").unwrap();
    let mut driver = kind.driver();
    driver.negotiate(0);
    driver.set_up_queue(0, default_rings(0), 16);
    let head = driver.chain(0, &[(DATA, 16, WRITE)]);
    driver.kick(0);
    driver.set_status(status::DRIVER_OK);
    driver.run();
    assert_eq!(driver.used(0), [(head, 16)]);
}

fn any_part() -> impl Strategy<Value = (u64, u32, u16)> {
    (0u64..0x4000, prop_oneof![1u32..32, 1u32..5000], prop::bool::ANY)
        .prop_map(|(at, len, write)| (DATA + 0x1000 + at, len, if write { WRITE } else { 0 }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    /// Q12, Q19: a device writes only where the driver let it, and says no more than it wrote.
    #[test]
    fn any_chain_changes_only_its_writable_parts_and_the_used_ring(
        which in 0..KINDS.len(),
        parts in prop::collection::vec(any_part(), 1..8),
        contents in prop::collection::vec(any::<u8>(), 256),
    ) {
        let kind = &KINDS[which];
        let mut driver = kind.started(0);
        let size = usize::try_from(HIGH_END - HIGH_START).unwrap();
        // The balloon takes what it reads for pages: for none that there are.
        let high = if kind.name == "balloon inflation" { 0x80 } else { 0 };
        let poison: Vec<u8> = contents.iter().map(|b| b | high).cycle().take(0x10000).collect();
        driver.poke(DATA, &poison);
        let high = vec![0xa5; size];
        driver.poke(HIGH_START, &high);
        // A frame to receive, for the device that does.
        if kind.name == "net receiving" {
            driver.poke(HIGH_START, &[0; 512]);
            driver.chain(1, &[(HIGH_START, 512, 0)]);
            driver.kick(1);
            driver.poke(HIGH_START, &[0xa5; 512]);
        }
        // A packet to be answered, likewise.
        if kind.name == "vsock receiving" {
            driver.poke(HIGH_START, &vsock_packet());
            driver.chain(1, &[(HIGH_START, 44, 0)]);
            driver.kick(1);
            driver.poke(HIGH_START, &[0xa5; 44]);
        }
        let mut parts = parts;
        parts.sort_by_key(|part| part.2);
        driver.chain(kind.queue, &parts);
        let rings = default_rings(kind.queue);
        let before_rings = driver.peek(rings.desc, 0x4100);
        driver.kick(kind.queue);
        driver.run_backend();

        let offered: u32 = parts.iter().filter(|p| p.2 == WRITE).map(|p| p.1).sum();
        for (_, len) in driver.used(kind.queue) {
            prop_assert!(len <= offered);
        }
        let after = driver.peek(DATA, 0x10000);
        let writable = |at: usize| {
            let at = DATA + u64::try_from(at).unwrap();
            parts.iter().any(|p| p.2 == WRITE && (p.0..p.0 + u64::from(p.1)).contains(&at))
        };
        for (at, (was, is)) in poison.iter().zip(&after).enumerate() {
            prop_assert!(was == is || writable(at), "{} wrote at +{:#x}", kind.name, at);
        }
        prop_assert!(driver.peek(HIGH_START, size) == high, "{} wrote elsewhere", kind.name);
        prop_assert_eq!(driver.peek(rings.desc, 0x4100), before_rings);
    }
}

fn one_a_second(direction: Direction) -> Change {
    let one = NonZeroU64::MIN;
    let operations = Some(Rate { per_second: one, burst: one });
    Change::Limit { direction, bytes: None, operations }
}

/// The devices that move data; a balloon has nothing to limit, and a console is waited for.
fn limited_kinds() -> impl Iterator<Item = &'static Kind> {
    let limited = |name: &str| !["balloon", "console"].iter().any(|kind| name.starts_with(kind));
    KINDS.iter().filter(move |kind| limited(kind.name))
}

/// A limited device does one request, then waits without being asked again and again; the timer
/// or another limit sets it going.
#[test]
fn limit_holds_every_device_until_it_is_time() {
    for kind in limited_kinds() {
        let mut driver = kind.started(RING_FEATURES);
        for direction in [Direction::Send, Direction::Receive] {
            driver.transport.update(&one_a_second(direction)).unwrap();
        }
        assert!(kind.works(&mut driver), "{}: the first", kind.name);
        assert!(!kind.works(&mut driver), "{}: the second, at once", kind.name);
        let mut waits = 0;
        let metrics = driver.transport.metrics();
        metrics.each(&mut |name, n| waits += if name == "throttled" { n } else { 0 });
        assert!(waits > 0, "{}", kind.name);
        let mut wanted = vec![];
        driver.transport.backend_fds(&mut wanted);
        assert!(!wanted.is_empty(), "{}: nothing would end the wait", kind.name);
        for direction in [Direction::Send, Direction::Receive] {
            let none = Change::Limit { direction, bytes: None, operations: None };
            driver.transport.update(&none).unwrap();
        }
        driver.start(RING_FEATURES);
        assert!(kind.works(&mut driver), "{}: without limits", kind.name);
    }
}

#[test]
fn wait_for_a_limit_ends_by_itself() {
    for kind in limited_kinds() {
        let mut driver = kind.started(RING_FEATURES);
        let rate = Rate { per_second: NonZeroU64::new(50).unwrap(), burst: NonZeroU64::MIN };
        for direction in [Direction::Send, Direction::Receive] {
            let change = Change::Limit { direction, bytes: None, operations: Some(rate) };
            driver.transport.update(&change).unwrap();
        }
        assert!(kind.works(&mut driver), "{}: the first", kind.name);
        assert!(!kind.works(&mut driver), "{}: the second, at once", kind.name);
        let before = driver.used_indices();
        std::thread::sleep(Duration::from_millis(25));
        assert!(driver.run_backend() > 0, "{}: the timer", kind.name);
        std::thread::sleep(Duration::from_millis(25));
        driver.run_backend();
        let after = driver.used_indices();
        assert_ne!(before, after, "{}: nothing was served after the wait", kind.name);
    }
}
