//! Rings that are broken, odd or poisoned, on every device: a device that meets one needs a
//! reset, and works after it; nothing else happens.

mod support;

use support::case::{Broken, Case, Either, Returned, SIZE, perform, ring};
use support::driver::{
    F_EVENT_IDX, F_VERSION_1, FAILED, Outcome, RUNNING, USED_BUFFER, place, reg,
};
use support::machine::WINDOWS;
use support::ring::Ring;
use support::script::{Script, Span, Width};
use support::subject::{BUFFER, Everything, NET, RING, RNG, SUBJECTS, TOP, Works, on_every_device};

/// Q6.
#[test]
fn available_index_out_of_step_breaks_the_device() {
    perform(|subject| {
        let contents = ring().contents().descriptors(0, &subject.request());
        let jump = |index| {
            let contents = contents.clone().available_index(index);
            Case::new(format!("index {index:#x}"), &contents, Broken)
        };
        vec![jump(SIZE + 1), jump(0x8000), jump(u16::MAX)]
    });
}

/// Q6: an index that goes backwards asks for nearly 65,536 chains.
#[test]
fn available_index_that_goes_backwards_breaks_the_device() {
    on_every_device(
        |subject, script| {
            let contents = ring().contents().descriptors(0, &subject.request());
            place(script, &contents.available(&[0, 0]));
            subject.start(script, 0, &ring());
            subject.kick(script);
            let forth = subject.device.settle(script, &ring(), 2);
            script.write(Width::B2, ring().avail + 2, 1);
            subject.kick(script);
            (forth, subject.device.settle(script, &ring(), u16::MAX))
        },
        |subject, (forth, back), output| {
            forth.state(output).expect_returned(2, subject.name);
            back.state(output).expect_broken(subject.name);
        },
    );
}

/// Q6: the indices wrap from 65,535 to 0 in the middle of a batch, and service goes on.
#[test]
fn indices_wrap_in_the_middle_of_a_batch() {
    const FIRST: u16 = 28;
    on_every_device(
        |subject, script| {
            // Batches as long as the queue; the last one goes past 65,536 by FIRST.
            let batch = subject.queue_size;
            let ring = Ring::at(RING, batch);
            let heads = vec![0; batch.into()];
            let contents = ring.contents().descriptors(0, &subject.request()).available(&heads);
            place(script, &contents.available_index(FIRST));
            subject.start(script, 0, &ring);
            subject.kick(script);
            subject.device.await_used(script, &ring, FIRST);
            let mut index = FIRST;
            for _ in 0..0x1_0000 / u32::from(batch) {
                index = index.wrapping_add(batch);
                script.write(Width::B2, ring.avail + 2, index.into());
                subject.kick(script);
                subject.device.await_used(script, &ring, index);
            }
            assert_eq!(index, FIRST);
            subject.device.settle(script, &ring, index)
        },
        |subject, last, output| last.state(output).expect_returned(FIRST, subject.name),
    );
}

/// Q7.
#[test]
fn heads_beyond_the_table_break_the_device_and_equal_heads_are_served() {
    perform(|subject| {
        let contents = ring().contents().descriptors(0, &subject.request());
        let head = |head| {
            let contents = contents.clone().available(&[head]);
            Case::new(format!("head {head:#x}"), &contents, Broken)
        };
        let equal = contents.clone().available(&[0; SIZE as usize]);
        vec![
            head(SIZE),
            head(0x8000),
            head(u16::MAX),
            Case::new("equal heads", &equal, Returned(SIZE)),
        ]
    });
}

/// Q8: whatever the driver says about when it wants an interrupt, the chain is returned.
#[test]
fn poisoned_event_indices_and_flags_lose_no_chain() {
    perform(|subject| {
        let contents = ring().contents().descriptors(0, &subject.request()).available(&[0]);
        let event = |event| {
            Case::new(
                format!("used_event {event:#x}"),
                &contents.clone().used_event(event),
                Returned(1),
            )
            .with_features(F_EVENT_IDX)
        };
        let flags = |flags, features| {
            Case::new("flags", &contents.clone().available_flags(flags), Returned(1))
                .with_features(features)
        };
        vec![
            event(0),
            event(1),
            event(0x7fff),
            event(0x8000),
            event(u16::MAX),
            flags(u16::MAX, 0),
            flags(u16::MAX, F_EVENT_IDX),
        ]
    });
}

/// Q8: an interrupt comes exactly when it was asked for.
#[test]
fn interrupt_comes_when_it_was_asked_for() {
    on_every_device(
        |subject, script| {
            let contents = ring().contents().descriptors(0, &subject.request()).available(&[0]);
            [
                (contents.clone().available_flags(0), 0, USED_BUFFER),
                (contents.clone().available_flags(1), 0, 0),
                (contents.clone().used_event(0), F_EVENT_IDX, USED_BUFFER),
                (contents.clone().used_event(1), F_EVENT_IDX, 0),
            ]
            .map(|(contents, features, expected)| {
                place(script, &contents);
                subject.start(script, features, &ring());
                subject.kick(script);
                // The interrupt follows the index: give it the time of another look.
                subject.device.await_used(script, &ring(), 1);
                (subject.device.settle_briefly(script, &ring(), u16::MAX), expected)
            })
        },
        |subject, cases, output| {
            for (outcome, expected) in cases {
                let state = outcome.state(output);
                assert_eq!(state.interrupt, expected, "{}: {state:x?}", subject.name);
            }
        },
    );
}

/// Q8: kicks without anything new, ten thousand of them, return nothing and break nothing.
#[test]
fn kicks_of_an_empty_queue_do_nothing() {
    on_every_device(
        |subject, script| {
            place(script, &ring().contents());
            subject.start(script, 0, &ring());
            let notify = subject.device.register(reg::QUEUE_NOTIFY);
            let kicks = Span { start: notify, count: 10_000, step: 0 };
            script.sweep_write(Width::B4, kicks, subject.queue.into());
            subject.device.settle_briefly(script, &ring(), 1)
        },
        |subject, outcome, output| {
            let state = outcome.state(output);
            state.expect_returned(0, subject.name);
            assert_eq!(state.interrupt, 0, "{}", subject.name);
        },
    );
}

/// Q15: rings that overlap one another, or the data, harm nothing but themselves.
#[test]
fn overlapping_rings_harm_only_themselves() {
    perform(|subject| {
        let contents = ring().contents().descriptors(0, &subject.request()).available(&[0]);
        let overlap = |what: &str, desc, avail, used| {
            Case::new(what, &contents, Either).on(Ring { size: SIZE, desc, avail, used })
        };
        let Ring { desc, avail, used, .. } = ring();
        vec![
            overlap("used over available", desc, avail, avail & !3),
            overlap("used over descriptors", desc, avail, desc),
            overlap("used over data", desc, avail, BUFFER),
            overlap("available over descriptors", desc, desc, used),
            overlap("everything at one place", desc, desc, desc),
        ]
    });
}

/// Q15: two queues of one device in the same memory.
#[test]
fn queues_that_share_their_rings_harm_only_themselves() {
    let mut script = Script::new();
    let contents = ring().contents().descriptors(0, &NET.request()).available(&[0; SIZE as usize]);
    place(&mut script, &contents);
    NET.device.negotiate(&mut script, F_VERSION_1);
    NET.device.set_queue(&mut script, 0, &ring());
    NET.device.set_queue(&mut script, 1, &ring());
    NET.device.driver_ok(&mut script);
    script.repeat(100, |script| {
        NET.device.kick(script, 0);
        NET.device.kick(script, 1);
    });
    let outcome = NET.device.settle_briefly(&mut script, &ring(), u16::MAX);
    let works = NET.works(&mut script);
    let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
    assert_eq!(outcome.state(&end.stdout).status & RUNNING, RUNNING);
    works.expect(&end.stdout, "shared rings");
}

/// Q16, Q17: rings that are misaligned or not in memory, and sizes that no queue has, break the
/// device at DRIVER_OK; rings that end where memory ends work.
#[test]
fn rings_of_wrong_size_or_place_break_the_device() {
    perform(|subject| {
        let contents = ring().contents().descriptors(0, &subject.request()).available(&[0]);
        let on = |what: &str, ring| Case::new(what, &contents, Broken).on(ring);
        let used_len = 6 + 8 * u64::from(SIZE);
        let mut cases = vec![
            on("descriptors at 8", Ring { desc: RING + 8, ..ring() }),
            on("available ring at an odd address", Ring { avail: ring().avail + 1, ..ring() }),
            on("used ring at 2", Ring { used: ring().used + 2, ..ring() }),
            on("descriptors beyond memory", Ring { desc: TOP, ..ring() }),
            on("available ring beyond memory", Ring { avail: TOP - 2, ..ring() }),
            on("used ring beyond memory", Ring { used: TOP - 4, ..ring() }),
            on("descriptors at the end of addresses", Ring { desc: !15, ..ring() }),
            on("used ring over a device", Ring { used: WINDOWS, ..ring() }),
        ];
        for size in [0, 3, 257, 512, 0x8000, u16::MAX] {
            cases.push(on(&format!("size {size}"), Ring { size, ..ring() }));
        }
        let top = (TOP - used_len) & !3;
        let at_top = Case::new("used ring at the top", &contents, Returned(1))
            .with_memory(TOP - 128, vec![0; 128])
            .on(Ring { used: top, ..ring() });
        cases.push(at_top);
        cases
    });
}

/// Q17: a size that a 16-bit register would cut down to a legal one.
#[test]
fn sizes_beyond_16_bits_break_the_device() {
    on_every_device(
        |subject, script| {
            place(script, &ring().contents());
            subject.device.negotiate(script, F_VERSION_1);
            subject.device.set_queue(script, subject.queue, &ring());
            subject.device.write(script, reg::QUEUE_NUM, 0x1_0008);
            subject.device.driver_ok(script);
            subject.device.settle(script, &ring(), u16::MAX)
        },
        |subject, outcome, output| outcome.state(output).expect_broken(subject.name),
    );
}

/// Q18: what the guest writes over the used ring does not move the device's own position.
#[test]
fn used_ring_written_by_the_guest_is_not_believed() {
    on_every_device(
        |subject, script| {
            let contents = ring().contents().descriptors(0, &subject.request()).available(&[0]);
            place(script, &contents.poison_used(u16::MAX, 0x1234));
            subject.start(script, 0, &ring());
            subject.kick(script);
            let first = subject.device.settle(script, &ring(), 1);
            script.write(Width::B2, ring().used_index(), 0xfffe);
            script.write(Width::B2, ring().avail + 2, 2);
            subject.kick(script);
            (first, subject.device.settle(script, &ring(), 2))
        },
        |subject, (first, second), output| {
            first.state(output).expect_returned(1, subject.name);
            second.state(output).expect_returned(2, subject.name);
        },
    );
}

/// Q21: kicks before DRIVER_OK, after FAILED and after a reset serve nothing; what was kicked
/// before DRIVER_OK is served by it.
#[test]
fn kicks_are_served_only_at_work() {
    on_every_device(
        |subject, script| {
            let contents = ring().contents().descriptors(0, &subject.request()).available(&[0]);
            place(script, &contents);
            subject.device.negotiate(script, F_VERSION_1);
            subject.device.set_queue(script, subject.queue, &ring());
            subject.kick(script);
            let early = subject.device.settle_briefly(script, &ring(), 1);
            subject.device.driver_ok(script);
            let served = subject.device.settle(script, &ring(), 1);

            subject.device.write(script, reg::STATUS, RUNNING | FAILED);
            place(script, &contents);
            script.write(Width::B2, ring().avail + 2, 2);
            subject.kick(script);
            let failed = subject.device.settle_briefly(script, &ring(), 2);

            subject.device.reset(script);
            place(script, &contents);
            subject.kick(script);
            let reset = subject.device.settle_briefly(script, &ring(), 1);
            (served, [early, failed, reset])
        },
        |subject, (served, idle), output| {
            served.state(output).expect_returned(1, subject.name);
            for state in idle.map(|outcome| outcome.state(output)) {
                assert_eq!(state.used_index, 0, "{}: {state:x?}", subject.name);
            }
        },
    );
}

/// Q23: broken and brought back a thousand times.
#[test]
fn device_recovers_from_corruption_a_thousand_times() {
    const TIMES: usize = 1000;
    for subject in SUBJECTS {
        let mut script = Script::new();
        let looped = [subject.buffer(BUFFER, 16).then(0)];
        let case = Case::chain("loop", &looped, Broken);
        let performed: Vec<(Outcome, Works)> = (0..TIMES)
            .map(|_| (case.perform(&subject, &mut script), subject.works(&mut script)))
            .collect();
        let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
        for (outcome, works) in performed {
            case.check(&subject, &outcome, &end.stdout);
            works.expect(&end.stdout, "corruption");
        }
    }
}

/// O8: a guest that breaks its rings as fast as it can does not flood the log.
#[test]
fn flood_of_broken_rings_is_logged_within_bounds() {
    const ROUNDS: u64 = 5000;
    let mut script = Script::new();
    let writes = [
        (reg::STATUS, 0),
        (reg::STATUS, 3),
        (reg::DRIVER_FEATURES_SEL, 1),
        (reg::DRIVER_FEATURES, 1),
        (reg::STATUS, 11),
        (reg::QUEUE_NUM, 3),
        (reg::QUEUE_READY, 1),
        (reg::STATUS, 15),
    ]
    .map(|(register, value)| (register as u32, value));
    script.repeat(ROUNDS, |script| script.program(RNG.device.register(0), &writes));
    let works = RNG.works(&mut script);
    let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
    works.expect(&end.stdout, "a flood");
    let said = end.stderr.lines().filter(|line| line.contains("needs a reset")).count() as u64;
    assert!((1..=ROUNDS).contains(&said), "{said} messages");
}
