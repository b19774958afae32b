//! Booting our guest kernels to their first process: time and KVM exits in the emulated host, and
//! the instructions the guest executes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount};
use serde::{Deserialize, Serialize};

use super::Context;
use super::figure::{Figure, Goal, Unit};
use super::inside::{Inside, Link};
use super::monitor::{Disk, Guest};
use super::place::{Bundle, Place, THIS_PROGRAM};
use super::program::{self, INIT_LINE};
use super::record::{Arm, Records};
use super::run::{interleave, ms};
use crate::arch::Arch;
use crate::artifacts::FLAVOURS;
use crate::icount::{self, Guest as CountedGuest};
use crate::image;
use crate::kernel;

/// Name of the group that measures times and exits.
pub(super) const GROUP: &str = "boot";

/// The file with the root filesystem of [`add_linux`].
pub(super) const ROOT: &str = "root.ext4";

/// The kernel's command line: what a user would have, and the program that is waited for.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 root=/dev/vda ro init=/init";

/// What is measured: milliseconds, exits that the guest caused, exits that the monitor served.
const TIME: &str = "exec to init";
const EXITS: &str = "KVM exits to init";
const TO_MONITOR: &str = "KVM exits to init, served by the monitor";

/// The control of a flavour: what lingers of a larger kernel's machine is not a drift.
const CONTROL: &str = "control";

const DEBUGFS: &str = "/sys/kernel/debug";
const RUNS: usize = 20;
const SETTLE: Duration = Duration::from_millis(60);

/// Goals in instructions and in the ratio of times, by flavour.
fn goals(flavour: &str) -> (Option<Goal>, Option<Goal>) {
    match flavour {
        "minimal" => (Some(Goal::AtMost(16e6)), Some(Goal::RatioAtMost(0.7))),
        "container" => (Some(Goal::AtMost(40e6)), None),
        _ => (None, None),
    }
}

/// Counts instructions and returns the figures.
///
/// # Errors
/// A kernel cannot be built or does not reach its first process.
pub(super) fn instruction_figures() -> Result<Vec<Figure>> {
    let mut figures = vec![];
    for &flavour in FLAVOURS {
        let kernel = kernel::ensure(flavour, Arch::X86_64)?.image();
        let cmdline = icount::CMDLINE.to_owned();
        let memory_mib = icount::MEMORY_MIB;
        eprintln!("bench: counting the instructions of the {flavour} kernel");
        let count = icount::measure(&CountedGuest { kernel, memory_mib, acpi: true, cmdline })?;
        let name = format!("{flavour} kernel: guest instructions to init");
        let figure = Figure::exact(count.retired as f64).named(&name, "counting emulator");
        figures.push(figure.with_goal(goals(flavour).0));
    }
    Ok(figures)
}

/// Measures times and exits and returns the figures.
///
/// # Errors
/// A run failed.
pub(super) fn figures(context: &Context, records: &mut Records) -> Result<Vec<Figure>> {
    let bundle = context.bundle(GROUP)?;
    add_linux(&bundle, FLAVOURS, &program::linux_init())?;
    records.merge(bundle.measure(Place::Emulated, GROUP, context.runs(RUNS))?);
    let mut gate = Gate::read()?;
    let mut figures = vec![];
    for &flavour in FLAVOURS {
        let figure = |what: &str| -> Result<Figure> {
            let series = series(flavour, what);
            let name = format!("{flavour} kernel: {what}");
            let control = self::series(flavour, CONTROL);
            Ok(Figure::of(records, &series, &control)?.named(&name, Place::Emulated.name()))
        };
        figures.push(figure(TIME)?.with_goal(goals(flavour).1));
        for what in [EXITS, TO_MONITOR] {
            let figure = figure(what)?.in_unit(Unit::Count);
            if context.record {
                gate.record(flavour, what, figure.ours.p50);
            }
            figures.push(figure.with_goal(gate.goal(flavour, what)));
        }
    }
    if context.record {
        gate.write()?;
    }
    Ok(figures)
}

/// As [`add_linux`], with the minimal kernel and this very program as `init`.
///
/// # Errors
/// The program cannot be read; see [`add_linux`].
pub(super) fn add_linux_that_runs_us(bundle: &Bundle) -> Result<()> {
    let program = fs::read(THIS_PROGRAM).context("read the running program")?;
    add_linux(bundle, &["minimal"], &program)
}

/// Adds our kernels of these `flavours` under their names, and [`ROOT`] with the program `init`.
///
/// # Errors
/// A kernel or the filesystem cannot be built.
pub(super) fn add_linux(bundle: &Bundle, flavours: &[&str], init: &[u8]) -> Result<()> {
    for flavour in flavours {
        bundle.copy(flavour, &kernel::ensure(flavour, Arch::X86_64)?.image())?;
    }
    let tree = bundle.path("tree");
    for directory in ["dev", "proc", "sys"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    bundle.write("tree/init", init)?;
    make_executable(&tree.join("init"))?;
    // Twice what it holds, and room for the filesystem itself.
    let size_mib = 16 + 2 * (init.len() as u64 >> 20);
    image::ext4(&tree, &bundle.path(ROOT), size_mib)?;
    Ok(fs::remove_dir_all(&tree)?)
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Runs in the emulated host.
///
/// # Errors
/// A run failed.
pub(super) fn inside(inside: &mut Inside) -> Result<()> {
    Link::make_all()?;
    mount_debugfs()?;
    let files = inside.file("");
    for flavour in FLAVOURS {
        eprintln!("bench: boots of the {flavour} kernel, {} of each kind", inside.runs);
        inside.describe(&series(flavour, TIME), |arm| guest(&files, flavour, arm))?;
        interleave(inside.runs, &[Arm::Ours, Arm::Peer, Arm::Control], |arm, counts| {
            if arm == Arm::Control {
                return inside.control(&series(flavour, CONTROL), counts);
            }
            let mut run = inside.start(arm, &guest(&files, flavour, arm))?;
            let (_, time) = run.wait_for(INIT_LINE)?;
            let (exits, to_monitor) = exits(run.pid())?;
            run.kill()?;
            std::thread::sleep(SETTLE);
            for (what, value) in [(TIME, ms(time)), (EXITS, exits), (TO_MONITOR, to_monitor)] {
                inside.sample(&series(flavour, what), arm, value, counts)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Our kernel of this flavour on [`ROOT`], with a network interface, from the files in `directory`.
pub(super) fn guest(directory: &Path, flavour: &str, arm: Arm) -> Guest {
    Guest {
        kernel: directory.join(flavour),
        cmdline: Some(CMDLINE.to_owned()),
        disks: vec![Disk::readonly(directory.join(ROOT))],
        net: Some(Link::of(arm).network()),
    }
}

/// The exits so far of the virtual machine that the process `pid` made: those that the guest caused,
/// and those of them that the monitor had to serve.
fn exits(pid: u32) -> Result<(f64, f64)> {
    let directory = Path::new(DEBUGFS).join("kvm");
    let list = fs::read_dir(&directory).context("read the statistics of KVM")?;
    let prefix = format!("{pid}-");
    for entry in list {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let count = |name: &str| -> Result<f64> {
                let text = fs::read_to_string(entry.path().join(name))?;
                text.trim().parse().with_context(|| format!("read {text} {name}"))
            };
            // The host's own interrupts depend on the time of the day, not on the guest.
            let caused = count("exits")? - count("irq_exits")?;
            return Ok((caused, count("io_exits")? + count("mmio_exits")?));
        }
    }
    anyhow::bail!("KVM knows no machine of process {pid}")
}

fn mount_debugfs() -> Result<()> {
    match mount("debugfs", DEBUGFS, "debugfs", MountFlags::empty(), None) {
        Err(rustix::io::Errno::BUSY) | Ok(()) => Ok(()),
        Err(error) => Err(error).context("mount debugfs"),
    }
}

fn series(flavour: &str, what: &str) -> String {
    format!("{flavour} kernel, {what}")
}

/// The recorded exits by flavour and kind: more than 2 % above them is a step back.
#[derive(Debug, Deserialize, Serialize)]
#[serde(transparent)]
struct Gate(BTreeMap<String, BTreeMap<String, f64>>);

impl Gate {
    fn path() -> PathBuf {
        kernel::recipes_dir().join("exits.json")
    }

    fn read() -> Result<Self> {
        let path = Self::path();
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    fn write(&self) -> Result<()> {
        let path = Self::path();
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    fn record(&mut self, flavour: &str, what: &str, exits: f64) {
        self.0.entry(flavour.to_owned()).or_default().insert(what.to_owned(), exits.round());
    }

    fn goal(&self, flavour: &str, what: &str) -> Option<Goal> {
        let recorded = self.0.get(flavour)?.get(what)?;
        Some(Goal::AtMost((recorded * 1.02).floor()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_percent_above_the_record_is_the_limit() {
        let mut gate = Gate(BTreeMap::new());
        gate.record("minimal", EXITS, 1000.4);
        assert_eq!(gate.goal("minimal", EXITS), Some(Goal::AtMost(1020.0)));
        assert_eq!(gate.goal("minimal", TO_MONITOR), None);
        assert_eq!(gate.goal("other", EXITS), None);
    }

    #[test]
    fn exits_of_every_flavour_are_recorded() {
        let gate = Gate::read().unwrap();
        for &flavour in FLAVOURS {
            for what in [EXITS, TO_MONITOR] {
                assert!(gate.goal(flavour, what).is_some(), "{flavour}: {what}");
            }
        }
    }
}
