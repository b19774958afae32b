//! Reads of a virtio disk whose image lies in the host's page cache.

use anyhow::{Context as _, Result, ensure};

use super::Context;
use super::boot::{ROOT, add_linux_that_runs_us};
use super::figure::{Figure, Goal, Unit};
use super::guest::{self, DONE, MARK};
use super::inside::Inside;
use super::monitor::{Disk, Guest};
use super::place::Place;
use super::random::SplitMix;
use super::record::{Arm, Records};
use super::run::interleave;

/// Name of the group.
pub(super) const GROUP: &str = "io";

const RUNS: usize = 10;

/// The file of the disk that is read, and its size in bytes.
const DATA: &str = "data";
const DATA_SIZE: usize = 64 << 20;

const SEQUENTIAL: &str = "sequential read";
const RANDOM: &str = "random read";

/// Measures and returns the figures.
///
/// # Errors
/// A run failed.
pub(super) fn figures(context: &Context, records: &mut Records) -> Result<Vec<Figure>> {
    let bundle = context.bundle(GROUP)?;
    add_linux_that_runs_us(&bundle)?;
    records.merge(bundle.measure(Place::Emulated, GROUP, context.runs(RUNS))?);
    let figure = |series: &str, name: &str, unit| -> Result<Figure> {
        let figure = Figure::of(records, series, GROUP)?;
        let figure = figure.named(name, Place::Emulated.name()).in_unit(unit);
        Ok(figure.with_goal(Goal::RatioAtLeast(0.9)))
    };
    Ok(vec![
        figure(SEQUENTIAL, "disk: sequential read in the guest, 1 MiB", Unit::MibPerSecond)?,
        figure(RANDOM, "disk: random read in the guest, 4 KiB", Unit::PerSecond)?,
    ])
}

/// Runs in the emulated host.
///
/// # Errors
/// A run failed.
pub(super) fn inside(inside: &mut Inside) -> Result<()> {
    let files = inside.file("");
    std::fs::write(files.join(DATA), noise(DATA_SIZE)).context("write the disk to be read")?;
    let disk = |name| Disk::readonly(files.join(name));
    let guest = Guest {
        kernel: files.join("minimal"),
        cmdline: Some(guest::cmdline("")),
        disks: vec![disk(ROOT), disk(DATA)],
        net: None,
    };
    inside.describe(GROUP, |_| guest.clone())?;
    eprintln!("bench: disk from the page cache, {} guests of each kind", inside.runs);
    interleave(inside.runs, &[Arm::Ours, Arm::Peer, Arm::Control], |arm, counts| {
        if arm == Arm::Control {
            return inside.control(GROUP, counts);
        }
        for (series, value) in visit(inside, arm, &guest)? {
            inside.sample(series, arm, value, counts)?;
        }
        Ok(())
    })
}

/// One guest: what it found.
fn visit(inside: &Inside, arm: Arm, guest: &Guest) -> Result<[(&'static str, f64); 2]> {
    let mut run = inside.start(arm, guest)?;
    let sequential = finding(&run.wait_for(MARK)?.0, "sequential")?;
    let random = finding(&run.wait_for(MARK)?.0, "random")?;
    let (last, _) = run.wait_for(MARK)?;
    ensure!(last == DONE, "the guest reported: {last}");
    run.kill()?;
    Ok([(SEQUENTIAL, sequential), (RANDOM, random)])
}

/// The value in a line `bench: name value`.
fn finding(line: &str, name: &str) -> Result<f64> {
    let value = line.split_once(MARK).and_then(|(_, rest)| rest.trim().strip_prefix(name));
    let value = value.and_then(|value| value.trim().parse().ok());
    value.with_context(|| format!("the guest reported: {line}"))
}

/// Bytes that no filesystem takes for a hole.
pub(super) fn noise(size: usize) -> Vec<u8> {
    let mut random = SplitMix(2);
    (0..size / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_read_and_failures_are_shown() {
        assert_eq!(finding("bench: random 12.500", "random").unwrap(), 12.5);
        let error = finding("bench: failed: open /dev/vdb", "random").unwrap_err();
        assert!(error.to_string().contains("open /dev/vdb"), "{error}");
    }
}
