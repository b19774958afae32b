//! Those that run containers, and what each is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vmm_contrast::arm::bundle_config;

use super::super::inside::Inside;
use super::super::place::VMM;
use super::super::record::Arm;
use crate::arch::Arch;
use crate::artifacts::{self, Artifact};
use crate::cache::Cache;
use crate::command;
use crate::host::init::ARTIFACTS;
use crate::images::Name;

/// Who runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runtime {
    Vmm,
    Runc,
    Crun,
}

pub(super) const ALL: [Runtime; 3] = [Runtime::Vmm, Runtime::Runc, Runtime::Crun];

/// The container that further processes are started in.
const SLEEPER: &str = "sleeper";
/// Between two containers: the kernel closes a virtual machine when its process has ended.
const SETTLE: Duration = Duration::from_millis(60);
const PATIENCE: Duration = Duration::from_secs(30);

impl Runtime {
    pub(super) fn arm(self) -> Arm {
        if self == Self::Vmm { Arm::Ours } else { Arm::Peer }
    }

    /// The name of a series of this runtime's.
    pub(super) fn series(self, what: &str) -> String {
        match self {
            Self::Vmm => what.to_owned(),
            Self::Runc => format!("{what}, runc"),
            Self::Crun => format!("{what}, crun"),
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Vmm => VMM,
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }
}

/// Where `image` is offered in the emulated host, as artifacts.
///
/// # Errors
/// It cannot be built.
pub(super) fn image(cache: &Cache, image: Name) -> Result<Vec<Artifact>> {
    let layout = image
        .ensure(cache, Arch::X86_64)?
        .into_iter()
        .next()
        .context("an image without a layout")?;
    artifacts::files(&format!("images/{}", image.as_str()), layout.path)
}

/// The layout of an image in the emulated host.
pub(super) fn layout(image: Name) -> PathBuf {
    Path::new(ARTIFACTS).join("images").join(image.as_str())
}

/// Lets what a container has left to the kernel end.
pub(super) fn settle() {
    std::thread::sleep(SETTLE);
}

/// The milliseconds of a step in what `vmm run --timing` has said.
pub(super) fn step(said: &str, name: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.split_once("timing: "))?.1;
    let steps = line.split([',', ';']).map(str::trim);
    steps
        .filter_map(|step| step.strip_prefix(name)?.trim().strip_suffix(" ms")?.parse().ok())
        .next()
}

/// The bundles, and our program.
pub(super) struct World {
    vmm: PathBuf,
    once: PathBuf,
    sleeper: PathBuf,
}

impl World {
    /// Unpacks the image `busybox` and makes the bundles.
    ///
    /// # Errors
    /// umoci fails.
    pub(super) fn new(inside: &Inside) -> Result<Self> {
        let unpacked = inside.file("unpacked");
        let image = format!("{}:latest", layout(Name::Busybox).display());
        command::run(Command::new("umoci").args(["unpack", "--image", &image]).arg(&unpacked))?;
        let rootfs = unpacked.join("rootfs");
        let bundle = |name: &str, args: &[&str]| -> Result<PathBuf> {
            let directory = inside.file(name);
            fs::create_dir_all(&directory)?;
            let config = bundle_config(&rootfs, args);
            fs::write(directory.join("config.json"), config.to_string())?;
            Ok(directory)
        };
        let once = bundle("once", &["true"])?;
        let sleeper = bundle("sleeper", &["sleep", "100000"])?;
        Ok(Self { vmm: inside.file(VMM), once, sleeper })
    }

    fn command(&self, runtime: Runtime, words: &[&str]) -> Command {
        let mut command = match runtime {
            Runtime::Vmm => Command::new(&self.vmm),
            _ => Command::new(runtime.program()),
        };
        let kernel = Path::new(ARTIFACTS).join("kernels/container/vmlinux");
        command.env("VMM_KERNEL", kernel).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `true` in a container and removes it; `number` tells those apart that run at once.
    pub(super) fn run(&self, runtime: Runtime, number: usize) -> Command {
        if runtime == Runtime::Vmm {
            let words = ["run", "--rm", "--timing", "busybox", "true"];
            return self.command(runtime, &words);
        }
        let mut command = self.command(runtime, &["run", "--bundle"]);
        command.arg(&self.once).arg(format!("bench{number}"));
        command
    }

    /// Starts the container that sleeps, and waits until it runs.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn start_sleeper(&self, runtime: Runtime) -> Result<()> {
        let mut start = match runtime {
            Runtime::Vmm => self.sleep(&[]),
            _ => {
                let mut command = self.command(runtime, &["run", "--detach", "--bundle"]);
                command.arg(&self.sleeper).arg(SLEEPER);
                command
            }
        };
        // What runs in the background would keep a pipe open.
        command::run(start.stdout(Stdio::null()).stderr(Stdio::null()))
    }

    fn sleep(&self, words: &[&str]) -> Command {
        let mut command = self.command(Runtime::Vmm, &["run", "--detach", "--name", SLEEPER]);
        command.args(words).args(["busybox", "sleep", "100000"]);
        command
    }

    /// Runs `true` in the container that sleeps.
    pub(super) fn exec(&self, runtime: Runtime) -> Command {
        self.command(runtime, &["exec", SLEEPER, "true"])
    }

    /// Removes the container that sleeps.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(super) fn end_sleeper(&self, runtime: Runtime) -> Result<()> {
        let words: &[&str] = match runtime {
            Runtime::Vmm => &["rm", "--force", SLEEPER],
            _ => &["delete", "--force", SLEEPER],
        };
        command::run(self.command(runtime, words).stdout(Stdio::null()))
    }

    /// Starts a container that sleeps with so much memory; its keeper and its monitor.
    ///
    /// # Errors
    /// It does not start.
    pub(super) fn start_idle(&self, memory: &str) -> Result<(u32, u32)> {
        command::run(self.sleep(&["--memory", memory]).stdout(Stdio::null()))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pair = [process("keep")?, process("monitor")?];
            if let [Some(keeper), Some(monitor)] = pair {
                return Ok((keeper, monitor));
            }
            ensure!(Instant::now() < deadline, "the container has no keeper and monitor");
        }
    }
}

/// The process of ours that was started with the command `word`.
fn process(word: &str) -> Result<Option<u32>> {
    for entry in fs::read_dir("/proc").context("list processes")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let is_ours = words.next().is_some_and(|name| name.ends_with(VMM.as_bytes()));
        if is_ours && words.next() == Some(word.as_bytes()) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_found_by_their_whole_name() {
        let said = "a note\nvmm: timing: host set-up 1.250 ms, exec 2.500 ms; whole 3.750 ms\n";
        assert_eq!(step(said, "host set-up"), Some(1.25));
        assert_eq!(step(said, "exec"), Some(2.5));
        assert_eq!(step(said, "whole"), Some(3.75));
        assert_eq!(step(said, "kernel"), None);
        assert_eq!(step("", "exec"), None);
    }
}
