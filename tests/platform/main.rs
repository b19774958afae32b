//! What the platform around the devices takes from a guest, and how it ends a machine: what is not there does
//! nothing, and what is there bears any value in any width.

#![expect(unreachable_pub, reason = "a program has no users but its own modules")]

#[path = "../support/mod.rs"]
mod support;

vmm::by_architecture! {
    aarch64 {
        mod aarch64;
        use aarch64::{FEATURE_REFUSED, empty_addresses};
    }
    x86_64 {
        mod x86_64;
        use x86_64::{FEATURE_REFUSED, empty_addresses};
    }
}

use support::script::{Script, Span, Sweep, Width};
use support::vmm::Vmm;

/// K11: memory addresses with nothing behind them read all ones and drop what is written.
#[test]
fn empty_addresses_read_all_ones_even_after_writes() {
    let mut script = Script::new();
    let mut sweeps: Vec<(Width, Span, Sweep)> = Vec::new();
    for span in empty_addresses() {
        script.sweep_write(Width::B8, span, 0);
        script.sweep_write(Width::B1, span, 0xfe);
        for width in [Width::B1, Width::B8] {
            sweeps.push((width, span, script.sweep_read(width, span, width.ones())));
        }
    }
    let end = Vmm::evil(&script.then_reset()).run().expect(0);
    for (width, span, sweep) in sweeps {
        sweep.expect_uniform(&end.stdout, &format!("{width:?} {span:x?}"));
    }
}

/// No host of the tests that has this program has vectors of variable length.
#[test]
fn feature_of_cpus_that_is_not_to_be_had_is_refused() {
    let script = Script::new().then_reset();
    let end = Vmm::evil(&script).args(["--cpu-features", "sve"]).run().expect(3);
    assert_eq!(end.expect_one_line_error(), format!("vmm: sve: {FEATURE_REFUSED}"));
    assert!(end.stderr.ends_with("hint: leave it out of --cpu-features\n"), "{}", end.stderr);
}
