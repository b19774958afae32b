//! Where measurements run: on this machine's own KVM, or in the emulated host.
//!
//! Either way the measuring process is this very program under a hidden subcommand, in a directory
//! that holds all it needs, with root's rights over a network of its own.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::record::Records;
use crate::host::Job;
use crate::{command, packages};

/// The directory of a group's files in the emulated host.
const INSIDE: &str = "/srv/bench";

/// Names of the files every group has.
pub(super) const XTASK: &str = "xtask";
pub(super) const VMM: &str = "vmm";

/// By this link the running program is there even when a build has replaced its file since.
pub(super) const THIS_PROGRAM: &str = "/proc/self/exe";

/// No group takes this long.
const TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// A place where guests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// This machine, whose KVM runs guest kernels in hardware.
    Hardware,
    /// This machine, whose KVM is virtualised in software: programs without a kernel run.
    Software,
    /// The emulated host.
    Emulated,
}

impl Place {
    /// What this machine's KVM is, as `vmm doctor` finds it; the emulated host when it has none.
    pub(super) fn of_this_machine(vmm: &Path) -> Self {
        // Its exit status tells of anything it found wanting, so only the report counts.
        let output = Command::new(vmm).args(["doctor", "--format", "json"]).output();
        let report = output.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok());
        let report: Value = report.unwrap_or_default();
        match report.pointer("/kvm/mode").and_then(Value::as_str) {
            Some("hardware") => Self::Hardware,
            Some("software") => Self::Software,
            _ => Self::Emulated,
        }
    }

    /// How reports name the place.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware KVM",
            Self::Software => "A: software-virtualised KVM",
            Self::Emulated => "B: emulated host",
        }
    }
}

/// The files of one group of measurements, in a directory that is made anew for each run.
pub(super) struct Bundle {
    directory: PathBuf,
    /// Disks of the emulated host: artifacts, and a store of images.
    disks: Option<(PathBuf, PathBuf)>,
}

impl Bundle {
    /// A bundle with this program and `vmm`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(super) fn new(directory: PathBuf, vmm: &Path) -> Result<Self> {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", directory.display()));
            }
            _ => {}
        }
        fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let bundle = Self { directory, disks: None };
        bundle.copy(VMM, vmm)?;
        bundle.copy(XTASK, Path::new(THIS_PROGRAM))?;
        Ok(bundle)
    }

    /// The path of the file `name`.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Gives the emulated host a disk of artifacts and one with a store of images.
    pub(super) fn equip(&mut self, artifacts: PathBuf, store: PathBuf) {
        self.disks = Some((artifacts, store));
    }

    /// Adds the file `source` under `name`.
    ///
    /// # Errors
    /// It cannot be copied.
    pub(super) fn copy(&self, name: &str, source: &Path) -> Result<()> {
        fs::copy(source, self.path(name)).with_context(|| format!("copy {}", source.display()))?;
        Ok(())
    }

    /// Adds a file with this content.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))
    }

    /// Runs the measurements of `group`, `runs` of each kind, and returns what they reported.
    ///
    /// # Errors
    /// The place cannot run them, or one failed.
    pub(super) fn measure(&self, place: Place, group: &str, runs: usize) -> Result<Records> {
        let mut records = Records::default();
        let status = match place {
            Place::Emulated => self.in_host(group, runs, &mut records)?,
            Place::Hardware | Place::Software => self.here(group, runs, &mut records)?,
        };
        if status != 0 {
            bail!("measuring {group} failed (status {status})");
        }
        Ok(records)
    }

    fn in_host(&self, group: &str, runs: usize, records: &mut Records) -> Result<i32> {
        let inside = PathBuf::from(INSIDE);
        let mut job = Job::new([inside.join(XTASK)]);
        job.command.extend(words(group, runs, &inside).map(Into::into));
        job.copy.push((self.directory.clone(), inside));
        job.timeout = Some(TIMEOUT);
        (job.artifacts, job.store) = self.disks.clone().unzip();
        job.relay_to(records, &mut io::stderr())
    }

    fn here(&self, group: &str, runs: usize, records: &mut Records) -> Result<i32> {
        let mut command = Command::new("unshare");
        if !packages::is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--net", "--"]).arg(self.path(XTASK));
        command.args(words(group, runs, &self.directory));
        let line = command::describe(&command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start `{line}`"))?;
        if let Some(mut output) = child.stdout.take() {
            io::copy(&mut output, records).context("read the report")?;
            records.flush()?;
        }
        Ok(child.wait()?.code().unwrap_or(1))
    }
}

/// The hidden subcommand's arguments.
fn words(group: &str, runs: usize, directory: &Path) -> impl Iterator<Item = String> {
    let directory = directory.to_string_lossy().into_owned();
    ["bench-inside".to_owned(), group.to_owned(), runs.to_string(), directory].into_iter()
}
