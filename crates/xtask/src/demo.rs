//! `cargo xtask demo`: boots a guest with a disk and a network, for a person or as a visit.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::artifacts::{self, Artifact};
use crate::cache::Cache;
use crate::host::{self, Job};
use crate::workspace::{self, Profile};
use crate::{command, packages};

/// Makes the network and starts vmm; runs here or in the emulated host.
const SCRIPT: &str = include_str!("../../../resources/demo/boot");

/// The kernel flavour of the demonstration.
const FLAVOUR: &str = "minimal";

/// A visit takes seconds; this is for machines that crawl.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The guest's last words after a visit that went well.
const GOOD_END: &str = "vmm.run: exit status 0";

/// Packages for a guest on this machine.
const LOCAL_PACKAGES: &[&str] = &["iproute2", "util-linux"];

/// The files of a demonstration on this machine.
struct Files {
    vmm: PathBuf,
    artifacts: Vec<Artifact>,
}

/// Runs the demonstration and returns its exit status.
///
/// # Errors
/// A part cannot be built, or the visit failed.
pub(crate) fn run() -> Result<i32> {
    let cache = Cache::of_user()?;
    let files = Files {
        artifacts: artifacts::guest(&cache, &[FLAVOUR])?,
        vmm: workspace::build_vmm(Profile::Release)?,
    };
    let interactive = host::is_interactive();
    let here = boots_here(&files.vmm);
    if here {
        eprintln!("demo: booting on this machine's KVM");
    } else {
        eprintln!(
            "demo: this machine has no KVM that runs guest kernels in hardware; \
             booting inside the emulated host"
        );
    }
    match (here, interactive) {
        (true, true) => interact_here(&files),
        (true, false) => visit(|transcript| visit_here(&files, transcript)),
        (false, true) => interactive_job(&cache, &files)?.interact(),
        (false, false) => {
            let job = job(&cache, &files, "vmm.run=/usr/bin/visit")?;
            visit(|transcript| job.relay_to(transcript, &mut io::stderr()))
        }
    }
}

/// Whether this machine's KVM runs guest kernels in hardware, as `vmm doctor` finds it.
fn boots_here(vmm: &PathBuf) -> bool {
    // Its exit status tells of anything it found wanting, so only the report counts.
    let output = Command::new(vmm).args(["doctor", "--format", "json"]).output();
    let report = output.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok());
    report.is_some_and(|report: Value| report.pointer("/kvm/mode") == Some(&"hardware".into()))
}

/// Lets `run` make a transcript, which is printed, and judges it.
fn visit(run: impl FnOnce(&mut Transcript) -> Result<i32>) -> Result<i32> {
    let mut transcript = Transcript::default();
    let status = run(&mut transcript)?;
    if status != 0 {
        bail!("demo: vmm ended with status {status}");
    }
    if !transcript.text.lines().any(|line| line == GOOD_END) {
        bail!("demo: the visit did not come to its end");
    }
    println!("demo: ok");
    Ok(0)
}

/// What the guest's console showed, passed on as it comes.
#[derive(Default)]
struct Transcript {
    text: String,
}

impl Write for Transcript {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The guest's terminal ends lines with a carriage return, files do not.
        let text = String::from_utf8_lossy(bytes).replace('\r', "");
        self.text.push_str(&text);
        io::stdout().write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

fn job(cache: &Cache, files: &Files, append: &str) -> Result<Job> {
    let inside = |name| format!("/srv/vmm/{name}");
    let mut job = Job::new(["sh", "-c", SCRIPT, "boot", "vmm"]);
    job.command.push(inside("kernels/minimal/vmlinux").into());
    job.command.push(inside("rootfs/busybox.ext4").into());
    job.command.push(append.into());
    job.copy.push((files.vmm.clone(), PathBuf::from(host::BIN).join("vmm")));
    job.artifacts = Some(artifacts::disk(cache, &files.artifacts)?);
    job.timeout = Some(TIMEOUT);
    Ok(job)
}

fn interactive_job(cache: &Cache, files: &Files) -> Result<Job> {
    let mut job = job(cache, files, "")?;
    job.timeout = None;
    Ok(job)
}

fn interact_here(files: &Files) -> Result<i32> {
    let status = local(files, "")?.status().context("start unshare")?;
    Ok(status.code().unwrap_or(1))
}

fn visit_here(files: &Files, transcript: &mut Transcript) -> Result<i32> {
    let mut command = local(files, "vmm.run=/usr/bin/visit")?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let line = command::describe(&command);
    let mut child = command.spawn().with_context(|| format!("start `{line}`"))?;
    if let Some(mut output) = child.stdout.take() {
        io::copy(&mut output, transcript)?;
    }
    Ok(child.wait()?.code().unwrap_or(1))
}

/// The script in a network of its own, where it may make an interface without being root.
fn local(files: &Files, append: &str) -> Result<Command> {
    packages::ensure(LOCAL_PACKAGES)?;
    let source = |path: &str| {
        let found = files.artifacts.iter().find(|artifact| artifact.path() == path);
        found.map(Artifact::source).with_context(|| format!("{path} was not built"))
    };
    let mut command = Command::new("unshare");
    if !packages::is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--kill-child", "--fork", "--", "sh", "-c", SCRIPT, "boot"]);
    command.arg(&files.vmm);
    command.args([source("kernels/minimal/vmlinux")?, source("rootfs/busybox.ext4")?]);
    command.arg(append);
    Ok(command)
}
