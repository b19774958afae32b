//! What happens to every device when several parties act at once, or one acts without end.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::chain::Chain;
use super::device::{Change, RING_FEATURES};

use super::mmio::{INTERRUPT_ACK, MmioTransport, QUEUE_NOTIFY, status};
use super::queue::{Queue, QueueConfig, RingFeatures};
use super::testing::{DATA, Desc, Driver, HIGH_END, INDIRECT, NEXT, WRITE, default_rings, reg};
use super::tests::KINDS;
use super::throttle::Direction;
use super::window::MmioWindow;
use crate::bus::{BusDevice, SharedDevice, lock};

/// Runs `work` and panics when it takes longer than `limit`.
fn within(limit: Duration, work: impl FnOnce() + Send + 'static) {
    let (done, finished) = mpsc::channel();
    let worker = thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    let outcome = finished.recv_timeout(limit);
    assert!(!matches!(outcome, Err(mpsc::RecvTimeoutError::Timeout)), "still busy after {limit:?}");
    worker.join().unwrap();
}

fn word(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

/// Writes to the registers as a vCPU does.
fn write(window: &MmioWindow, offset: u64, value: u32) {
    window.write(offset, &word(value));
}

/// The steps of a driver that resets the device and starts it, without looking at what it says.
fn restart(window: &MmioWindow, queues: usize) {
    write(window, reg::STATUS, 0);
    for bits in [status::ACKNOWLEDGE, status::ACKNOWLEDGE | status::DRIVER] {
        write(window, reg::STATUS, bits);
    }
    write(window, reg::DRIVER_FEATURES_SEL, 1);
    write(window, reg::DRIVER_FEATURES, 1);
    write(window, reg::STATUS, 0xb);
    for queue in 0..queues {
        let rings = default_rings(queue);
        write(window, reg::QUEUE_SEL, u32::try_from(queue).unwrap());
        write(window, reg::QUEUE_NUM, 16);
        for (offset, at) in [
            (reg::QUEUE_DESC, rings.desc),
            (reg::QUEUE_AVAIL, rings.avail),
            (reg::QUEUE_USED, rings.used),
        ] {
            write(window, offset, u32::try_from(at).unwrap());
        }
        write(window, reg::QUEUE_READY, 1);
    }
    write(window, reg::STATUS, 0xf);
}

/// M9: one vCPU resets and starts the device, another kicks and acknowledges, the event loop works
/// and changes it, all at once; nobody waits for ever, and the device works afterwards.
#[test]
fn resets_kicks_and_changes_at_once_never_deadlock() {
    const ROUNDS: usize = 100_000;
    let each = ROUNDS / KINDS.len();
    for kind in KINDS {
        let mut driver = kind.started(RING_FEATURES);
        let queues = driver.queue_count();
        let chain = [(DATA, 16, 0), (DATA + 0x1000, 513, WRITE)];
        for _ in 0..16 {
            driver.chain(kind.queue, &chain);
        }
        let transport = Arc::new(Mutex::new(driver.take_transport()));
        let shared = transport.clone();
        within(Duration::from_secs(60), move || {
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let window = MmioWindow::new(shared.clone());
                    while !over.load(Ordering::Relaxed) {
                        write(&window, QUEUE_NOTIFY, u32::try_from(kind.queue).unwrap());
                        write(&window, INTERRUPT_ACK, 3);
                        window.read(reg::STATUS, &mut [0; 4]);
                    }
                });
                scope.spawn(|| {
                    let mut wanted = vec![];
                    while !over.load(Ordering::Relaxed) {
                        for queue in 0..queues {
                            lock(&shared).process_queue(queue);
                        }
                        lock(&shared).backend_fds(&mut wanted);
                        let _ = lock(&shared).update(&Change::DiskSize);
                    }
                });
                let window = MmioWindow::new(shared.clone());
                (0..each).for_each(|_| restart(&window, queues));
                over.store(true, Ordering::Relaxed);
            });
        });
        driver.put_transport(Arc::into_inner(transport).unwrap().into_inner().unwrap());
        driver.reset_rings();
        driver.start(RING_FEATURES);
        assert!(kind.works(&mut driver), "{}", kind.name);
    }
}

/// Q20: another vCPU rewrites descriptors, indices and headers while the device reads them. What was
/// checked is what is used: the device works on, or needs a reset, and never leaves its memory.
#[test]
fn descriptors_rewritten_under_the_device_are_never_used_unchecked() {
    const TRIES: usize = 10_000_000;
    for kind in KINDS {
        let mut driver = kind.started(RING_FEATURES);
        let (mem, over) = (driver.mem.clone(), Arc::new(AtomicBool::new(false)));
        let tries = Arc::new(AtomicUsize::new(0));
        let rings = default_rings(kind.queue);
        let flipper = {
            let (over, tries) = (over.clone(), tries.clone());
            thread::spawn(move || {
                let addresses = [DATA, DATA + 0x1000, rings.used, HIGH_END - 8, u64::MAX, 0];
                let lengths = [1u32, 16, 513, u32::MAX, 0];
                let flags = [0, NEXT, WRITE, NEXT | WRITE, INDIRECT];
                let mut n = 0usize;
                while !over.load(Ordering::Relaxed) {
                    let at = rings.desc + u64::try_from(n % 16).unwrap() * 16;
                    let put = |offset, bytes: &[u8]| {
                        mem.write_slice(bytes, GuestAddress(at + offset)).unwrap();
                    };
                    match n % 3 {
                        0 => put(0, &addresses[n % addresses.len()].to_le_bytes()),
                        1 => put(8, &lengths[n % lengths.len()].to_le_bytes()),
                        _ => put(12, &flags[n % flags.len()].to_le_bytes()),
                    }
                    if n.is_multiple_of(64) {
                        let header = u32::try_from(n % 16).unwrap();
                        mem.write_slice(&word(header), GuestAddress(DATA)).unwrap();
                    }
                    n += 1;
                    tries.store(n, Ordering::Relaxed);
                }
            })
        };
        let begun = Instant::now();
        while tries.load(Ordering::Relaxed) < TRIES / KINDS.len() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", kind.name);
            driver.chain(kind.queue, &[(DATA, 16, 0), (DATA + 0x1000, 513, WRITE)]);
            driver.kick(kind.queue);
            driver.run_backend();
            if driver.needs_reset() {
                driver.start(RING_FEATURES);
            }
        }
        over.store(true, Ordering::Relaxed);
        flipper.join().unwrap();
        driver.start(RING_FEATURES);
        assert!(kind.works(&mut driver), "{}", kind.name);
    }
}

/// M11, Q24: whether it was broken or not, a reset leaves nothing behind. Descriptors are counted by
/// the device's own list and the transport's kicks: other tests open theirs in this process.
#[test]
fn hundred_thousand_resets_leave_the_device_as_it_was() {
    let each = 100_000 / KINDS.len();
    for kind in KINDS {
        let mut driver = kind.started(RING_FEATURES);
        let own = |transport: &mut MmioTransport| {
            let mut wanted = vec![];
            transport.backend_fds(&mut wanted);
            wanted.iter().map(|backend| backend.fd).collect::<HashSet<_>>()
        };
        let before = own(&mut driver.transport);
        for round in 0..each {
            if round % 16 == 0 {
                // Broken on the way: a chain that loops.
                driver.chain(kind.queue, &[(DATA, 16, NEXT), (DATA, 16, NEXT)]);
                driver.offer(kind.queue, 0xfff);
                driver.kick(kind.queue);
            }
            driver.start(RING_FEATURES);
            assert!(!driver.needs_reset(), "{} round {round}", kind.name);
        }
        assert_eq!(own(&mut driver.transport), before, "{}", kind.name);
        assert!(kind.works(&mut driver), "{}", kind.name);
    }
}

/// Q10: a driver that fills the ring and takes nothing back gets at most a ring of answers.
#[test]
fn ring_filled_and_never_emptied_is_bounded() {
    for kind in KINDS {
        let mut driver = kind.started(RING_FEATURES);
        for _ in 0..64 {
            for _ in 0..16 {
                driver.chain(kind.queue, &[(DATA, 16, 0), (DATA + 0x1000, 513, WRITE)]);
            }
            driver.kick(kind.queue);
            driver.run_backend();
            let used = driver.used(kind.queue);
            assert!(used.len() <= 16, "{}: {} of 16 offered", kind.name, used.len());
            if driver.needs_reset() {
                break;
            }
        }
        driver.start(RING_FEATURES);
        assert!(kind.works(&mut driver), "{}", kind.name);
    }
}

/// M10, M12: queues that the driver left out, and their doorbells, do nothing; the device starts and
/// resets all the same, and is silent afterwards.
#[test]
fn device_started_with_some_of_its_queues_works_on_none_of_the_others() {
    for kind in KINDS {
        let mut driver = Driver::new(kind.device());
        let queues = driver.queue_count();
        for left_out in 0..queues {
            driver.negotiate(RING_FEATURES);
            for queue in (0..queues).filter(|queue| *queue != left_out) {
                driver.set_up_queue(queue, default_rings(queue), 16);
            }
            driver.set_status(status::DRIVER_OK);
            let before = driver.used_indices();
            driver.chain(left_out, &[(DATA, 16, 0), (DATA + 0x1000, 513, WRITE)]);
            driver.kick(left_out);
            driver.run_backend();
            assert_eq!(driver.used_indices()[left_out], before[left_out], "{}", kind.name);
            driver.write(reg::STATUS, 0);
            driver.interrupts();
            (0..queues).for_each(|queue| driver.kick(queue));
            driver.run_backend();
            assert_eq!(driver.interrupts(), 0, "{}: an interrupt after the reset", kind.name);
        }
        driver.reset_rings();
        driver.start(RING_FEATURES);
        assert!(kind.works(&mut driver), "{}", kind.name);
    }
}

/// Q11: one wake of a queue that is always full ends, and so do kicks for nothing.
#[test]
fn one_wake_of_a_queue_without_end_is_bounded() {
    for kind in KINDS.iter().filter(|kind| kind.name != "net receiving") {
        let mut driver = kind.started(RING_FEATURES);
        // The driver makes every chain available again as soon as it is used.
        let (mem, rings) = (driver.mem.clone(), default_rings(kind.queue));
        driver.chain(kind.queue, &[(DATA, 16, 0), (DATA + 0x1000, 513, WRITE)]);
        let over = Arc::new(AtomicBool::new(false));
        let refill = {
            let over = over.clone();
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let used: u16 = mem.read_obj(GuestAddress(rings.used + 2)).unwrap();
                    let next = used.wrapping_add(16);
                    mem.write_obj(next.to_le(), GuestAddress(rings.avail + 2)).unwrap();
                }
            })
        };
        let begun = Instant::now();
        for _ in 0..200 {
            driver.transport.process_queue(kind.queue);
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", kind.name);
        over.store(true, Ordering::Relaxed);
        refill.join().unwrap();
        driver.start(RING_FEATURES);
        assert!(kind.works(&mut driver), "{}", kind.name);
    }
}

/// Q25: driver and device both say what they want to hear of next, and look again before they sleep.
/// At full speed on two processors, none of them is left asleep.
#[test]
fn neither_side_sleeps_through_what_the_other_did() {
    const CHAINS: u16 = 50_000;
    let kind = KINDS.iter().find(|kind| kind.name == "rng").unwrap();
    let mut driver = kind.started(RING_FEATURES);
    let (mem, line, rings) = (driver.mem.clone(), driver.line(), default_rings(0));
    let transport = driver.take_transport();
    let kick = transport.kicks()[0].try_clone().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut transport = transport;
        let over = &over;
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match transport.kicks()[0].read() {
                    Ok(_) => transport.process_queue(0),
                    Err(_) => thread::yield_now(),
                }
            }
        });
        let load = |at| mem.load::<u16>(GuestAddress(at), Ordering::Acquire).unwrap();
        let store = |at, value: u16| mem.store(value, GuestAddress(at), Ordering::Release).unwrap();
        (0..16).for_each(|n| {
            driver.put_desc(0, n, Desc { addr: DATA, len: 1, flags: WRITE, next: 0 });
        });
        let (mut offered, mut used) = (0, 0);
        while used < CHAINS {
            if offered < CHAINS && offered - used < 16 {
                store(rings.avail + 4 + u64::from(offered % 16) * 2, offered % 16);
                store(rings.avail + 2, offered + 1);
                fence(Ordering::SeqCst);
                // Section 2.7.10.1: a kick is wanted for the entry that the device named.
                if load(rings.used + 4 + 16 * 8) == offered {
                    kick.write(1).unwrap();
                }
                offered += 1;
                continue;
            }
            store(rings.avail + 4 + 16 * 2, used);
            fence(Ordering::SeqCst);
            let asked = Instant::now();
            while load(rings.used + 2) == used && line.take() == 0 {
                // Asleep until the interrupt, whatever the index says meanwhile.
                while line.take() == 0 {
                    let patience = asked.elapsed() < Duration::from_secs(20);
                    if !patience {
                        over.store(true, Ordering::Relaxed);
                    }
                    assert!(patience, "{offered} offered, {used} used: somebody sleeps");
                    thread::yield_now();
                }
            }
            used = load(rings.used + 2);
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// Q25, step by step: what comes between the last look and the wish to be told is not overlooked.
#[test]
fn what_comes_between_the_last_look_and_falling_asleep_is_seen() {
    let mut driver = Driver::new(KINDS.iter().find(|kind| kind.name == "rng").unwrap().device());
    let rings = default_rings(0);
    let config = QueueConfig {
        size: 16,
        ready: true,
        desc: rings.desc,
        avail: rings.avail,
        used: rings.used,
    };
    for event_idx in [false, true] {
        driver.start(RING_FEATURES);
        let features = RingFeatures { indirect: false, event_idx };
        let (mem, mut chain) = (driver.mem.clone(), Chain::default());
        let mut queue = Queue::new(16, config, features, &mem).unwrap();
        assert!(!queue.pop(&mem, &mut chain).unwrap());
        let head = driver.chain(0, &[(DATA, 1, WRITE)]);
        assert!(queue.enable_kicks(&mem).unwrap(), "a chain came meanwhile");
        assert!(queue.pop(&mem, &mut chain).unwrap());
        assert!(!queue.enable_kicks(&mem).unwrap());
        // The driver wants to hear of the next one, and says so after it was shown.
        let said = if event_idx { (rings.avail + 4 + 16 * 2, 0) } else { (rings.avail, 0) };
        let unwanted = if event_idx { 0x8000 } else { 1u16 };
        mem.write_obj(unwanted, GuestAddress(said.0)).unwrap();
        queue.push_used(&mem, head, 1).unwrap();
        mem.write_obj(said.1, GuestAddress(said.0)).unwrap();
        assert!(queue.needs_interrupt(&mem).unwrap());
        assert!(!queue.needs_interrupt(&mem).unwrap(), "once is enough");
    }
}

/// M9, with every order of the lock: a reset that the driver has seen done is never followed by work
/// on its queues, whoever kicked. The registers' interrupt part, which needs no lock, is not explored.
#[test]
fn queue_is_never_worked_on_after_a_reset_was_seen() {
    loom::model(|| {
        let kind = KINDS.iter().find(|kind| kind.name == "rng").unwrap();
        let mut driver = kind.started(RING_FEATURES);
        driver.chain(0, &[(DATA, 64, WRITE)]);
        let mem = driver.mem.clone();
        let transport = loom::sync::Arc::new(loom::sync::Mutex::new(driver.take_transport()));
        let worker = {
            let transport = transport.clone();
            loom::thread::spawn(move || transport.lock().unwrap().process_queue(0))
        };
        let changer = {
            let transport = transport.clone();
            loom::thread::spawn(move || {
                let direction = Direction::Send;
                let none = Change::Limit { direction, bytes: None, operations: None };
                transport.lock().unwrap().update(&none).unwrap();
            })
        };
        transport.lock().unwrap().write(reg::STATUS, &word(0));
        let mut seen = [0xff; 4];
        transport.lock().unwrap().read(reg::STATUS, &mut seen);
        assert_eq!(seen, [0; 4]);
        // The driver reuses its memory: from here on nothing may change it.
        mem.write_slice(&[0; 64], GuestAddress(DATA)).unwrap();
        let used: u16 = mem.read_obj(GuestAddress(default_rings(0).used + 2)).unwrap();
        worker.join().unwrap();
        changer.join().unwrap();
        let mut data = [0; 64];
        mem.read_slice(&mut data, GuestAddress(DATA)).unwrap();
        assert_eq!(data, [0; 64]);
        assert_eq!(mem.read_obj::<u16>(GuestAddress(default_rings(0).used + 2)).unwrap(), used);
    });
}
