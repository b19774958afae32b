//! Descriptor chains that are broken or odd, on every device: a device that meets one needs a
//! reset, and works after it; nothing else happens.

mod support;

use support::case::{Broken, Case, Either, Returned, SIZE, perform, ring};
use support::driver::{F_INDIRECT, Outcome, place};
use support::machine::{END_OF_4G, INTERRUPT_CONTROLLERS, RAM, WINDOWS};
use support::ring::{Desc, INDIRECT, NEXT, Ring, chained, table};
use support::script::{Script, Slot};
use support::subject::{
    BLOCK, BUFFER, Everything, RING, RNG, SPARE, TOP, on_every_device, on_every_device_with_memory,
};

/// Q1.
#[test]
fn chains_that_loop_break_the_device() {
    perform(|subject| {
        let part = subject.buffer(BUFFER, 16);
        let through_last: Vec<Desc> =
            (0..SIZE).map(|index| part.then((index + 1) % SIZE)).collect();
        vec![
            Case::chain("self-loop", &[part.then(0)], Broken),
            Case::chain("cycle of two", &[part.then(1), part.then(0)], Broken),
            Case::chain("loop behind a head", &[part.then(1), part.then(2), part.then(1)], Broken),
            Case::chain("loop through the last", &through_last, Broken),
        ]
    });
}

/// Q2.
#[test]
fn chain_as_long_as_the_queue_is_served_and_longer_ones_break_the_device() {
    perform(|subject| {
        let part = subject.buffer(BUFFER, 16);
        let longer = |count: u32| {
            Case::chain(format!("table of {count}"), &[Desc::indirect(SPARE, count)], Broken)
                .with_features(F_INDIRECT)
                .with_memory(SPARE, table(&chained(&vec![part; 64])))
        };
        let full = match subject.name {
            "block" => {
                let mut parts = vec![Desc::writable(BUFFER + 0x1000, 512); usize::from(SIZE)];
                parts[0] = Desc::readable(BUFFER, 16);
                parts[usize::from(SIZE) - 1] = Desc::writable(BUFFER + 0x2000, 1);
                parts
            }
            _ => vec![part; SIZE.into()],
        };
        vec![
            Case::chain("as long as the queue", &chained(&full), Returned(1)),
            longer(u32::from(SIZE) + 1),
            longer(32_768),
            longer(0x0fff_ffff),
        ]
    });
}

/// Q3.
#[test]
fn next_index_beyond_the_table_breaks_the_device() {
    perform(|subject| {
        let part = subject.buffer(BUFFER, 16);
        let beyond = |next| Case::chain(format!("next {next}"), &[part.then(next)], Broken);
        vec![beyond(SIZE), beyond(SIZE + 1), beyond(0x8000), beyond(u16::MAX)]
    });
}

/// Q4: buffers that are no memory break the device; those at address 0 or in the ring itself are
/// memory like any other.
#[test]
fn buffers_outside_memory_break_the_device() {
    perform(|subject| {
        let at = |address: u64| {
            Case::chain(format!("buffer at {address:#x}"), &[subject.buffer(address, 64)], Broken)
        };
        let own = |what, address| {
            let mut request = subject.request();
            let last = request.len() - 1;
            request[last.min(1)].addr = address;
            Case::chain(what, &request, if address == RAM { Returned(1) } else { Either })
        };
        vec![
            at(TOP),
            at(TOP - 1),
            at(TOP - 63),
            at(0xc000_0000),
            at(WINDOWS),
            at(INTERRUPT_CONTROLLERS[1]),
            at(1 << 32),
            at(1 << 63),
            at(u64::MAX),
            at(u64::MAX - 63),
            own("buffer where memory begins", RAM),
            own("buffer in the descriptor table", ring().desc),
            own("buffer in the available ring", ring().avail),
            own("buffer in the used ring", ring().used),
        ]
    });
}

/// Q4, Q16: neither buffers nor rings may span an end of memory, whether or not there is more behind it.
#[test]
fn buffers_and_rings_across_the_memory_hole_break_the_device() {
    on_every_device_with_memory(
        "4G",
        |subject, script| {
            let buffer = |address| Case::chain("buffer", &[subject.buffer(address, 64)], Broken);
            let ring = Ring { used: END_OF_4G - 8, ..ring() };
            let across = Case::chain("ring", &subject.request(), Broken).on(ring);
            [buffer(END_OF_4G - 32), buffer(END_OF_4G), across]
                .map(|case| (case.perform(subject, script), case))
        },
        |subject, cases, output| {
            cases.iter().for_each(|(outcome, case)| case.check(subject, outcome, output));
        },
    );
}

/// Q5.
#[test]
fn impossible_lengths_break_the_device() {
    perform(|subject| {
        let of = |len: u32| {
            Case::chain(format!("{len:#x} bytes"), &[subject.buffer(BUFFER, len)], Broken)
        };
        let wrapping = [subject.buffer(u64::MAX - 15, 64)];
        vec![
            of(0),
            of(u32::MAX),
            of(0x8000_0000),
            Case::chain("address and length wrap", &wrapping, Broken),
        ]
    });
}

/// Q5: lengths that are each possible, and together more than 32 bits hold.
#[test]
fn lengths_that_wrap_together_break_the_device() {
    const COUNT: u16 = 64;
    const LENGTH: u32 = 64 << 20;
    const { assert!(LENGTH as u64 * COUNT as u64 + 64 > u32::MAX as u64) };
    let big = Ring::at(RING, COUNT);
    on_every_device_with_memory(
        "128M",
        |subject, script| {
            let mut parts = vec![subject.buffer(RAM + 0x10_0000, LENGTH); COUNT.into()];
            parts[0].len += 64;
            let contents = big.contents().descriptors(0, &chained(&parts)).available(&[0]);
            let case = Case::new("sum of lengths", &contents, Broken).on(big);
            (case.perform(subject, script), case)
        },
        |subject, (outcome, case), output| case.check(subject, &outcome, output),
    );
}

/// Q13: a chain of a header alone, or of parts that all point the wrong way, a thousand times:
/// returned or refused, and no slot is lost.
#[test]
fn chains_without_their_essential_parts_leak_no_slot() {
    on_every_device(
        |subject, script| {
            let header = match subject.name {
                "block" => Desc::readable(BUFFER, 16),
                "net" => Desc::readable(BUFFER, 12),
                "balloon" => Desc::readable(BUFFER, 3),
                "console" => Desc::writable(BUFFER, 64),
                _ => Desc::readable(BUFFER, 64),
            };
            let full = [0; SIZE as usize];
            let contents = ring().contents().descriptors(0, &[header]).available(&full);
            script.repeat(1000 / u64::from(SIZE), |script| {
                place(script, &contents);
                subject.start(script, 0, &ring());
                subject.kick(script);
                subject.device.await_used(script, &ring(), SIZE);
            });
            subject.device.settle(script, &ring(), SIZE)
        },
        |subject, outcome, output| {
            let state = outcome.state(output);
            match subject.name {
                "net" | "vsock" => state.expect_returned(SIZE, subject.name),
                _ => state.expect_broken(subject.name),
            }
        },
    );
}

/// Q14.
#[test]
fn indirect_descriptors_follow_the_rules_or_break_the_device() {
    perform(|subject| {
        let request = table(&subject.request());
        let count = subject.request().len() as u32;
        let part = subject.buffer(BUFFER, 16);
        let to = |what: &str, head: Desc, inside: Vec<u8>, expected| {
            Case::chain(what, &[head, part], expected)
                .with_features(F_INDIRECT)
                .with_memory(SPARE, inside)
        };
        let whole = Desc::indirect(SPARE, count);
        let sized = |len| Desc { len, ..whole };
        let nested = table(&[Desc::indirect(SPARE + 0x1000, 1)]);
        let looped = table(&[part.then(1), part.then(0)]);
        let beyond = table(&[part.then(4), part, part, part]);
        let behind_a_part =
            Case::chain("table behind a descriptor", &[part.then(1), whole], Either);
        vec![
            to("table", whole, request.clone(), Returned(1)),
            to(
                "WRITE on the table",
                Desc { flags: INDIRECT | 2, ..whole },
                request.clone(),
                Returned(1),
            ),
            to("feature not negotiated", whole, request.clone(), Broken).with_features(0),
            to("table in a table", whole, nested, Broken),
            to(
                "table and NEXT",
                Desc { flags: INDIRECT | NEXT, next: 1, ..whole },
                request.clone(),
                Broken,
            ),
            to("table of 0 bytes", sized(0), request.clone(), Broken),
            to("table of 17 bytes", sized(17), request.clone(), Broken),
            to("table of 4 GiB", sized(u32::MAX), request.clone(), Broken),
            to("loop in the table", Desc::indirect(SPARE, 2), looped, Broken),
            to("next beyond the table", Desc::indirect(SPARE, 4), beyond, Broken),
            to("table outside memory", Desc::indirect(TOP, count), request.clone(), Broken),
            to("table across the end of memory", Desc::indirect(TOP - 8, count), request, Broken),
            behind_a_part.with_features(F_INDIRECT).with_memory(SPARE, table(&[part])),
        ]
    });
}

/// Q19: what is said to be written is written, and nothing beyond it is.
#[test]
fn no_more_is_written_than_the_used_length_says() {
    const POISON: u64 = 0xa5a5_a5a5_a5a5_a5a5;
    const ROOM: u32 = 0x2000;
    let mut script = Script::new();
    let mut performed: Vec<(&str, Outcome, Slot)> = Vec::new();
    // A request header of type `kind` at `sector`, and room for far more than the answer.
    let block = |kind: u32, sector: u64| {
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        let parts = [
            Desc::readable(BUFFER, 16),
            Desc::writable(SPARE, ROOM),
            Desc::writable(BUFFER + 0x1000, 1),
        ];
        (header, chained(&parts))
    };
    let (past_end, get_id, unknown) = (block(0, 1 << 40), block(8, 0), block(99, 0));
    let cases = [
        ("block read past the end", BLOCK, past_end),
        ("block id", BLOCK, get_id),
        ("unknown block request", BLOCK, unknown),
        ("entropy", RNG, (vec![0; 16], vec![Desc::writable(SPARE, 64)])),
    ];
    for (what, subject, (header, request)) in cases {
        script.copy(BUFFER, &header);
        script.fill(SPARE, ROOM.into(), POISON);
        place(&mut script, &ring().contents().descriptors(0, &request).available(&[0]));
        subject.start(&mut script, 0, &ring());
        subject.kick(&mut script);
        let outcome = subject.device.settle(&mut script, &ring(), 1);
        performed.push((what, outcome, script.dump(SPARE, ROOM as usize / 8)));
    }
    let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
    for (what, outcome, memory) in performed {
        let state = outcome.state(&end.stdout);
        state.expect_returned(1, what);
        let (written, rest) = memory.bytes(&end.stdout).split_at(state.used_len as usize);
        assert!(rest.iter().all(|byte| *byte == 0xa5), "{what}: more than {} bytes", written.len());
        let last = written.len().saturating_sub(64);
        let touched = written[last..].iter().any(|byte| *byte != 0xa5);
        assert!(written.is_empty() || touched, "{what}: less than {} bytes", written.len());
    }
}
