//! What a monitor takes for itself while its guest idles: proportional set size and private dirty
//! memory, the guest's own left out.

use std::fs::{self, File};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Context;
use super::boot::{self, add_linux};
use super::figure::{Figure, Goal, Unit};
use super::inside::{Inside, Link};
use super::monitor::{Disk, Guest, MEMORY_MIB};
use super::place::Place;
use super::program;
use super::record::{Arm, Records};
use super::run::{Run, interleave};

/// Names of the measurements with a Linux guest, and with a program that only waits.
pub(super) const LINUX: &str = "memory-linux";
pub(super) const NULL: &str = "memory-null";

const RUNS: usize = 5;

/// After this long nothing changes any more.
pub(super) const SETTLE: Duration = Duration::from_secs(2);

/// The most by which the guest's mapping grows when the kernel joins it with others.
const NEIGHBOUR_KIB: u64 = 1024;

/// Measures and returns the figures.
///
/// # Errors
/// A run failed.
pub(super) fn figures(context: &Context, records: &mut Records) -> Result<Vec<Figure>> {
    let runs = context.runs(RUNS);
    let linux = context.bundle(LINUX)?;
    add_linux(&linux, &["minimal"], &program::linux_init())?;
    records.merge(linux.measure(Place::Emulated, LINUX, runs)?);
    let null = context.bundle(NULL)?;
    null.write("idle", &program::idle_guest())?;
    File::create(null.path("disk"))?.set_len(16 << 20)?;
    records.merge(null.measure(context.place, NULL, runs)?);

    let mut figures = vec![];
    for (group, guest, place) in
        [(LINUX, "Linux guest", Place::Emulated), (NULL, "null guest", context.place)]
    {
        for (what, most) in [("PSS", 2.5), ("private dirty", 0.4)] {
            let name = format!("idle, {guest}: {what} beyond guest memory");
            let figure = Figure::of(records, &series(group, what), group)?;
            let figure = figure.named(&name, place.name()).in_unit(Unit::Mib);
            figures.push(figure.with_goal(Goal::AtMost(most)));
        }
    }
    Ok(figures)
}

fn series(group: &str, what: &str) -> String {
    format!("{group}, {what}")
}

/// Runs in the emulated host.
///
/// # Errors
/// A run failed.
pub(super) fn inside_linux(inside: &mut Inside) -> Result<()> {
    let files = inside.file("");
    measure(
        inside,
        LINUX,
        |arm| boot::guest(&files, "minimal", arm),
        |run| run.wait_for(program::INIT_LINE).map(drop),
    )
}

/// Runs in the place that is measured.
///
/// # Errors
/// A run failed.
pub(super) fn inside_null(inside: &mut Inside) -> Result<()> {
    let (kernel, disk) = (inside.file("idle"), inside.file("disk"));
    let guest = |arm| Guest {
        kernel: kernel.clone(),
        cmdline: None,
        disks: vec![Disk::writable(disk.clone())],
        net: Some(Link::of(arm).network()),
    };
    measure(inside, NULL, guest, |run| run.first_byte().map(drop))
}

fn measure(
    inside: &mut Inside,
    group: &str,
    guest: impl Fn(Arm) -> Guest,
    until_up: impl Fn(&mut Run) -> Result<()>,
) -> Result<()> {
    Link::make_all()?;
    inside.describe(group, &guest)?;
    eprintln!("bench: {group}, {} of each kind", inside.runs);
    interleave(inside.runs, &[Arm::Ours, Arm::Peer], |arm, counts| {
        let mut run = inside.start(arm, &guest(arm))?;
        until_up(&mut run)?;
        std::thread::sleep(SETTLE);
        let own = Overhead::read(run.pid(), MEMORY_MIB << 10)?;
        run.kill()?;
        let mib = |kib: u64| kib as f64 / 1024.0;
        inside.sample(&series(group, "PSS"), arm, mib(own.pss), counts)?;
        inside.sample(&series(group, "private dirty"), arm, mib(own.private_dirty), counts)
    })
}

/// Memory of a monitor beyond its guest's, in KiB.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Overhead {
    pub(super) pss: u64,
    private_dirty: u64,
    /// Proportional set size of the guest's memory.
    pub(super) guest: u64,
}

impl Overhead {
    /// What the process `pid` takes beyond the memory of its guest of `guest` KiB; 0 for none.
    ///
    /// # Errors
    /// It has ended, or the guest's memory cannot be told from the rest.
    pub(super) fn read(pid: u32, guest: u64) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps");
        let maps = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Self::parse(&maps, guest)
    }

    /// Sums up /proc/PID/smaps (proc(5)), without the one mapping of `guest` KiB. The kernel may have
    /// joined it with a neighbour, all of which then counts as the monitor's.
    fn parse(maps: &str, guest: u64) -> Result<Self> {
        let mut own = Self::default();
        let mut is_guest = false;
        let mut guests = 0;
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
            let value = || value.parse::<u64>().with_context(|| format!("read \"{line}\""));
            match name {
                "Size:" => {
                    let neighbour = value()?
                        .checked_sub(guest)
                        .filter(|more| guest > 0 && *more < NEIGHBOUR_KIB);
                    is_guest = neighbour.is_some();
                    guests += u64::from(is_guest);
                    own.pss += neighbour.unwrap_or(0);
                    own.private_dirty += neighbour.unwrap_or(0);
                }
                "Pss:" if is_guest => own.guest += value()?,
                "Pss:" => own.pss += value()?,
                "Private_Dirty:" if !is_guest => own.private_dirty += value()?,
                _ => {}
            }
        }
        anyhow::ensure!(
            guests == u64::from(guest > 0),
            "cannot tell the guest's memory from the monitor's: {guests} mappings of {guest} KiB"
        );
        Ok(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00400000-00600000 r-xp 00000000 00:01 1 /vmm
Size:               2048 kB
Pss:                 700 kB
Pss_Dirty:             0 kB
Private_Dirty:         8 kB
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Size:             131072 kB
Pss:               30000 kB
Private_Dirty:     30000 kB
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]
Size:                132 kB
Pss:                  12 kB
Private_Dirty:        12 kB
";

    #[test]
    fn mapping_of_the_guest_is_left_out() {
        let own = Overhead::parse(MAPS, 131_072).unwrap();
        assert_eq!(own, Overhead { pss: 712, private_dirty: 20, guest: 30_000 });
        let own = Overhead::parse(MAPS, 0).unwrap();
        assert_eq!(own, Overhead { pss: 30_712, private_dirty: 30_020, guest: 0 });
    }

    #[test]
    fn neighbour_that_was_joined_with_the_guest_counts() {
        let maps = MAPS.replace("131072 kB", "131092 kB");
        let own = Overhead::parse(&maps, 131_072).unwrap();
        assert_eq!(own, Overhead { pss: 732, private_dirty: 40, guest: 30_000 });
    }

    #[test]
    fn guest_memory_that_cannot_be_told_apart_is_an_error() {
        assert!(Overhead::parse(MAPS, 65_536).is_err());
    }
}
