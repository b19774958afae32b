//! docs/contrast.md: its measurements, in the emulated host and, of containers, on this machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::tables::{self, Reports};
use crate::arch::Arch;
use crate::cache::Cache;
use crate::host::Job;
use crate::images::Name;
use crate::workspace::{self, Profile};
use crate::{artifacts, command, packages};

/// The reports of the emulated host and the commands that make them.
const EMULATED: [(&str, &str); 5] = [
    ("isolation", "vmm contrast --format json busybox"),
    ("startup", "vmm bench startup --format json --runs 10 busybox true"),
    ("memory", "vmm bench memory --format json --arms namespaces,runc,vmm busybox"),
    ("density", "vmm bench density --format json --arms namespaces,runc,vmm --count 5 busybox"),
    ("cpu", "vmm bench cpu --format json --arms process,namespaces,runc,vmm busybox"),
];

/// The report of this machine.
const NATIVE: &str = "native";

/// Arms that need no guest.
const CONTAINERS: &str = "process,namespaces,runc,crun";

/// No measurement takes this long.
const TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Measures, unless the last measurements are asked for, and writes what was measured into the page.
///
/// # Errors
/// Something cannot be measured, or the page not be written.
pub(super) fn write(measured: bool) -> Result<()> {
    let directory = workspace::root().join("target/lesson");
    if !measured {
        fs::create_dir_all(&directory)?;
        measure(&directory)?;
    }
    let names = EMULATED.iter().map(|(name, _)| *name).chain([NATIVE]);
    let reports = names.map(|name| Ok((name, read(&file(&directory, name))?)));
    let page = workspace::root().join("docs/contrast.md");
    let text = fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
    let filled = tables::fill(&text, &reports.collect::<Result<Reports>>()?)?;
    fs::write(&page, filled).with_context(|| format!("write {}", page.display()))
}

fn measure(directory: &Path) -> Result<()> {
    let mut job = Job::new([""; 0]);
    artifacts::equip(&mut job, Profile::Release)?;
    job.timeout = Some(TIMEOUT);
    for (name, line) in EMULATED {
        eprintln!("docs: {line}");
        job.command = line.split(' ').map(Into::into).collect();
        let mut report = vec![];
        let status = job.relay_to(&mut report, &mut io::stderr())?;
        ensure!(status == 0, "`{line}` ended with {status} in the emulated host");
        fs::write(file(directory, name), report)?;
    }
    fs::write(file(directory, NATIVE), native(directory)?)?;
    Ok(())
}

/// The ways to start that need no guest, on this machine.
fn native(directory: &Path) -> Result<Vec<u8>> {
    packages::ensure(&["runc", "crun"])?;
    let forms = Name::Busybox.ensure(&Cache::of_user()?, Arch::X86_64)?;
    let image = forms.first().context("the image has no form")?;
    let mut vmm = Command::new(workspace::build_vmm(Profile::Release)?);
    vmm.args(["bench", "startup", "--format", "json", "--baseline", "runc", "--arms", CONTAINERS]);
    // A store of its own: what belongs to the user stays as it is.
    vmm.env("VMM_DATA", directory.join("store"));
    // The page names no directory of this machine.
    vmm.current_dir(&image.path).args(["oci:.", "true"]);
    eprintln!("docs: {}", command::describe(&vmm));
    command::stdout(&mut vmm)
}

fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.json"))
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no report", path.display()))
}
