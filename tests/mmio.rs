//! The virtio-mmio registers of every device, used in every way but the right one.

mod support;

use support::driver::{
    ACKNOWLEDGE, CONFIG_CHANGE, DRIVER, DRIVER_OK, F_INDIRECT, F_VERSION_1, FAILED, FEATURES_OK,
    NEEDS_RESET, RUNNING, USED_BUFFER, place, reg,
};
use support::ring::Ring;
use support::script::{Script, Slot, Span, Sweep, Width};
use support::subject::{Everything, RING, SUBJECTS, Subject, on_every_device};

/// `count` accesses one byte apart, from register `offset` on.
fn bytes(subject: &Subject, offset: u64, count: u64) -> Span {
    Span { start: subject.device.register(offset), count, step: 1 }
}

/// M1: registers answer to aligned accesses of 4 bytes alone; others read 0.
#[test]
fn registers_read_zero_unless_read_whole() {
    let build = |subject: &Subject, script: &mut Script| {
        let mut sweeps: Vec<Sweep> = [Width::B1, Width::B2, Width::B8]
            .map(|width| script.sweep_read(width, bytes(subject, 0, reg::CONFIG), 0))
            .into();
        for unaligned in 1..4 {
            let span = Span { count: 64, step: 4, ..bytes(subject, unaligned, 0) };
            // The last one reaches into the configuration space and is a register's still.
            sweeps.push(script.sweep_read(Width::B4, span, 0));
        }
        sweeps
    };
    on_every_device(build, |subject, sweeps, output| {
        for (index, sweep) in sweeps.iter().enumerate() {
            sweep.expect_uniform(output, &format!("{} sweep {index}", subject.name));
        }
    });
}

/// M1, M2: writes of any width, alignment and value anywhere in the window leave the identity of
/// the device alone, and a reset brings it back to work.
#[test]
fn writes_all_over_the_window_are_survived() {
    let build = |subject: &Subject, script: &mut Script| {
        for value in [u64::MAX, 0x0102_0304_0506_0708] {
            for width in Width::MEMORY {
                script.sweep_write(width, bytes(subject, 0, 0x1000), value);
            }
        }
        identity(subject, script)
    };
    on_every_device(build, |subject, slots, output| expect_identity(subject, &slots, output));
}

fn identity(subject: &Subject, script: &mut Script) -> [Slot; 4] {
    [reg::MAGIC, reg::VERSION, reg::DEVICE_ID, reg::CONFIG_GENERATION]
        .map(|register| subject.device.read(script, register))
}

fn expect_identity(subject: &Subject, slots: &[Slot; 4], output: &[u8]) {
    let found = slots.each_ref().map(|slot| slot.number(output));
    let expected = [0x7472_6976, 2, subject.device_type, 0];
    assert_eq!(found, expected, "{}", subject.name);
}

/// M2: registers that are read-only keep their value, those that are write-only and those that
/// do not exist read 0.
#[test]
fn read_only_registers_keep_their_value_and_the_others_read_zero() {
    const READ_ONLY: [u64; 9] = [
        reg::MAGIC,
        reg::VERSION,
        reg::DEVICE_ID,
        reg::VENDOR,
        reg::DEVICE_FEATURES,
        reg::QUEUE_NUM_MAX,
        reg::INTERRUPT_STATUS,
        reg::CONFIG_GENERATION,
        reg::CONFIG,
    ];
    // Status and QueueReady can be read and written; the shared memory registers read all ones.
    let readable = |offset: u64| {
        READ_ONLY.contains(&offset)
            || [reg::STATUS, reg::QUEUE_READY].contains(&offset)
            || (0xb0..=0xbc).contains(&offset)
    };
    let build = |subject: &Subject, script: &mut Script| {
        subject.device.reset(script);
        let before = READ_ONLY.map(|register| subject.device.read(script, register));
        for register in READ_ONLY {
            subject.device.write(script, register, 0xa5a5_a5a5);
        }
        let after = READ_ONLY.map(|register| subject.device.read(script, register));
        let others: Vec<(u64, Slot)> = (0..reg::CONFIG)
            .step_by(4)
            .filter(|offset| !readable(*offset))
            .map(|offset| (offset, subject.device.read(script, offset)))
            .collect();
        (before, after, others)
    };
    on_every_device(build, |subject, (before, after, others), output| {
        for ((before, after), register) in before.iter().zip(&after).zip(READ_ONLY) {
            let (before, after) = (before.number(output), after.number(output));
            assert_eq!(before, after, "{} {register:#x}", subject.name);
        }
        for (offset, slot) in others {
            assert_eq!(slot.number(output), 0, "{} {offset:#x}", subject.name);
        }
    });
}

/// What the status register shows after `write` when it showed `status`: virtio 1.3, sections
/// 2.1 and 3.1.1, for a driver that accepted the right features.
fn next_status(status: u64, write: u64) -> u64 {
    if write == 0 {
        return 0;
    }
    let mut next = status | write & (ACKNOWLEDGE | DRIVER | FAILED);
    if write & FEATURES_OK != 0 && next & DRIVER != 0 && next & ACKNOWLEDGE != 0 {
        next |= FEATURES_OK;
    }
    if write & DRIVER_OK != 0 && next & FEATURES_OK != 0 && next & FAILED == 0 {
        next |= DRIVER_OK;
    }
    next
}

/// M3: every value after every combination of the bits that mean something.
#[test]
fn status_follows_the_driver_through_every_transition() {
    const BITS: [u64; 6] = [ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED];
    let subject = SUBJECTS[2];
    let (mut script, mut cases) = (Script::new(), Vec::new());
    for combination in 0..1u64 << BITS.len() {
        let bit = |index: usize| if combination >> index & 1 == 1 { BITS[index] } else { 0 };
        let first = (0..BITS.len()).map(bit).sum::<u64>();
        let slot = script.every_byte(
            subject.device.register(0),
            reg::STATUS as u32,
            &[
                (reg::STATUS as u32, 0),
                (reg::STATUS as u32, (ACKNOWLEDGE | DRIVER) as u32),
                (reg::DRIVER_FEATURES_SEL as u32, 1),
                (reg::DRIVER_FEATURES as u32, (F_VERSION_1 >> 32) as u32),
                (reg::STATUS as u32, first as u32),
            ],
        );
        cases.push((first, slot));
    }
    let works = subject.works(&mut script);
    let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
    for (first, slot) in cases {
        let before = next_status(ACKNOWLEDGE | DRIVER, first);
        // A reset takes the features back, too.
        for (second, status) in (0..256).zip(slot.bytes(&end.stdout)) {
            let without =
                |bits: u64| if first == 0 { bits & !FEATURES_OK & !DRIVER_OK } else { bits };
            let expected = without(next_status(before, second));
            assert_eq!(u64::from(*status), expected, "{first:#x}, then {second:#x}");
        }
    }
    works.expect(&end.stdout, "all transitions");
}

/// M4: features that were not offered, or not with VERSION_1, are refused; after FEATURES_OK
/// nothing changes any more; and selectors beyond the words there are read 0.
#[test]
fn features_are_refused_unless_offered_and_in_time() {
    const UNKNOWN: u64 = 1 << 40;
    let build = |subject: &Subject, script: &mut Script| {
        let status = |script: &mut Script, features| {
            subject.device.negotiate(script, features);
            subject.device.read(script, reg::STATUS)
        };
        let refused = [0, F_INDIRECT, F_VERSION_1 | UNKNOWN, u64::MAX, UNKNOWN]
            .map(|features| status(script, features));
        let accepted = status(script, F_VERSION_1 | F_INDIRECT);
        // Too late: were it taken, DRIVER_OK could not follow.
        subject.device.write(script, reg::DRIVER_FEATURES_SEL, 1);
        subject.device.write(script, reg::DRIVER_FEATURES, 0);
        subject.device.driver_ok(script);
        let running = subject.device.read(script, reg::STATUS);
        let beyond = [2, 31, u64::from(u32::MAX)].map(|select| {
            subject.device.write(script, reg::DEVICE_FEATURES_SEL, select);
            subject.device.read(script, reg::DEVICE_FEATURES)
        });
        (refused, accepted, running, beyond)
    };
    on_every_device(build, |subject, (refused, accepted, running, beyond), output| {
        for slot in refused {
            assert_eq!(slot.number(output), ACKNOWLEDGE | DRIVER, "{}", subject.name);
        }
        let accepted = accepted.number(output);
        assert_eq!(accepted, ACKNOWLEDGE | DRIVER | FEATURES_OK, "{}", subject.name);
        assert_eq!(running.number(output), RUNNING, "{}", subject.name);
        assert!(beyond.iter().all(|slot| slot.number(output) == 0), "{}", subject.name);
    });
}

/// M4: a driver that skips FEATURES_OK does not get the device to work.
#[test]
fn device_does_not_start_without_features_ok() {
    let build = |subject: &Subject, script: &mut Script| {
        subject.device.reset(script);
        subject.device.write(script, reg::STATUS, ACKNOWLEDGE | DRIVER | DRIVER_OK);
        subject.device.read(script, reg::STATUS)
    };
    on_every_device(build, |subject, status, output| {
        assert_eq!(status.number(output), ACKNOWLEDGE | DRIVER, "{}", subject.name);
    });
}

/// M5, Q17: size, addresses and readiness of a queue are frozen at DRIVER_OK.
#[test]
fn queue_registers_written_at_work_are_ignored() {
    let ring = Ring::at(RING, 8);
    let build = |subject: &Subject, script: &mut Script| {
        let contents = ring.contents().descriptors(0, &subject.request()).available(&[0]);
        place(script, &contents);
        subject.start(script, 0, &ring);
        subject.device.write(script, reg::QUEUE_SEL, subject.queue.into());
        for (register, value) in [
            (reg::QUEUE_NUM, 4),
            (reg::QUEUE_DESC, 0xdead_0000),
            (reg::QUEUE_AVAIL + 4, 0xffff_ffff),
            (reg::QUEUE_USED, 0),
            (reg::QUEUE_READY, 0),
        ] {
            subject.device.write(script, register, value);
        }
        let ready = subject.device.read(script, reg::QUEUE_READY);
        subject.kick(script);
        (ready, subject.device.settle(script, &ring, 1))
    };
    on_every_device(build, |subject, (ready, outcome), output| {
        assert_eq!(ready.number(output), 1, "{}", subject.name);
        outcome.state(output).expect_returned(1, subject.name);
    });
}

/// M6: selecting a queue that does not exist shows a queue of no entries, which takes nothing;
/// kicks of such a queue are ignored.
#[test]
fn queues_that_do_not_exist_are_empty_and_take_nothing() {
    const SELECTED: [u32; 4] = [0x7f, 0x100, 0x8000_0000, u32::MAX];
    let build = |subject: &Subject, script: &mut Script| {
        subject.device.negotiate(script, F_VERSION_1);
        let looks: Vec<(Slot, Slot)> = SELECTED
            .into_iter()
            .chain([subject.queues])
            .map(|index| {
                subject.device.set_queue(script, index, &Ring::at(RING, 8));
                subject.device.kick(script, index);
                let size = subject.device.read(script, reg::QUEUE_NUM_MAX);
                (size, subject.device.read(script, reg::QUEUE_READY))
            })
            .collect();
        subject.device.driver_ok(script);
        SELECTED.iter().for_each(|index| subject.device.kick(script, *index));
        (looks, subject.device.read(script, reg::STATUS))
    };
    on_every_device(build, |subject, (looks, status), output| {
        for (size, ready) in looks {
            assert_eq!((size.number(output), ready.number(output)), (0, 0), "{}", subject.name);
        }
        assert_eq!(status.number(output), RUNNING, "{}", subject.name);
    });
}

/// M7, N10: the configuration space reads 0 past its end, in any width, and takes no writes.
#[test]
fn configuration_reads_zero_past_its_end_and_takes_no_writes() {
    /// More than the longest configuration here, in bytes.
    const LENGTH: u64 = 64;
    let build = |subject: &Subject, script: &mut Script| {
        let config = subject.device.register(reg::CONFIG);
        let before = script.dump(config, LENGTH as usize / 8);
        for width in Width::MEMORY {
            script.sweep_write(width, bytes(subject, reg::CONFIG, 0xf00), u64::MAX);
        }
        let after = script.dump(config, LENGTH as usize / 8);
        let past = Width::MEMORY.map(|width| {
            let span = bytes(subject, reg::CONFIG + LENGTH, 0xf00 - LENGTH - 8);
            script.sweep_read(width, span, 0)
        });
        (before, after, past)
    };
    on_every_device(build, |subject, (before, after, past), output| {
        assert_eq!(before.bytes(output), after.bytes(output), "{}", subject.name);
        past.iter().for_each(|sweep| sweep.expect_uniform(output, subject.name));
    });
}

/// M8: acknowledging what is not pending does nothing, however often; what is never acknowledged
/// stays; and bits are acknowledged one by one.
#[test]
fn interrupts_stay_until_they_are_acknowledged() {
    let ring = Ring::at(RING, 8);
    let build = |subject: &Subject, script: &mut Script| {
        let contents = ring.contents().descriptors(0, &subject.request()).available(&[0]);
        place(script, &contents);
        subject.start(script, 0, &ring);
        subject.kick(script);
        let first = subject.device.settle(script, &ring, 1);
        let other_bits = !USED_BUFFER;
        let acks = Span { count: 5000, step: 0, ..bytes(subject, reg::INTERRUPT_ACK, 0) };
        script.sweep_write(Width::B4, acks, other_bits);
        let kept = subject.device.read(script, reg::INTERRUPT_STATUS);
        place(script, &contents.clone().available(&[0, 0]));
        subject.kick(script);
        let second = subject.device.settle(script, &ring, 2);
        subject.device.write(script, reg::INTERRUPT_ACK, USED_BUFFER);
        (first, kept, second, subject.device.read(script, reg::INTERRUPT_STATUS))
    };
    on_every_device(build, |subject, (first, kept, second, acknowledged), output| {
        for state in [first.state(output), second.state(output)] {
            assert_eq!(state.interrupt, USED_BUFFER, "{}", subject.name);
            assert_eq!(state.interrupt & CONFIG_CHANGE, 0, "{}", subject.name);
        }
        assert_eq!(kept.number(output), USED_BUFFER, "{}", subject.name);
        assert_eq!(acknowledged.number(output), 0, "{}", subject.name);
    });
}
