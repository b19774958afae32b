//! Reports that commands of ours make in the emulated host, kept as JSON, as a page and as a picture of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, Result, ensure};

use super::Context;
use super::place::VMM;
use crate::arch::Arch;
use crate::artifacts::{self, FLAVOURS};
use crate::cache::Cache;
use crate::host::init::ARTIFACTS;
use crate::host::{self, Job};
use crate::images::store;
use crate::{command, packages, workspace};

/// How much of a page its picture shows.
const PICTURE_SIZE: &str = "1120,1500";
const BROWSER: &str = "chromium";

/// What `vmm COMMAND WORDS` reports as JSON.
///
/// # Errors
/// It fails, or takes longer than `timeout`.
pub(super) fn measure(
    context: &Context,
    command: &[&str],
    words: &[&str],
    timeout: Duration,
) -> Result<String> {
    let cache = Cache::of_user()?;
    let programs = context.programs()?;
    let mut job = Job::new([&[VMM], command, &["--quiet", "--format", "json"], words].concat());
    let importer = programs.path(store::IMPORTER)?;
    let guest = artifacts::guest(&cache, Arch::X86_64, FLAVOURS)?;
    job.artifacts = Some(artifacts::disk(&cache, Arch::X86_64, &guest)?);
    job.store = Some(store::disk(&cache, Arch::X86_64, importer)?);
    let kernel = Path::new(ARTIFACTS).join("kernels/container/vmlinux");
    job.environment.push(("VMM_KERNEL".into(), kernel.display().to_string()));
    for (name, path) in &programs.0 {
        job.copy.push((path.clone(), Path::new(host::BIN).join(name)));
    }
    job.timeout = Some(timeout);
    let mut output = vec![];
    let status = job.relay_to(&mut output, &mut io::stderr())?;
    ensure!(status == 0, "`vmm {}` failed (status {status})", command.join(" "));
    String::from_utf8(output).context("the report")
}

/// Writes a report and its page.
///
/// # Errors
/// A file cannot be written.
pub(super) fn keep(context: &Context, group: &str, report: &str, page: &str) -> Result<()> {
    for (end, text) in [("json", report), ("html", page)] {
        let path = file(context, group, end);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        eprintln!("bench: {}", path.display());
    }
    Ok(())
}

fn file(context: &Context, group: &str, end: &str) -> PathBuf {
    context.directory.join(format!("{group}.{end}"))
}

/// Puts a picture of the page that [`keep`] left into the documentation.
///
/// # Errors
/// There is no browser, or it shows nothing.
pub(super) fn picture(context: &Context, group: &str) -> Result<()> {
    packages::ensure(&[BROWSER])?;
    let page = fs::canonicalize(file(context, group, "html"))?;
    let picture = workspace::root().join("docs").join(format!("{group}.png"));
    let profile = context.directory.join("browser");
    let option = |name: &str, path: &PathBuf| format!("--{name}={}", path.display());
    let mut browser = Command::new("timeout");
    browser.args(["--kill-after=5", "120", BROWSER]);
    browser.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
    browser.arg(format!("--window-size={PICTURE_SIZE}"));
    browser.args([option("user-data-dir", &profile), option("screenshot", &picture)]);
    command::run(browser.arg(format!("file://{}", page.display())))?;
    fs::remove_dir_all(&profile).context("remove the browser's files")?;
    let size = fs::metadata(&picture).context("the picture")?.len();
    ensure!(size > 20_000, "the picture of the page has {size} bytes");
    Ok(())
}
