//! Null guests: what a monitor costs when the guest does nothing.

use std::fs::File;
use std::time::Duration;

use anyhow::Result;

use super::Context;
use super::figure::{Figure, Goal};
use super::inside::{Inside, Link};
use super::monitor::{Disk, Guest};
use super::place::Place;
use super::program::{self, QEMU_NULL_STATUS};
use super::record::{Arm, Records};
use super::run::{interleave, ms};

/// Name of the group.
pub(super) const GROUP: &str = "null";

/// Samples of kill to end, for the histogram of what closing a VM costs.
pub(super) const CLOSE: &str = "null, kill to end";

/// Samples of exec to end with devices, for its histogram.
pub(super) const EXIT: &str = "null with block and net, exec to end";

const BARE_EXIT: &str = "null without devices, exec to end";
const FIRST_IO: &str = "null with block and net, exec to first I/O";
const RUNS: usize = 100;

/// The kernel goes on closing a VM after its process has ended, and nothing of one run may be
/// charged to the next: closing was never seen to take longer than half of this.
const SETTLE: Duration = Duration::from_millis(60);

/// Measures and returns the figures.
///
/// # Errors
/// A run failed.
pub(super) fn figures(context: &Context, records: &mut Records) -> Result<Vec<Figure>> {
    let bundle = context.bundle(GROUP)?;
    bundle.write("null", &program::null_guest())?;
    bundle.write("idle", &program::idle_guest())?;
    File::create(bundle.path("disk"))?.set_len(16 << 20)?;
    let place = context.place;
    // An emulated processor takes some twenty times as long over each.
    let runs = if place == Place::Emulated { RUNS / 3 } else { RUNS };
    records.merge(bundle.measure(place, GROUP, context.runs(runs))?);
    let figure = |series: &str, name: &str, most| -> Result<Figure> {
        let figure = Figure::of(records, series, GROUP)?;
        Ok(figure.named(name, place.name()).with_goal(Goal::RatioAtMost(most)))
    };
    Ok(vec![
        figure(BARE_EXIT, "null guest, no device: exec to exit", 0.12)?,
        figure(EXIT, "null guest, block + net: exec to exit", 0.5)?,
        figure(FIRST_IO, "null guest, block + net: exec to first I/O", 0.1)?,
    ])
}

/// Runs in the place that is measured.
///
/// # Errors
/// A run failed.
pub(super) fn inside(inside: &mut Inside) -> Result<()> {
    Link::make_all()?;
    let bare = |inside: &Inside| Guest {
        kernel: inside.file("null"),
        cmdline: None,
        disks: vec![],
        net: None,
    };
    let without = bare(inside);
    let disk = Disk::writable(inside.file("disk"));
    let with = |arm| Guest {
        disks: vec![disk.clone()],
        net: Some(Link::of(arm).network()),
        ..without.clone()
    };
    inside.describe(BARE_EXIT, |_| without.clone())?;
    inside.describe(EXIT, with)?;
    eprintln!("bench: null guests, {} of each kind", inside.runs);
    interleave(inside.runs, &[Arm::Ours, Arm::Peer, Arm::Control], |arm, counts| {
        if arm == Arm::Control {
            return inside.control(GROUP, counts);
        }
        let (_, exit) = times(inside, arm, &without)?;
        inside.sample(BARE_EXIT, arm, exit, counts)?;
        let (first, exit) = times(inside, arm, &with(arm))?;
        inside.sample(FIRST_IO, arm, first, counts)?;
        inside.sample(EXIT, arm, exit, counts)?;
        let close = close(inside, arm, &Guest { kernel: inside.file("idle"), ..with(arm) })?;
        inside.sample(CLOSE, arm, close, counts)
    })
}

/// One null guest: milliseconds to its first byte and to the end of its monitor.
fn times(inside: &Inside, arm: Arm, guest: &Guest) -> Result<(f64, f64)> {
    let mut run = inside.start(arm, guest)?;
    let first = run.first_byte()?;
    let exit = run.wait(if arm == Arm::Peer { QEMU_NULL_STATUS } else { 0 })?;
    std::thread::sleep(SETTLE);
    Ok((ms(first), ms(exit)))
}

/// Milliseconds from killing an idle guest's monitor to its end.
fn close(inside: &Inside, arm: Arm, guest: &Guest) -> Result<f64> {
    let mut run = inside.start(arm, guest)?;
    run.first_byte()?;
    let time = run.kill()?;
    std::thread::sleep(SETTLE);
    Ok(ms(time))
}
