use proptest::prelude::*;

use super::status::*;
use super::*;
use crate::devices::virtio::device::{RING_FEATURES, read_config_bytes};
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::{
    DATA, Driver, HIGH_END, HIGH_START, LOW_END, Rings, WRITE, default_rings, reg,
};
use crate::devices::virtio::tests::{KINDS, Kind};

fn entropy() -> Driver {
    Driver::new(KINDS.iter().find(|k| k.name == "rng").unwrap().device())
}

/// M1: every width at every offset, read and written, and the device still works.
#[test]
fn any_access_at_any_offset_is_harmless_on_every_device() {
    for kind in KINDS {
        let mut driver = kind.started(RING_FEATURES);
        for offset in 0..MMIO_WINDOW {
            for width in [1usize, 2, 3, 4, 5, 8, 16] {
                let mut data = vec![0x5a; width];
                driver.transport.read(offset, &mut data);
                if width != 4 && offset < CONFIG_SPACE {
                    assert!(data.iter().all(|b| *b == 0), "{} {offset:#x} {width}", kind.name);
                }
                if offset != 0x70 {
                    driver.transport.write(offset, &vec![0xff; width]);
                }
            }
        }
        driver.run();
        assert!(!driver.needs_reset());
        driver.start(RING_FEATURES);
        assert!(kind.works(&mut driver), "{}", kind.name);
    }
}

/// M2.
#[test]
fn identity_registers_do_not_change_and_write_only_ones_read_zero() {
    let mut driver = entropy();
    for (offset, value) in [(0, 0x7472_6976), (4, 2), (8, 4), (0xc, VENDOR), (0x34, 64)] {
        driver.write(offset, 0x1234_5678);
        assert_eq!(driver.read(offset), value, "{offset:#x}");
    }
    for offset in [0x14, 0x20, 0x24, 0x30, 0x38, 0x50, 0x64, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
        assert_eq!(driver.read(offset), 0, "{offset:#x}");
    }
    assert_eq!([0xb0, 0xb4, 0xb8, 0xbc].map(|at| driver.read(at)), [u32::MAX; 4]);
    assert_eq!(driver.read(0xfc), 0, "ConfigGeneration");
}

/// What section 3.1.1 lets the status become; features are VERSION_1 alone.
fn next_status(status: u32, value: u32) -> u32 {
    if value == 0 {
        return 0;
    }
    let mut next = status | value & (ACKNOWLEDGE | DRIVER | FAILED);
    if value & FEATURES_OK != 0 && next & ACKNOWLEDGE != 0 && next & DRIVER != 0 {
        next |= FEATURES_OK;
    }
    if value & DRIVER_OK != 0 && next & FEATURES_OK != 0 && next & FAILED == 0 {
        next |= DRIVER_OK;
    }
    next
}

/// M3: no order of writes skips a step, takes one back or sets what only the device may set.
#[test]
fn every_pair_of_status_writes_follows_the_steps_of_the_specification() {
    let mut driver = entropy();
    for first in 0..=0xff {
        for second in 0..=0xff {
            driver.write(reg::STATUS, 0);
            driver.write(reg::STATUS, ACKNOWLEDGE | DRIVER);
            driver.write_features(F_VERSION_1);
            let mut wanted = ACKNOWLEDGE | DRIVER;
            for value in [first, second] {
                driver.write(reg::STATUS, value);
                if value == 0 {
                    // The features are gone with the reset.
                    driver.write(reg::STATUS, ACKNOWLEDGE | DRIVER);
                    driver.write_features(F_VERSION_1);
                    wanted = ACKNOWLEDGE | DRIVER;
                } else {
                    wanted = next_status(wanted, value);
                }
                assert_eq!(driver.status(), wanted, "{first:#x} then {second:#x}");
            }
        }
    }
}

/// M3: a driver that skips negotiation gets nowhere.
#[test]
fn driver_ok_without_features_ok_is_refused() {
    let mut driver = entropy();
    for value in [DRIVER_OK, ACKNOWLEDGE | DRIVER | DRIVER_OK, !FEATURES_OK] {
        driver.write(reg::STATUS, 0);
        driver.write(reg::STATUS, value);
        assert_eq!(driver.status() & (DRIVER_OK | DEVICE_NEEDS_RESET), 0);
    }
}

/// M4.
#[test]
fn feature_sets_the_device_did_not_offer_are_refused() {
    let mut driver = entropy();
    let offered = driver.offered();
    assert_eq!(offered, RING_FEATURES);
    for bit in 0..64 {
        let features = F_VERSION_1 | 1 << bit;
        driver.write(reg::STATUS, 0);
        driver.write(reg::STATUS, ACKNOWLEDGE | DRIVER);
        driver.write_features(features);
        driver.set_status(FEATURES_OK);
        assert_eq!(driver.status() & FEATURES_OK != 0, offered & features == features, "{bit}");
    }
    driver.write(reg::STATUS, 0);
    driver.write(reg::STATUS, ACKNOWLEDGE | DRIVER);
    driver.write_features(F_EVENT_IDX);
    driver.set_status(FEATURES_OK);
    assert_eq!(driver.status() & FEATURES_OK, 0, "without VERSION_1");
}

/// M4, M6.
#[test]
fn selectors_out_of_range_select_nothing() {
    let mut driver = entropy();
    driver.write(reg::STATUS, ACKNOWLEDGE | DRIVER);
    driver.write_features(F_VERSION_1);
    for select in [2, 3, 0x8000_0000, u32::MAX] {
        driver.write(reg::DEVICE_FEATURES_SEL, select);
        assert_eq!(driver.read(reg::DEVICE_FEATURES), 0);
        driver.write(reg::DRIVER_FEATURES_SEL, select);
        driver.write(reg::DRIVER_FEATURES, u32::MAX);
    }
    driver.set_status(FEATURES_OK);
    assert_ne!(driver.status() & FEATURES_OK, 0, "nothing unoffered was selected");
    for select in [1, 2, 0xffff, 0x1_0000, u32::MAX] {
        driver.write(reg::QUEUE_SEL, select);
        assert_eq!(driver.read(reg::QUEUE_NUM_MAX), 0);
        driver.write(reg::QUEUE_READY, 1);
        assert_eq!(driver.read(reg::QUEUE_READY), 0);
        driver.write(QUEUE_NOTIFY, select);
    }
    driver.run();
}

/// M4.
#[test]
fn features_written_after_features_ok_are_ignored() {
    let mut driver = entropy();
    driver.negotiate(0);
    driver.write_features(u64::MAX);
    driver.set_status(DRIVER_OK);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(driver.transport.driver_features, F_VERSION_1);
}

/// M5.
#[test]
fn queue_set_up_is_frozen_by_driver_ok_and_before_features_ok() {
    for kind in KINDS {
        let mut driver = kind.started(RING_FEATURES);
        let before = driver.transport.queues.clone();
        for offset in [0x38, 0x44, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
            for value in [0, 1, 0xffff_ffff] {
                driver.write(offset, value);
            }
        }
        assert_eq!(driver.transport.queues, before);
        assert!(kind.works(&mut driver), "{}", kind.name);
        driver.write(reg::STATUS, 0);
        driver.write(reg::STATUS, ACKNOWLEDGE | DRIVER);
        driver.write(reg::QUEUE_NUM, 8);
        assert!(driver.transport.queues.iter().all(|q| *q == QueueConfig::default()));
    }
}

/// M7.
#[test]
fn configuration_reads_zero_past_its_end_and_ignores_writes() {
    for kind in KINDS {
        let mut driver = kind.driver();
        let whole = |driver: &mut Driver| {
            let mut bytes = [0xaa; 0xf00];
            driver.transport.read(0x100, &mut bytes);
            bytes
        };
        let before = whole(&mut driver);
        assert!(before[64..].iter().all(|b| *b == 0));
        for offset in 0x100..MMIO_WINDOW {
            driver.transport.write(offset, &[0xff; 8]);
            let mut byte = [0xaa];
            driver.transport.read(offset, &mut byte);
            assert_eq!(byte[0], before[usize::try_from(offset - 0x100).unwrap()]);
        }
        assert_eq!(whole(&mut driver), before);
    }
}

/// M8.
#[test]
fn interrupt_status_stays_until_acknowledged_and_other_bits_change_nothing() {
    let mut driver = entropy();
    driver.start(0);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 0);
    for ack in [0, 2, 0xffff_fffe] {
        driver.chain(0, &[(DATA, 8, WRITE)]);
        driver.kick(0);
        driver.write(reg::INTERRUPT_ACK, ack);
        assert_eq!(driver.read(reg::INTERRUPT_STATUS), 1);
    }
    assert_eq!(driver.interrupts(), 3, "never acknowledged, still heard");
    for _ in 0..1000 {
        driver.write(reg::INTERRUPT_ACK, u32::MAX);
        assert_eq!(driver.read(reg::INTERRUPT_STATUS), 0);
    }
    driver.chain(0, &[(DATA, 8, 0)]);
    driver.kick(0);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 2, "configuration change");
    driver.write(reg::STATUS, 0);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 0);
}

fn set_up_and_start(kind: &Kind, rings: Rings, size: u16) -> Driver {
    let mut driver = kind.driver();
    driver.negotiate(0);
    driver.set_up_queue(kind.queue, rings, size);
    driver.set_status(DRIVER_OK);
    driver
}

/// Q16, Q17.
#[test]
fn queues_of_impossible_size_or_place_need_a_reset_at_driver_ok() {
    let good = default_rings(0);
    let cases = [
        (0, good),
        (3, good),
        (15, good),
        (512, good),
        (0x8000, good),
        (16, Rings { desc: good.desc + 8, ..good }),
        (16, Rings { avail: good.avail + 1, ..good }),
        (16, Rings { used: good.used + 2, ..good }),
        (16, Rings { desc: LOW_END, ..good }),
        (16, Rings { avail: HIGH_END, ..good }),
        (16, Rings { used: 0xd000_0000, ..good }),
        (16, Rings { desc: LOW_END - 240, ..good }),
        (16, Rings { avail: LOW_END - 36, ..good }),
        (16, Rings { used: HIGH_END - 132, ..good }),
        (16, Rings { desc: u64::MAX - 15, ..good }),
        (16, Rings { avail: u64::MAX - 1, ..good }),
        (16, Rings { used: u64::MAX - 3, ..good }),
    ];
    for kind in KINDS {
        for (size, rings) in cases {
            let mut driver = set_up_and_start(kind, rings, size);
            assert!(driver.needs_reset(), "{} {size} {rings:x?}", kind.name);
            assert_eq!(driver.interrupts(), 1);
            driver.kick(kind.queue);
            driver.reset_rings();
            driver.start(0);
            assert!(kind.works(&mut driver), "{}", kind.name);
        }
    }
}

/// Q16: rings that end with the last byte of memory are fine.
#[test]
fn rings_at_the_top_of_memory_work() {
    let rings = Rings { desc: LOW_END - 256, avail: HIGH_START, used: HIGH_END - 136 };
    let kind = KINDS.iter().find(|k| k.name == "rng").unwrap();
    let mut driver = set_up_and_start(kind, rings, 16);
    driver.run();
    assert!(!driver.needs_reset());
    for _ in 0..40 {
        let head = driver.chain(0, &[(DATA, 8, WRITE)]);
        driver.kick(0);
        assert_eq!(driver.used(0), [(head, 8)]);
    }
}

/// M10: only some queues are set up.
#[test]
fn device_with_a_queue_left_out_runs_and_resets() {
    for kind in KINDS {
        let mut driver = kind.driver();
        driver.negotiate(0);
        driver.set_status(DRIVER_OK);
        for queue in 0..3 {
            driver.write(QUEUE_NOTIFY, queue);
        }
        driver.run();
        driver.run_backend();
        assert!(!driver.needs_reset());
        driver.start(0);
        assert!(kind.works(&mut driver), "{}", kind.name);
    }
}

/// M11.
#[test]
fn thousands_of_resets_open_no_descriptor() {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    for kind in KINDS {
        let mut driver = kind.started(RING_FEATURES);
        for _ in 0..5000 {
            driver.start(RING_FEATURES);
        }
        assert!(kind.works(&mut driver));
    }
    // Other tests run beside this one: only a leak per reset would show here.
    assert!(count() < before + 1000);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u32),
    Bytes(u64, Vec<u8>),
    Read(u64, usize),
    Start(u64),
    Memory(u64, u16),
    Run,
}

fn any_step() -> impl Strategy<Value = Step> {
    let registers = prop::sample::select(vec![
        0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x70, 0x70, 0x80, 0x84, 0x90, 0x94,
        0xa0, 0xa4, 0xb0, 0x100,
    ]);
    let value = prop_oneof![
        4 => 0u32..4,
        2 => 0u32..256,
        1 => Just(16),
        1 => Just(0x1_0000),
        1 => any::<u32>(),
    ];
    prop_oneof![
        8 => (registers, value).prop_map(|(at, value)| Step::Write(at, value)),
        1 => (0..MMIO_WINDOW, prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Step::Bytes(at, bytes)),
        1 => (0..MMIO_WINDOW, 1usize..9).prop_map(|(at, len)| Step::Read(at, len)),
        2 => prop::sample::select(vec![0, RING_FEATURES]).prop_map(Step::Start),
        // Rings, where the driver has put them: descriptors, indices, entries.
        4 => (0x1_0000u64..0x2_0000, 0u16..20).prop_map(|(at, value)| Step::Memory(at & !1, value)),
        2 => (0u64..8, any::<u16>()).prop_map(|(at, value)| Step::Memory(0x1_4000 + at * 2, value)),
        2 => Just(Step::Run),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// M1-M8 in any order: nothing panics or hangs, the status is always one that the steps
    /// allow, and the device works after a reset.
    #[test]
    fn any_sequence_of_accesses_leaves_a_device_that_a_reset_brings_back(
        which in 0..KINDS.len(),
        steps in prop::collection::vec(any_step(), 0..60),
    ) {
        let kind = &KINDS[which];
        let mut driver = kind.driver();
        for step in steps {
            match step {
                Step::Write(at, value) => driver.write(at, value),
                Step::Bytes(at, bytes) => driver.transport.write(at, &bytes),
                Step::Read(at, len) => driver.transport.read(at, &mut vec![0; len]),
                Step::Start(features) => driver.start(features),
                Step::Memory(at, value) => driver.poke(at, &value.to_le_bytes()),
                Step::Run => {
                    driver.run();
                    driver.run_backend();
                }
            }
            let status = driver.status();
            prop_assert!(status & FEATURES_OK != 0 || status & DRIVER_OK == 0);
            prop_assert!(status & DRIVER != 0 || status & FEATURES_OK == 0);
            prop_assert_eq!(status & !(DRIVER_BITS | DEVICE_NEEDS_RESET), 0);
        }
        driver.reset_rings();
        driver.start(0);
        prop_assert!(kind.works(&mut driver));
    }
}

/// An entropy device whose configuration counts its changes.
#[derive(Default)]
struct Changing {
    inner: Rng,
    value: u8,
}

impl VirtioDevice for Changing {
    fn device_type(&self) -> u32 {
        self.inner.device_type()
    }
    fn features(&self) -> u64 {
        self.inner.features()
    }
    fn queue_sizes(&self) -> &[u16] {
        self.inner.queue_sizes()
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&[self.value], offset, data);
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (0, [value]) = (offset, data) {
            self.value = *value;
        }
    }
    fn activate(&mut self, activation: Activation) {
        self.inner.activate(activation);
    }
    fn deactivate(&mut self) -> Option<Vec<Queue>> {
        self.inner.deactivate()
    }
    fn process_queue(&mut self, index: usize) -> Result<Progress, QueueError> {
        self.inner.process_queue(index)
    }
    fn update(&mut self, change: &Change) -> Result<Visible, UpdateError> {
        match change {
            Change::DiskSize => Ok(Visible::Nothing),
            Change::BalloonTarget(_) => {
                self.value += 1;
                Ok(Visible::Config)
            }
            _ => Err(UpdateError::Unsupported),
        }
    }
}

/// Section 2.5.1: a driver that reads the generation before and after knows what it read.
#[test]
fn visible_change_counts_the_generation_up_and_interrupts_a_running_driver() {
    let mut driver = Driver::new(Box::new(Changing::default()));
    driver.transport.update(&Change::BalloonTarget(1)).unwrap();
    assert_eq!((driver.read(0xfc), driver.interrupts()), (1, 0), "nobody listens yet");
    driver.start(RING_FEATURES);
    driver.interrupts();
    driver.transport.update(&Change::BalloonTarget(1)).unwrap();
    assert_eq!((driver.read(0xfc), driver.interrupts()), (2, 1));
    assert_eq!(driver.read(reg::INTERRUPT_STATUS) & 2, 2);
    driver.transport.update(&Change::DiskSize).unwrap();
    driver.transport.update(&Change::ConsoleSize { columns: 80, rows: 25 }).unwrap_err();
    assert_eq!((driver.read(0xfc), driver.interrupts()), (2, 0));
}

#[test]
fn configuration_field_a_device_lets_be_written_reads_back() {
    let mut driver = Driver::new(Box::new(Changing::default()));
    driver.transport.write(CONFIG_SPACE, &[7]);
    driver.transport.write(CONFIG_SPACE + 1, &[8]);
    let mut seen = [0; 2];
    driver.transport.read(CONFIG_SPACE, &mut seen);
    assert_eq!(seen, [7, 0]);
}
