//! The balloon under a guest that gives away what it needs, what it does not have, and everything.

mod support;

use std::time::Duration;

use support::driver::{CONFIG_CHANGE, Outcome, place};
use support::machine::{INTERRUPT_CONTROLLERS, RAM, WINDOWS};
use support::process;
use support::ring::{Desc, Ring, chained};
use support::script::{Script, Slot, Width};
use support::subject::{BALLOON, BUFFER, Everything, RING, SPARE, TOP};
use support::vmm::MEMORY;

const STATS_VQ: u64 = 1 << 1;
const PAGE_REPORTING: u64 = 1 << 5;
const FEATURES: u64 = STATS_VQ | PAGE_REPORTING;

const INFLATE: u32 = 0;
const DEFLATE: u32 = 1;
const STATISTICS: u32 = 2;
const REPORTING: u32 = 3;

const PAGE: u64 = 4096;
const POISON: u64 = 0xa5a5_a5a5_a5a5_a5a5;

fn ring() -> Ring {
    Ring::at(RING, 64)
}

/// Offers `parts` as one chain `times` times.
fn offer(script: &mut Script, queue: u32, parts: &[Desc], times: usize) {
    let ring = ring();
    let contents = ring.contents().descriptors(0, &chained(parts)).available(&vec![0; times]);
    place(script, &contents);
    BALLOON.device.start(script, FEATURES, (queue, &ring));
    BALLOON.device.kick(script, queue);
}

/// Offers `parts` and waits for what comes of it.
fn request(script: &mut Script, queue: u32, parts: &[Desc]) -> Outcome {
    offer(script, queue, parts, 1);
    BALLOON.device.settle(script, &ring(), 1)
}

/// Puts the pages at `addresses` into the balloon.
fn inflate(script: &mut Script, addresses: impl IntoIterator<Item = u64>) -> Outcome {
    let frames: Vec<u32> = addresses.into_iter().map(|address| (address / PAGE) as u32).collect();
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
    script.copy(BUFFER, &bytes);
    request(script, INFLATE, &[Desc::readable(BUFFER, bytes.len() as u32)])
}

/// The first word of the page at `address`, and its last.
fn look(script: &mut Script, address: u64) -> [Slot; 2] {
    [0, PAGE - 8].map(|at| script.read(Width::B8, address + at))
}

#[track_caller]
fn expect(page: &[Slot; 2], word: u64, output: &[u8], what: &str) {
    page.iter().for_each(|slot| assert_eq!(slot.number(output), word, "{what}"));
}

/// Memory goes back to the host by both ways, and what was not named stays.
#[test]
fn memory_given_back_leaves_the_monitor_and_only_that() {
    const COUNT: u64 = 1024;
    for queue in [INFLATE, REPORTING] {
        let mut script = Script::new();
        // Queue and list are touched before: a huge page of the host comes whole.
        BALLOON.works(&mut script);
        script.fill(SPARE - PAGE, (COUNT + 2) * PAGE, POISON);
        script.pause();
        let paused = script.results() - 1;
        let outcome = match queue {
            INFLATE => inflate(&mut script, (0..COUNT).map(|page| SPARE + page * PAGE)),
            _ => {
                let half = (COUNT / 2 * PAGE) as u32;
                let parts = [SPARE, SPARE + u64::from(half)].map(|at| Desc::writable(at, half));
                request(&mut script, REPORTING, &parts)
            }
        };
        script.pause();
        let given = script.results() - 1;
        let pages = [0, COUNT / 2, COUNT - 1].map(|page| look(&mut script, SPARE + page * PAGE));
        let around = [SPARE - PAGE, SPARE + COUNT * PAGE].map(|page| look(&mut script, page));
        let end = given + 1 + (pages.len() + around.len()) * 16;
        assert_eq!(script.results(), end);

        let everything = Everything::new();
        let mut machine = everything.vmm(&script.then_reset()).spawn();
        machine.wait_for_output(paused);
        let before = process::resident(machine.pid());
        machine.type_in(b"\n");
        machine.wait_for_output(given);
        let after = process::resident(machine.pid());
        assert!(after + COUNT * PAGE * 9 / 10 < before, "from {before} to {after} bytes");
        machine.type_in(b"\n");
        let output = machine.finish().expect(0).stdout;
        outcome.state(&output).expect_returned(1, "memory");
        pages.iter().for_each(|page| expect(page, 0, &output, "given away"));
        around.iter().for_each(|page| expect(page, POISON, &output, "kept"));
    }
}

/// S6: page numbers beyond memory, in device windows, twice: what is memory is given back.
#[test]
fn page_numbers_that_are_no_memory_are_ignored() {
    let mut script = Script::new();
    script.fill(SPARE, 3 * PAGE, POISON);
    let nowhere = [TOP, WINDOWS, INTERRUPT_CONTROLLERS[0], INTERRUPT_CONTROLLERS[1]];
    let nowhere = nowhere.into_iter().chain([0xffff_ffff << 12, 4 << 30]);
    let named = nowhere.clone().chain([SPARE + PAGE, SPARE + PAGE]).chain(nowhere);
    let outcome = inflate(&mut script, named);
    let pages = [0, 1, 2].map(|page| look(&mut script, SPARE + page * PAGE));
    let works = BALLOON.works(&mut script);
    let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
    outcome.state(&end.stdout).expect_returned(1, "pages");
    expect(&pages[0], POISON, &end.stdout, "before");
    expect(&pages[1], 0, &end.stdout, "named");
    expect(&pages[2], POISON, &end.stdout, "behind");
    works.expect(&end.stdout, "page numbers that are none");
}

/// S6: the guest gives its own queue away, its list of pages with it.
#[test]
fn guest_that_gives_its_rings_away_gets_its_device_back_by_a_reset() {
    let mut script = Script::new();
    let rings = (0..2).map(|page| RING + page * PAGE);
    let list = (0..2).map(|page| BUFFER + page * PAGE);
    for _ in 0..20 {
        let frames: Vec<u64> = rings.clone().chain(list.clone()).collect();
        inflate(&mut script, frames);
        BALLOON.device.kick(&mut script, INFLATE);
        let ring = [Desc::writable(RING, 8192)];
        request(&mut script, REPORTING, &ring);
        BALLOON.device.kick(&mut script, REPORTING);
    }
    let works = BALLOON.works(&mut script);
    let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
    works.expect(&end.stdout, "giving away the rings");
}

/// S6: the guest gives all of its memory away, itself included: whatever becomes of the guest, the
/// monitor stays in hand.
#[test]
fn guest_that_gives_itself_away_is_its_own_loss() {
    let mut script = Script::new();
    script.value(Width::B1, 1);
    script.flush();
    offer(&mut script, REPORTING, &[Desc::writable(RAM, MEMORY as u32)], 1);
    let everything = Everything::new();
    let mut machine = everything.vmm(&script.then_idle()).spawn();
    machine.wait_for_output(1);
    std::thread::sleep(Duration::from_millis(300));
    // Its code is gone: it faults beyond recovery, or runs on through zeros.
    if machine.is_alive() {
        machine.terminate_soon();
    } else {
        assert_eq!(machine.finish().code(), 5);
    }
}

/// S6: statistics of gigabytes are looked at in part, and kept like any; with a second buffer the
/// first is returned.
#[test]
fn statistics_of_gigabytes_are_looked_at_in_part() {
    let mut script = Script::new();
    let parts = vec![Desc::readable(SPARE, 16 << 20); 63];
    offer(&mut script, STATISTICS, &parts, 1);
    let kept = BALLOON.device.settle_briefly(&mut script, &ring(), 1);
    let asked = BALLOON.device.settle(&mut script, &ring(), 1);
    let ring = ring();
    let two = [Desc::readable(BUFFER, 10), Desc::readable(BUFFER, 20)];
    place(&mut script, &ring.contents().descriptors(0, &two).available(&[0, 1]));
    BALLOON.device.start(&mut script, FEATURES, (STATISTICS, &ring));
    BALLOON.device.kick(&mut script, STATISTICS);
    let first = BALLOON.device.settle(&mut script, &ring, 1);
    let works = BALLOON.works(&mut script);
    let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
    kept.state(&end.stdout).expect_returned(0, "a buffer that is kept");
    asked.state(&end.stdout).expect_returned(1, "the buffer that asks for more");
    let state = first.state(&end.stdout);
    state.expect_returned(1, "the first of two");
    assert_eq!(state.used_head, 0);
    works.expect(&end.stdout, "statistics");
}

/// S6: what is no request to the balloon breaks it; reports that overlap are served.
#[test]
fn requests_of_a_wrong_form_break_the_balloon_alone() {
    let broken = [
        (INFLATE, vec![Desc::readable(BUFFER, 5)]),
        (INFLATE, vec![Desc::writable(BUFFER, 4)]),
        (DEFLATE, vec![Desc::readable(BUFFER, 4), Desc::writable(BUFFER, 4)]),
        (STATISTICS, vec![Desc::writable(BUFFER, 10)]),
        (REPORTING, vec![Desc::readable(SPARE, 4096)]),
        (REPORTING, vec![Desc::readable(SPARE, 4096), Desc::writable(SPARE, 4096)]),
        (REPORTING, vec![Desc::writable(SPARE, 4096), Desc::writable(TOP - 4096, 8192)]),
        (REPORTING, vec![Desc::writable(WINDOWS, 4096)]),
    ];
    let mut script = Script::new();
    script.fill(SPARE, PAGE, POISON);
    let broken: Vec<_> = broken
        .into_iter()
        .map(|(queue, parts)| {
            let outcome = request(&mut script, queue, &parts);
            (format!("{queue} {parts:x?}"), outcome, BALLOON.works(&mut script))
        })
        .collect();
    let kept = look(&mut script, SPARE);
    let overlapping = vec![Desc::writable(SPARE, 16 << 20); 64];
    let served = request(&mut script, REPORTING, &overlapping);
    let gone = look(&mut script, SPARE);
    let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
    for (what, outcome, works) in &broken {
        outcome.state(&end.stdout).expect_broken(what);
        works.expect(&end.stdout, what);
    }
    expect(&kept, POISON, &end.stdout, "nothing was given back");
    let state = served.state(&end.stdout);
    state.expect_returned(1, "reports that overlap");
    assert_eq!(state.interrupt & CONFIG_CHANGE, 0);
    expect(&gone, 0, &end.stdout, "reported");
}

/// S6, O3, O4: a storm of pages, reports and statistics neither grows the monitor nor outlives it.
#[test]
fn storm_of_requests_grows_nothing_and_ends_with_its_sender() {
    let mut script = Script::new();
    let frames: Vec<u8> =
        (0..1024u32).flat_map(|n| ((SPARE / PAGE) as u32 + n * 2).to_le_bytes()).collect();
    script.copy(BUFFER, &frames);
    let list = [Desc::readable(BUFFER, frames.len() as u32)];
    let storm = |script: &mut Script| {
        for (queue, parts) in [
            (INFLATE, &list[..]),
            (DEFLATE, &list[..]),
            (REPORTING, &[Desc::writable(SPARE, 16 << 20); 8]),
        ] {
            offer(script, queue, parts, 16);
            BALLOON.device.await_used(script, &ring(), 16);
        }
        offer(script, STATISTICS, &list, 16);
        BALLOON.device.await_used(script, &ring(), u16::MAX);
    };
    storm(&mut script);
    script.pause();
    let paused = script.results() - 1;
    script.repeat(5, |script| {
        script.fill(SPARE, 16 << 20, POISON);
        storm(script);
    });
    script.value(Width::B1, 1);
    let results = script.results();
    let everything = Everything::new();
    let mut machine = everything.vmm(&script.then_idle_after_flush()).spawn();
    machine.wait_for_output(paused);
    let before = machine.overhead();
    machine.type_in(b"\n");
    machine.wait_for_output(results);
    machine.assert_becomes_idle();
    let after = machine.overhead();
    assert!(after < before + (1 << 20), "grew from {before} to {after} bytes");
    machine.terminate();
}
