//! `vmm contrast`.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget};
use vmm_image::client::find_program;
use vmm_image::store::{Store, StorePaths};

use super::choice::Directory;
use super::interrupt::Interrupt;
use super::output::Forms;
use super::{INTERRUPTED, surroundings};
use crate::arm::{self, Setting};
use crate::fingerprint::Fingerprint;
use crate::isolation::compare::{compare, unexpected};
use crate::isolation::run::{Found, Trial};
use crate::isolation::{FORM, Report, page, render};
use crate::report::Image;
use crate::virtualisation::Virtualisation;
use crate::{inside, leftovers};

/// Arms that make containers.
const CONTAINERS: [&str; 8] =
    ["namespaces", "runc", "crun", "youki", "runsc", "podman", "docker", "ctr"];

#[derive(Debug, Args)]
pub(super) struct ContrastArgs {
    /// What makes the container: namespaces (our own), runc, crun, ...
    #[arg(long, value_name = "NAME", default_value = "namespaces")]
    container: String,

    /// Let a hog of memory and a bomb of processes, both with bounds, try the limits of this host. In an
    /// emulated host they always do
    #[arg(long)]
    hostile: bool,

    /// Give up a part after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,

    #[command(flatten)]
    forms: Forms,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,

    /// Image: a name, or oci:DIR, oci-archive:FILE, docker-archive:FILE
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// Measures and reports. What an interrupt leaves undone is said in the report, and by the status.
pub(super) fn run(args: &ContrastArgs) -> Result<ExitCode> {
    check(&args.container)?;
    let probe = find_program(inside::PROBE)?;
    let destinations = args.forms.open()?;
    let interrupt = Interrupt::catch().context("catch signals")?;
    leftovers::adopt().context("become the parent of what runtimes leave")?;
    let store = Store::open(StorePaths::from_environment()?)?;
    let image = surroundings::image(&store, &args.image, args.quiet)?;
    let id = image.id.to_string();
    let (image, made) = inside::image(&store, &image)?;
    let program = [inside::PROGRAM.to_owned()];
    let (workload, unpacked) =
        surroundings::workload(&image, &args.image, &program, store.paths())?;
    let directory = Directory::new().context("make a directory for bundles and sockets")?;
    is_here(&args.container, &Setting { workload: &workload, directory: &directory.0 })?;
    let kvm = arm::find_vmm().ok().and_then(|vmm| surroundings::kvm(&vmm));
    let fingerprint = Fingerprint::take(kvm, &workload.rootfs);
    let peaceful = peaceful(args.hostile, &fingerprint);
    let trial = Trial {
        workload: &workload,
        directory: &directory.0,
        container: &args.container,
        probe: &probe,
        timeout: Duration::from_secs(args.timeout),
        peaceful: peaceful.as_deref(),
        interrupt: interrupt.as_fd(),
    };
    let found = perform(&trial, args.quiet);
    let interrupted = found.interrupted;
    let image = Image { reference: workload.reference, id };
    let report = report(args, image, fingerprint, vec![made, unpacked], found);
    destinations.write_forms(|format| render(&report, format), || page(&report))?;
    Ok(if interrupted { INTERRUPTED.into() } else { ExitCode::SUCCESS })
}

fn check(container: &str) -> Result<()> {
    let known = CONTAINERS.join(", ");
    ensure!(
        CONTAINERS.contains(&container),
        "nothing named {container} makes containers here; known are {known}"
    );
    Ok(())
}

fn is_here(container: &str, setting: &Setting<'_>) -> Result<()> {
    let opened = arm::open(container, setting).map(drop);
    opened.map_err(|absent| anyhow!("no container can be made by {container}: {absent}"))
}

/// Why nothing is attacked on this host, if so.
fn peaceful(hostile: bool, fingerprint: &Fingerprint) -> Option<String> {
    let expendable = hostile || fingerprint.virtualisation == Virtualisation::Emulated;
    let why = "not tried on this host, because it is not emulated and --hostile was not given";
    (!expendable).then(|| why.to_owned())
}

fn perform(trial: &Trial<'_>, quiet: bool) -> Found {
    let bar = ProgressBar::new_spinner();
    if quiet || !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let found = trial.perform(|part| bar.set_message(part.to_owned()));
    bar.finish_and_clear();
    found
}

fn report(
    args: &ContrastArgs,
    image: Image,
    fingerprint: Fingerprint,
    mut prepared: Vec<String>,
    found: Found,
) -> Report {
    let [host, container, vm] = &found.sides;
    let lines = compare(host, container, vm);
    prepared
        .push("container and machine may use 512 MiB of memory, and have no network".to_owned());
    let mut limitations = vec![];
    if args.container != "namespaces" {
        limitations.push(format!(
            "the configuration that {} gets has no filter of system calls, unless it makes one itself",
            args.container
        ));
    }
    if cfg!(debug_assertions) {
        limitations.push("this is a build for debugging".to_owned());
    }
    Report {
        form: FORM.to_owned(),
        title: title(args, &fingerprint, found.interrupted),
        partial: found.interrupted,
        image,
        columns: found.columns,
        unexpected: unexpected(&lines),
        lines,
        prepared,
        limitations,
        fingerprint,
    }
}

fn title(args: &ContrastArgs, fingerprint: &Fingerprint, partial: bool) -> String {
    let mut title =
        format!("isolation of {}: {} and vmm beside their host", args.image, args.container);
    if let Some(caveat) = fingerprint.virtualisation.caveat() {
        title.push_str(&format!(", {caveat}"));
    }
    if partial {
        title.push_str(" (partial)");
    }
    title
}
