//! The entropy device: requests for far too much of it.

mod support;

use support::driver::place;
use support::ring::{Desc, Ring, chained};
use support::script::Script;
use support::subject::{Everything, RING, RNG, SPARE};
use support::vmm::Vmm;

/// Most bytes one request gets.
const MOST: u32 = 64 << 10;
const POISON: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// S5: buffers that overlap and add up to nearly 4 GiB get 64 KiB.
#[test]
fn request_for_4_gib_gets_64_kib() {
    const COUNT: u16 = 63;
    const LENGTH: u32 = 64 << 20;
    let ring = Ring::at(RING, 64);
    let parts = chained(&vec![Desc::writable(SPARE, LENGTH); COUNT.into()]);
    let mut script = Script::new();
    script.fill(SPARE, u64::from(MOST) * 2, POISON);
    place(&mut script, &ring.contents().descriptors(0, &parts).available(&[0; 64]));
    RNG.start(&mut script, 0, &ring);
    RNG.kick(&mut script);
    let outcome = RNG.device.settle(&mut script, &ring, 64);
    let filled = script.dump(SPARE + u64::from(MOST) - 64, 8);
    let behind = script.dump(SPARE + u64::from(MOST), 8);
    let works = RNG.works(&mut script);
    let end = Everything::new().vmm(&script.then_reset()).memory("128M").run().expect(0);
    let state = outcome.state(&end.stdout);
    state.expect_returned(64, "all of them");
    assert_eq!(state.used_len, MOST);
    assert!(filled.bytes(&end.stdout).iter().any(|byte| *byte != 0xa5));
    assert!(behind.bytes(&end.stdout).iter().all(|byte| *byte == 0xa5));
    works.expect(&end.stdout, "requests for 4 GiB");
}

#[test]
fn requests_get_different_bytes() {
    let ring = Ring::at(RING, 8);
    let mut script = Script::new();
    let ask = |script: &mut Script| {
        let parts = chained(&[Desc::writable(SPARE, 1), Desc::writable(SPARE + 1, 31)]);
        place(script, &ring.contents().descriptors(0, &parts).available(&[0]));
        RNG.start(script, 0, &ring);
        RNG.kick(script);
        (RNG.device.settle(script, &ring, 1), script.dump(SPARE, 4))
    };
    let (first, second) = (ask(&mut script), ask(&mut script));
    let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
    for (outcome, _) in [&first, &second] {
        let state = outcome.state(&end.stdout);
        state.expect_returned(1, "entropy");
        assert_eq!(state.used_len, 32);
    }
    assert_ne!(first.1.bytes(&end.stdout), second.1.bytes(&end.stdout));
}

/// S5, O3, O4: a storm of requests neither grows the monitor nor outlives its sender.
#[test]
fn storm_of_requests_grows_nothing_and_ends_with_its_sender() {
    let ring = Ring::at(RING, 64);
    let parts = chained(&[Desc::writable(SPARE, 1 << 20); 8]);
    let mut script = Script::new();
    RNG.works(&mut script);
    script.pause();
    script.repeat(50, |script| {
        place(script, &ring.contents().descriptors(0, &parts).available(&[0; 64]));
        RNG.start(script, 0, &ring);
        RNG.kick(script);
        RNG.device.await_used(script, &ring, 64);
    });
    script.value(support::script::Width::B1, 1);
    let results = script.results();
    let everything = Everything::new();
    let vmm: Vmm = everything.vmm(&script.then_idle_after_flush());
    let mut machine = vmm.spawn();
    machine.wait_for_output(results - 2);
    let before = machine.overhead();
    machine.type_in(b"\n");
    machine.wait_for_output(results);
    machine.assert_becomes_idle();
    let after = machine.overhead();
    assert!(after < before + (1 << 20), "grew from {before} to {after} bytes");
    machine.terminate();
}
