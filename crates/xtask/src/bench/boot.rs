//! Booting our guest kernels to their first process: time and KVM exits in the emulated host, and
//! the instructions the guest executes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, mount};
use serde::{Deserialize, Serialize};

use super::Context;
use super::figure::{Figure, Goal, Unit};
use super::inside::{Inside, Link};
use super::monitor::{Disk, Guest};
use super::place::{Bundle, Place};
use super::program::{self, INIT_LINE};
use super::record::{Arm, Records};
use super::run::{interleave, ms};
use crate::artifacts::FLAVOURS;
use crate::icount::{self, Guest as CountedGuest};
use crate::image;
use crate::kernel::{self, Arch};

/// Name of the group that measures times and exits.
pub(super) const GROUP: &str = "boot";

/// The file with the root filesystem of [`add_linux`].
pub(super) const ROOT: &str = "root.ext4";

/// The kernel's command line: what a user would have, and the program that is waited for.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 root=/dev/vda ro init=/init";

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
        let kernel = kernel::ensure(flavour, Arch::X86_64)?.vmlinux;
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
        let of = |series: &str| Figure::of(records, series, GROUP);
        let (exits, time) = (of(&exits_series(flavour))?, of(&time_series(flavour))?);
        let name = format!("{flavour} kernel: exec to init");
        figures.push(time.named(&name, Place::Emulated.name()).with_goal(goals(flavour).1));
        if context.record {
            gate.exits.insert(flavour.to_owned(), exits.ours.p50.round());
        }
        let name = format!("{flavour} kernel: KVM exits to init");
        let exits = exits.named(&name, Place::Emulated.name()).in_unit(Unit::Count);
        figures.push(exits.with_goal(gate.goal(flavour)));
    }
    if context.record {
        gate.write()?;
    }
    Ok(figures)
}

/// Adds our kernels of these `flavours` under their names, and [`ROOT`] with the program `init`.
///
/// # Errors
/// A kernel or the filesystem cannot be built.
pub(super) fn add_linux(bundle: &Bundle, flavours: &[&str], init: &[u8]) -> Result<()> {
    for flavour in flavours {
        bundle.copy(flavour, &kernel::ensure(flavour, Arch::X86_64)?.vmlinux)?;
    }
    let tree = bundle.path("tree");
    for directory in ["dev", "proc"] {
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
        inside.describe(&time_series(flavour), |arm| guest(&files, flavour, arm))?;
        interleave(inside.runs, &[Arm::Ours, Arm::Peer, Arm::Control], |arm, counts| {
            if arm == Arm::Control {
                return inside.control(GROUP, counts);
            }
            let mut run = inside.start(arm, &guest(&files, flavour, arm))?;
            let (_, time) = run.wait_for(INIT_LINE)?;
            let exits = exits(run.pid())?;
            run.kill()?;
            std::thread::sleep(SETTLE);
            inside.sample(&time_series(flavour), arm, ms(time), counts)?;
            inside.sample(&exits_series(flavour), arm, exits, counts)
        })?;
    }
    Ok(())
}

/// Our kernel of this flavour on [`ROOT`], with a network interface, from the files in `directory`.
pub(super) fn guest(directory: &Path, flavour: &str, arm: Arm) -> Guest {
    Guest {
        kernel: directory.join(flavour),
        cmdline: Some(CMDLINE.to_owned()),
        disks: vec![Disk { path: directory.join(ROOT), readonly: true }],
        tap: Some(Link::of(arm).tap.to_owned()),
    }
}

/// All exits of the virtual machine that the process `pid` made, so far.
fn exits(pid: u32) -> Result<f64> {
    let directory = Path::new(DEBUGFS).join("kvm");
    let list = fs::read_dir(&directory).context("read the statistics of KVM")?;
    let prefix = format!("{pid}-");
    for entry in list {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let text = fs::read_to_string(entry.path().join("exits"))?;
            return text.trim().parse().with_context(|| format!("read {text} exits"));
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

fn time_series(flavour: &str) -> String {
    format!("{flavour} kernel, exec to init")
}

fn exits_series(flavour: &str) -> String {
    format!("{flavour} kernel, exits to init")
}

/// The recorded numbers of exits: more than 2 % above them is a step back.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Gate {
    /// Exits by flavour.
    exits: BTreeMap<String, f64>,
}

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
        ensure!(!self.exits.is_empty(), "no exits to record");
        let path = Self::path();
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    fn goal(&self, flavour: &str) -> Option<Goal> {
        self.exits.get(flavour).map(|recorded| Goal::AtMost((recorded * 1.02).floor()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_percent_above_the_record_is_the_limit() {
        let gate = Gate { exits: BTreeMap::from([("minimal".to_owned(), 1000.0)]) };
        assert_eq!(gate.goal("minimal"), Some(Goal::AtMost(1020.0)));
        assert_eq!(gate.goal("other"), None);
    }

    #[test]
    fn recorded_exits_of_the_tree_are_readable() {
        assert!(Gate::read().unwrap().exits.contains_key("minimal"));
    }
}
