//! A disk past the host's page cache: rates of access and what they cost, by each way to move data.

use anyhow::{Context as _, Result, ensure};
use vmm_contrast::stats::Summary;

use super::Context;
use super::boot::{ROOT, add_linux_that_runs_us};
use super::figure::{Figure, Goal, Unit};
use super::guest::{self, DONE, MARK};
use super::inside::Inside;
use super::monitor::{Disk, Guest, Way};
use super::place::Place;
use super::reads::noise;
use super::record::{Arm, Records};
use super::run::interleave;
use super::storage::{self, ACCESSES, Access};

/// Name of the group.
pub(super) const GROUP: &str = "block";

const RUNS: usize = 8;
const DATA: &str = "data";
const DATA_SIZE: usize = 64 << 20;

/// Ticks of processor time a second (`USER_HZ`).
const HERTZ: f64 = 100.0;

/// Who moves the data, and how.
const VARIANTS: [(Arm, Way); 4] = [
    (Arm::Ours, Way::IoUring),
    (Arm::Peer, Way::IoUring),
    (Arm::Ours, Way::Waiting),
    (Arm::Peer, Way::Waiting),
];

/// Measures and returns the figures.
///
/// # Errors
/// A run failed.
pub(super) fn figures(context: &Context, records: &mut Records) -> Result<Vec<Figure>> {
    let bundle = context.bundle(GROUP)?;
    add_linux_that_runs_us(&bundle)?;
    records.merge(bundle.measure(Place::Emulated, GROUP, context.runs(RUNS))?);
    let mut figures = vec![];
    for access in ACCESSES {
        figures.extend(of_access(access, records)?);
    }
    Ok(figures)
}

/// Rate and cost of ours by io_uring, against the faster of QEMU's ways and against our other one.
fn of_access(access: Access, records: &Records) -> Result<[Figure; 4]> {
    let [ring, waiting] = [Way::IoUring, Way::Waiting].map(|way| rate(access, way));
    let [ring_cost, waiting_cost] = [Way::IoUring, Way::Waiting].map(|way| cost(access, way));
    let median = |series: &str| {
        Summary::of(records.samples(series, Arm::Peer)).map_or(0.0, |summary| summary.p50)
    };
    let best = if median(&ring) >= median(&waiting) { Way::IoUring } else { Way::Waiting };
    let deep = access.depth > 1;
    let unit = if access.length < 1 << 20 { Unit::PerSecond } else { Unit::MibPerSecond };
    let figure = |ours: &str, peer: (&str, Arm), name: &str, unit| -> Result<Figure> {
        let figure = Figure::between(records, (ours, Arm::Ours), peer, GROUP)?.in_unit(unit);
        Ok(figure.named(&format!("{}: {name}", access.title), Place::Emulated.name()))
    };
    let seconds = Unit::SecondsPerGib;
    let (against_best, best_cost) = (rate(access, best), cost(access, best));
    Ok([
        figure(&ring, (&against_best, Arm::Peer), "io_uring, to QEMU's best", unit)?
            .with_goal(deep.then_some(Goal::RatioAtLeast(1.0))),
        figure(&ring_cost, (&best_cost, Arm::Peer), "CPU of that", seconds)?,
        figure(&ring, (&waiting, Arm::Ours), "io_uring, to sync", unit)?
            .with_goal(deep.then_some(Goal::RatioAtLeast(2.0))),
        figure(&ring_cost, (&waiting_cost, Arm::Ours), "CPU of that", seconds)?,
    ])
}

fn rate(access: Access, way: Way) -> String {
    format!("{}, {way:?}", access.name)
}

fn cost(access: Access, way: Way) -> String {
    format!("{}, {way:?}, CPU", access.name)
}

/// Runs in the emulated host.
///
/// # Errors
/// A run failed.
pub(super) fn inside(inside: &mut Inside) -> Result<()> {
    let files = inside.file("");
    std::fs::write(files.join(DATA), noise(DATA_SIZE)).context("write the disk")?;
    rustix::fs::sync();
    let guest = |way| Guest {
        kernel: files.join("minimal"),
        cmdline: Some(guest::cmdline(&format!("{}=1", storage::ROLE))),
        disks: vec![
            Disk::readonly(files.join(ROOT)),
            Disk { way, ..Disk::writable(files.join(DATA)) },
        ],
        net: None,
    };
    for way in [Way::IoUring, Way::Waiting] {
        inside.describe(&format!("{GROUP}, {way:?}"), |_| guest(way))?;
    }
    eprintln!("bench: disk past the page cache, {} guests of each kind", inside.runs);
    let arms: Vec<_> = VARIANTS.into_iter().chain([(Arm::Control, Way::Default)]).collect();
    interleave(inside.runs, &arms, |(arm, way), counts| match arm {
        Arm::Control => inside.control(GROUP, counts),
        arm => visit(inside, (arm, way), &guest(way), counts),
    })
}

/// One guest: what it found, and what the monitor used meanwhile.
fn visit(inside: &mut Inside, (arm, way): (Arm, Way), guest: &Guest, counts: bool) -> Result<()> {
    let mut run = inside.start(arm, guest)?;
    run.wait_for(MARK)?;
    for access in ACCESSES {
        let before = processor_time(run.pid())?;
        let (line, _) = run.wait_for(MARK)?;
        let used = processor_time(run.pid())? - before;
        let (count, seconds) = finding(&line, access.name)?;
        let bytes = count * access.length as f64;
        let mib = bytes / f64::from(1 << 20);
        let per_second = if access.length < 1 << 20 { count } else { mib } / seconds;
        inside.sample(&rate(access, way), arm, per_second, counts)?;
        inside.sample(&cost(access, way), arm, used * 1024.0 / mib, counts)?;
    }
    let (last, _) = run.wait_for(MARK)?;
    ensure!(last == DONE, "the guest reported: {last}");
    run.kill()?;
    Ok(())
}

/// The numbers in a line `bench: name count seconds`.
fn finding(line: &str, name: &str) -> Result<(f64, f64)> {
    let words = line.split_once(MARK).map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
    let found = match words.as_deref() {
        Some([found, count, seconds]) if *found == name => {
            count.parse().ok().zip(seconds.parse().ok())
        }
        _ => None,
    };
    found.with_context(|| format!("the guest reported: {line}"))
}

/// Seconds of processor time that process `pid` has used, its guest's included.
fn processor_time(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th after it.
    let (_, rest) = stat.rsplit_once(')').context("stat of a process")?;
    let ticks: Vec<f64> =
        rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / HERTZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_read_and_failures_are_shown() {
        assert_eq!(finding("bench: read-1 120 1.5", "read-1").unwrap(), (120.0, 1.5));
        let error = finding("bench: failed: open /dev/vdb", "read-1").unwrap_err();
        assert!(error.to_string().contains("open /dev/vdb"), "{error}");
    }

    #[test]
    fn processor_time_of_a_process_grows() {
        let before = processor_time(std::process::id()).unwrap();
        let start = std::time::Instant::now();
        while start.elapsed().as_millis() < 50 {}
        assert!(processor_time(std::process::id()).unwrap() > before);
    }
}
