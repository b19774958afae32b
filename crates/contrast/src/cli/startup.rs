//! `vmm bench startup`.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vmm_image::store::{Store, StorePaths};

use super::choice::{self, Directory};
use super::interrupt::Interrupt;
use super::output::Forms;
use super::{INTERRUPTED, surroundings};
use crate::arm::{self, Arm, Setting};
use crate::fingerprint::Fingerprint;
use crate::leftovers;
use crate::measure::{Found, Measurement};
use crate::plan::{Cache, Plan};
use crate::report::{Entry, FORM, Image, Report, assemble};
use crate::verdict::Verdict;
use crate::watch::Watch;
use crate::workload::Workload;

const CLOCK: &str = "CLOCK_MONOTONIC of this host, from before the process of the runtime is made until its \
                     parent has its exit status";

#[derive(Debug, Args)]
pub(super) struct StartupArgs {
    /// Measure only these, such as process,runc,vmm [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    arms: Vec<String>,

    /// The arm that ratios are to [default: runc, or what is here]
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,

    /// Runs of each arm that count
    #[arg(long, value_name = "N", default_value = "30", value_parser = count(1, 100_000))]
    runs: u64,

    /// Runs of each arm before those
    #[arg(long, value_name = "N", default_value = "1", value_parser = count(0, 1000))]
    warm_ups: u64,

    /// How many to start at once, in each of these ways
    #[arg(
        long, value_name = "N,...", default_value = "1", value_delimiter = ',',
        value_parser = count(1, 256)
    )]
    parallel: Vec<u64>,

    /// What the page cache holds before a run
    #[arg(long, value_name = "STATE,...", default_value = "warm", value_delimiter = ',')]
    #[arg(value_parser = cache)]
    cache: Vec<Cache>,

    /// Kill a run, and count it as failed, after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = count(1, 86_400))]
    timeout: u64,

    /// Kernel of the machines that are no containers [default: the minimal one that is here]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// What the order of runs comes from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    #[command(flatten)]
    forms: Forms,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,

    /// Image: a name, or oci:DIR, oci-archive:FILE, docker-archive:FILE
    #[arg(value_name = "IMAGE")]
    image: String,

    /// Command and arguments in place of the image's
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(super) fn count(least: u64, most: u64) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(least..=most)
}

fn cache(text: &str) -> Result<Cache, String> {
    match text {
        "warm" => Ok(Cache::Warm),
        "cold" => Ok(Cache::Cold),
        _ => Err("it is warm or cold".to_owned()),
    }
}

/// Measures and reports. What an interrupt leaves undone is said in the report, and by the status.
pub(super) fn run(args: &StartupArgs) -> Result<ExitCode> {
    let names = choice::names(&args.arms, args.baseline.as_ref())?;
    let kernel = args.kernel.as_deref().map(kernel).transpose()?;
    let destinations = args.forms.open()?;
    let interrupt = Interrupt::catch().context("catch signals")?;
    leftovers::adopt().context("become the parent of what runtimes leave")?;
    let store = Store::open(StorePaths::from_environment()?)?;
    let image = surroundings::image(&store, &args.image, args.quiet)?;
    let (mut workload, unpacked) =
        surroundings::workload(&image, &args.image, &args.command, store.paths())?;
    workload.kernel = kernel;
    let directory = Directory::new().context("make a directory for bundles")?;
    let setting = Setting { workload: &workload, directory: &directory.0 };
    let (entries, arms) = choice::open(&names, &setting);
    let baseline = choice::baseline(args.baseline.as_ref(), &entries)?;
    let kvm = arm::find_vmm().ok().and_then(|vmm| surroundings::kvm(&vmm));
    let fingerprint = Fingerprint::take(kvm, &workload.rootfs);
    let (plan, mut limitations) = plan(args);
    let timeout = Duration::from_secs(args.timeout);
    let program = workload.args.first().map_or("", String::as_str);
    let watch = Watch::on(&workload.rootfs, program, &workload.env);
    let measurement =
        Measurement { arms: &arms, timeout, watch, read: None, interrupt: interrupt.as_fd() };
    let found = measure(&measurement, &plan, args.quiet, &entries);
    limitations.extend(entries.iter().flat_map(|entry| limitations_of(entry, &arms, &found)));
    let controls = found.control.iter().map(|(kind, control)| (kind.to_string(), control.clone()));
    let controls: Vec<_> = controls.collect();
    let verdict = Verdict::of(&fingerprint, &controls, plan.runs, found.interrupted);
    let report = Report {
        form: FORM.to_owned(),
        title: title(&workload, &fingerprint, found.interrupted),
        partial: found.interrupted,
        image: Image { reference: workload.reference.clone(), id: workload.id.clone() },
        command: workload.args.clone(),
        seed: plan.seed,
        runs: plan.runs,
        warm_ups: plan.warm_ups,
        parallel: plan.parallel,
        caches: plan.caches,
        timeout_ms: timeout.as_secs_f64() * 1e3,
        arms: assemble(&entries, &found, baseline.as_deref()),
        baseline,
        clock: CLOCK.to_owned(),
        prepared: vec![
            unpacked,
            "the same unpacked root file system serves all containers".to_owned(),
        ],
        limitations,
        fingerprint,
        verdict,
    };
    destinations.write(&report)?;
    Ok(if found.interrupted { INTERRUPTED.into() } else { ExitCode::SUCCESS })
}

/// A kernel that was named: a file that can be read.
pub(super) fn kernel(path: &Path) -> Result<PathBuf> {
    let what = || format!("kernel {}", path.display());
    ensure!(path.metadata().with_context(what)?.is_file(), "{} is no file", what());
    File::open(path).with_context(what)?;
    Ok(std::path::absolute(path)?)
}

/// What of an arm is not as asked, or as with others.
fn limitations_of(entry: &Entry, arms: &[Box<dyn Arm>], found: &Found) -> Vec<String> {
    let Ok(place) = entry.place else { return vec![] };
    let mut list = arms.get(place).map(|arm| arm.limitations()).unwrap_or_default();
    if found.given_up.contains(&place) {
        list.push("it was not run again after its warm-ups had failed".to_owned());
    }
    list.into_iter().map(|text| format!("{}: {text}", entry.name)).collect()
}

/// The plan, and what of it is not as asked.
fn plan(args: &StartupArgs) -> (Plan, Vec<String>) {
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let mut limitations = vec![];
    let mut caches = args.cache.clone();
    if caches.contains(&Cache::Cold)
        && let Err(error) = OpenOptions::new().write(true).open("/proc/sys/vm/drop_caches")
    {
        limitations.push(format!("nothing was measured with a cold page cache: drop it: {error}"));
        caches.retain(|cache| *cache != Cache::Cold);
    }
    if cfg!(debug_assertions) {
        limitations.push("this is a build for debugging, whose own programs are slow".to_owned());
    }
    let mut parallel: Vec<usize> = args.parallel.iter().copied().map(number).collect();
    parallel.sort_unstable();
    parallel.dedup();
    caches.sort_unstable();
    caches.dedup();
    let (warm_ups, runs) = (number(args.warm_ups), number(args.runs));
    (Plan { seed: args.seed, warm_ups, runs, parallel, caches }, limitations)
}

/// Carries out `plan`, and shows how far it is.
pub(super) fn measure(
    measurement: &Measurement<'_>,
    plan: &Plan,
    quiet: bool,
    entries: &[Entry],
) -> Found {
    let bar = bar(plan.turns(measurement.arms.len()).len(), quiet);
    let found = measurement.perform(plan, |number, who| {
        let entry = entries.iter().find(|entry| Some(entry.place.clone()) == who.map(Ok));
        bar.set_message(entry.map_or("control", |entry| &entry.name).to_owned());
        bar.set_position(number as u64);
    });
    bar.finish_and_clear();
    found
}

/// A bar of so many turns on a terminal.
pub(super) fn bar(turns: usize, quiet: bool) -> ProgressBar {
    let bar = ProgressBar::new(turns as u64);
    if quiet || !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg:16} {eta}") {
        bar.set_style(style);
    }
    bar
}

fn title(workload: &Workload, fingerprint: &Fingerprint, partial: bool) -> String {
    let mut title = format!("startup of {} in {}", workload.args.join(" "), workload.reference);
    if let Some(caveat) = fingerprint.virtualisation.caveat() {
        title.push_str(&format!(", {caveat}"));
    }
    if partial {
        title.push_str(" (partial)");
    }
    title
}
