//! `cargo xtask demo`: boots a guest with a disk and a network, for a person or as a visit, which also
//! sees a container.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::arch::Arch;
use crate::artifacts::{self, Artifact};
use crate::cache::Cache;
use crate::host::{self, Job};
use crate::images::Name;
use crate::workspace::{self, Profile, Program};
use crate::{command, packages};

/// Makes the network and starts vmm; runs here or in the emulated host.
const SCRIPT: &str = include_str!("../../../resources/demo/boot");

/// Runs a container; runs here or in the emulated host.
const CONTAINER: &str = include_str!("../../../resources/demo/container");

/// The kernels of the guest and of the container.
const KERNELS: [&str; 2] = ["kernels/minimal/vmlinux", "kernels/container/vmlinux"];
/// The container's image among the artifacts.
const LAYOUT: &str = "images/busybox";
const ROOTFS: &str = "rootfs/busybox.ext4";

/// A visit takes seconds; this is for machines that crawl.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The guest's last words after a visit that went well.
const GOOD_END: &str = "vmm.run: exit status 0";

/// How the release of a container's kernel ends.
const CONTAINER_RELEASE: &str = "-container";

/// Packages for a guest on this machine.
const LOCAL_PACKAGES: &[&str] = &["iproute2", "util-linux"];

/// The files of a demonstration on this machine.
struct Files {
    programs: Vec<Program>,
    artifacts: Vec<Artifact>,
    /// The container's image, where it is on this machine.
    layout: PathBuf,
}

impl Files {
    fn build(cache: &Cache) -> Result<Self> {
        let mut list = artifacts::guest(cache, Arch::X86_64, artifacts::FLAVOURS)?;
        let image = Name::Busybox.ensure(cache, Arch::X86_64)?.into_iter().next();
        let layout = image.context("an image without a layout")?.path;
        list.extend(artifacts::files(LAYOUT, layout.clone())?);
        let programs = workspace::build_programs(Arch::X86_64, Profile::Release)?;
        Ok(Self { programs, artifacts: list, layout })
    }

    /// `vmm`, which finds the other programs beside itself.
    fn vmm(&self) -> Result<&Path> {
        let vmm = self.programs.iter().find(|program| program.name == "vmm");
        Ok(&vmm.context("cargo built no program named vmm")?.path)
    }

    fn source(&self, path: &str) -> Result<&Path> {
        let found = self.artifacts.iter().find(|artifact| artifact.path() == path);
        found.map(Artifact::source).with_context(|| format!("{path} was not built"))
    }
}

/// Runs the demonstration and returns its exit status.
///
/// # Errors
/// A part cannot be built, or the visit failed.
pub(crate) fn run() -> Result<i32> {
    let cache = Cache::of_user()?;
    let files = Files::build(&cache)?;
    let interactive = host::is_interactive();
    let here = boots_here(files.vmm()?);
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
            visit(|transcript| visit_job(&cache, &files)?.relay_to(transcript, &mut io::stderr()))
        }
    }
}

/// Whether this machine's KVM runs guest kernels in hardware, as `vmm doctor` finds it.
fn boots_here(vmm: &Path) -> bool {
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
    if !transcript.text.lines().any(|line| line.ends_with(CONTAINER_RELEASE)) {
        bail!("demo: no container told of a kernel of its own");
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

fn job(cache: &Cache, files: &Files, script: &str, append: &str) -> Result<Job> {
    let inside = |path| format!("/srv/vmm/{path}");
    let [kernel, container] = KERNELS.map(inside);
    let mut job = Job::new(["sh", "-c", script, "boot", "vmm", &kernel, &inside(ROOTFS), append]);
    job.command.extend([container.into(), inside(LAYOUT).into()]);
    let on_path =
        |program: &Program| (program.path.clone(), Path::new(host::BIN).join(&program.name));
    job.copy.extend(files.programs.iter().map(on_path));
    job.artifacts = Some(artifacts::disk(cache, Arch::X86_64, &files.artifacts)?);
    job.timeout = Some(TIMEOUT);
    Ok(job)
}

fn interactive_job(cache: &Cache, files: &Files) -> Result<Job> {
    let mut job = job(cache, files, SCRIPT, "")?;
    job.timeout = None;
    Ok(job)
}

fn visit_job(cache: &Cache, files: &Files) -> Result<Job> {
    job(cache, files, &both_scripts(), "vmm.run=/usr/bin/visit")
}

/// The guest and then the container, whose arguments are the first and those behind the guest's.
fn both_scripts() -> String {
    format!("(\n{SCRIPT}) || exit\nset -- \"$1\" \"$5\" \"$6\"\n{CONTAINER}")
}

fn interact_here(files: &Files) -> Result<i32> {
    let status = local(files, SCRIPT, "")?.status().context("start unshare")?;
    Ok(status.code().unwrap_or(1))
}

fn visit_here(files: &Files, transcript: &mut Transcript) -> Result<i32> {
    let mut command = local(files, &both_scripts(), "vmm.run=/usr/bin/visit")?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let line = command::describe(&command);
    let mut child = command.spawn().with_context(|| format!("start `{line}`"))?;
    if let Some(mut output) = child.stdout.take() {
        io::copy(&mut output, transcript)?;
    }
    Ok(child.wait()?.code().unwrap_or(1))
}

/// The script in a network of its own, where it may make an interface without being root.
fn local(files: &Files, script: &str, append: &str) -> Result<Command> {
    packages::ensure(LOCAL_PACKAGES)?;
    let mut command = Command::new("unshare");
    if !packages::is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--kill-child", "--fork", "--", "sh", "-c", script, "boot"]);
    let [kernel, container] = KERNELS;
    command.args([files.vmm()?, files.source(kernel)?, files.source(ROOTFS)?]).arg(append);
    command.args([files.source(container)?, &files.layout]);
    Ok(command)
}
