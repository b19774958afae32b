//! `vmm bench memory` and `vmm bench density`: what instances take that do nothing.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::desk::{Arms, Common, Desk, Outcome, What, size};
use super::startup::{bar, count};
use crate::density::{self, Bounds};
use crate::figures::Rounds;
use crate::instance::{Patience, Running};
use crate::launch::Failure;
use crate::leftovers;
use crate::measure::Measurement;
use crate::memory;
use crate::plan::{Cache, Plan, Who};
use crate::report::{FiguresArm, assemble_figures};

/// What is run if nothing else is asked for.
const IDLE: [&str; 2] = ["sleep", "86400"];
/// From the start of an instance until it is looked at.
const SETTLE: Duration = Duration::from_secs(2);
/// The same where many are started.
const SETTLE_OF_MANY: Duration = Duration::from_millis(500);
/// Instances where neither a number nor a budget was asked for, and at most.
const USUAL: usize = 10;
const MOST: usize = 1000;

#[derive(Debug, Args)]
pub(super) struct MemoryArgs {
    #[command(flatten)]
    common: Common,

    /// Runs of each arm that count
    #[arg(long, value_name = "N", default_value = "6", value_parser = count(1, 1000))]
    runs: u64,

    /// Runs of each arm before those
    #[arg(long, value_name = "N", default_value = "1", value_parser = count(0, 100))]
    warm_ups: u64,

    /// Command that does nothing, in place of sleep 86400
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct DensityArgs {
    #[command(flatten)]
    common: Common,

    /// Instances of each arm at most [default: 10, or 1000 with a budget]
    #[arg(long, value_name = "N", value_parser = count(1, 1000))]
    count: Option<u64>,

    /// Memory of this host that all instances of an arm may take, by MemAvailable or by PSS, such as 2g
    #[arg(long, value_name = "SIZE", value_parser = size)]
    budget: Option<u64>,

    /// Command that does nothing, in place of sleep 86400
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

fn words(command: &[String]) -> Vec<String> {
    if command.is_empty() { IDLE.map(str::to_owned).to_vec() } else { command.to_vec() }
}

fn number(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

pub(super) fn memory(args: &MemoryArgs) -> Result<ExitCode> {
    let common = &args.common;
    let words = words(&args.command);
    let desk = Desk::open(common, &What::Command(&words))?;
    let arms = desk.arms()?;
    let plan = Plan {
        seed: common.seed,
        warm_ups: number(args.warm_ups),
        runs: number(args.runs),
        parallel: vec![1],
        caches: vec![Cache::Warm],
    };
    let patience = patience(&desk, SETTLE);
    let found = rounds(&desk.measurement(&arms), &plan, &words, &patience, &arms, common.quiet);
    let outcome = Outcome {
        name: "memory",
        about: words.join(" "),
        settings: settings(common),
        runs: plan.runs,
        warm_ups: plan.warm_ups,
        control: found.control,
        interrupted: found.interrupted,
        measured: [
            "sizes are in MiB, two seconds after an instance has begun, each time a new one",
            "PSS: of pages that several processes have, each counts its part; the parts add up to the whole",
            "guest memory: writable mappings of 32 MiB or more, without a file, of the process that holds the machine",
            "page cache and kernel memory as the instance's control group counts them, if it has one; what was read \
             before is charged to whoever read it",
        ]
        .map(str::to_owned)
        .to_vec(),
        limitations: vec![],
        arms: assemble_figures(
            &arms.entries,
            &found.arms,
            &memory::KINDS,
            arms.baseline.as_deref(),
        ),
    };
    desk.close(arms, outcome)
}

fn patience<'d>(desk: &'d Desk<'_>, settle: Duration) -> Patience<'d> {
    Patience { timeout: desk.timeout(), settle, interrupt: desk.interrupt.as_fd() }
}

fn settings(common: &Common) -> BTreeMap<String, String> {
    let memory = common.memory.map(|bytes| ("memory of an instance".to_owned(), bytes.to_string()));
    memory.into_iter().collect()
}

/// What was found.
struct Found {
    arms: Vec<Rounds>,
    control: Vec<f64>,
    interrupted: bool,
}

/// Starts, looks at and ends one instance in each turn of `plan`.
fn rounds(
    measurement: &Measurement<'_>,
    plan: &Plan,
    words: &[String],
    patience: &Patience<'_>,
    arms: &Arms,
    quiet: bool,
) -> Found {
    let turns = plan.turns(arms.arms.len());
    let bar = bar(turns.len(), quiet);
    let mut found = Found {
        arms: vec![Rounds::default(); arms.arms.len()],
        control: vec![],
        interrupted: false,
    };
    for (number, turn) in turns.iter().enumerate() {
        show(&bar, number, arms, turn.who.arm());
        if measurement.is_interrupted() {
            found.interrupted = true;
            break;
        }
        let Who::Arm(arm) = turn.who else {
            let control = measurement.control().ok().filter(|_| turn.round.is_some());
            found.control.extend(control.map(|sample| sample.total));
            continue;
        };
        let (Some(own), Some(rounds)) = (arms.arms.get(arm), found.arms.get_mut(arm)) else {
            continue;
        };
        let name = format!("contrast-{}-{number}", std::process::id());
        let before = memory::available();
        let result = Running::start(own.as_ref(), &name, words, patience)
            .and_then(|running| memory::look(&running, words, before));
        match (result, turn.round, clean()) {
            (Err(Failure::Interrupted), ..) => {
                found.interrupted = true;
                break;
            }
            (Ok(_), round, Err(failure)) | (Err(failure), round, _) => {
                rounds.failures.push((round, failure.to_string()));
            }
            (Ok(values), Some(round), Ok(())) => drop(rounds.values.insert(round, values)),
            (Ok(_), None, Ok(())) => {}
        }
    }
    bar.finish_and_clear();
    found
}

/// Waits until nothing of the instances that were ended is left.
fn clean() -> Result<(), Failure> {
    let left = leftovers::settle();
    if left.is_empty() { Ok(()) } else { Err(Failure::Leftovers(left)) }
}

fn show(bar: &ProgressBar, position: usize, arms: &Arms, arm: Option<usize>) {
    let entry = arms.entries.iter().find(|entry| Some(entry.place.clone()) == arm.map(Ok));
    bar.set_message(entry.map_or("control", |entry| &entry.name).to_owned());
    bar.set_position(position as u64);
}

pub(super) fn density(args: &DensityArgs) -> Result<ExitCode> {
    let common = &args.common;
    let words = words(&args.command);
    let desk = Desk::open(common, &What::Command(&words))?;
    let arms = desk.arms()?;
    let usual = if args.budget.is_some() { MOST } else { USUAL };
    let bounds =
        Bounds { count: args.count.map_or(usual, number), budget: args.budget.map(memory::mib) };
    let patience = patience(&desk, SETTLE_OF_MANY);
    let found = fill(&desk.measurement(&arms), &bounds, &words, &patience, &arms, common);
    let mut settings = settings(common);
    settings.insert("instances at most".to_owned(), bounds.count.to_string());
    settings.extend(args.budget.map(|budget| ("budget in bytes".to_owned(), budget.to_string())));
    let outcome = Outcome {
        name: "density",
        about: words.join(" "),
        settings,
        runs: 1,
        warm_ups: 0,
        control: found.control,
        interrupted: found.interrupted,
        measured: [
            "sizes are in MiB; instances are started one after the other, half a second apart, arm by arm",
            "one more: the slope of a line through all instances but none, by least squares; intervals resample \
             instances",
            "MemAvailable has what the kernel takes for an instance, and what others take or give back meanwhile; PSS \
             has the processes alone",
        ]
        .map(str::to_owned)
        .to_vec(),
        limitations: vec![],
        arms: marginal(&arms, &found.arms),
    };
    desk.close(arms, outcome)
}

/// All arms in turn, in an order that comes from the seed, with a few controls before each.
fn fill(
    measurement: &Measurement<'_>,
    bounds: &Bounds,
    words: &[String],
    patience: &Patience<'_>,
    arms: &Arms,
    common: &Common,
) -> Found {
    let mut found = Found {
        arms: vec![Rounds::default(); arms.arms.len()],
        control: vec![],
        interrupted: false,
    };
    let once = Plan {
        seed: common.seed,
        warm_ups: 0,
        runs: 1,
        parallel: vec![1],
        caches: vec![Cache::Warm],
    };
    let turns = once.turns(arms.arms.len());
    let bar = bar(bounds.count.saturating_mul(arms.arms.len()), common.quiet);
    if let Ok(style) = ProgressStyle::with_template("{msg:16} {pos} instances") {
        bar.set_style(style);
    }
    for arm in turns.iter().filter_map(|turn| turn.who.arm()) {
        let controls = (0..CONTROLS).filter_map(|_| measurement.control().ok());
        found.control.extend(controls.map(|sample| sample.total));
        let (Some(own), Some(rounds)) = (arms.arms.get(arm), found.arms.get_mut(arm)) else {
            continue;
        };
        let name = format!("contrast-{}-{arm}", std::process::id());
        let progress = |count: usize| show(&bar, count, arms, Some(arm));
        let filled = density::measure(own.as_ref(), &name, words, bounds, patience, progress);
        let left = clean();
        if filled.failed {
            rounds.failures.push((Some(0), filled.stopped.clone()));
        }
        rounds.failures.extend(left.err().map(|failure| (Some(0), failure.to_string())));
        rounds.steps = filled.steps;
        rounds.stopped = Some(filled.stopped);
        if filled.interrupted {
            found.interrupted = true;
            break;
        }
    }
    bar.finish_and_clear();
    found
}

/// Turns of the control before each arm.
const CONTROLS: usize = 6;

/// The figures of all arms.
fn marginal(arms: &Arms, found: &[Rounds]) -> Vec<FiguresArm> {
    let slopes: Vec<_> = found.iter().map(|rounds| density::slopes(&rounds.steps)).collect();
    let place = |name: Option<&str>| {
        let entry = arms.entries.iter().find(|entry| Some(&*entry.name) == name)?;
        entry.place.as_ref().ok().copied()
    };
    let base = place(arms.baseline.as_deref()).and_then(|place| slopes.get(place));
    let mut reports = assemble_figures(&arms.entries, found, &[], None);
    for report in &mut reports {
        let Some(own) = place(Some(&report.name)).and_then(|place| slopes.get(place)) else {
            continue;
        };
        for (number, kind) in density::KINDS.iter().enumerate() {
            let of = |slopes: &[Option<_>; 2]| slopes.get(number).cloned().flatten();
            report.add_slope(kind, of(own).as_ref(), base.and_then(of).as_ref());
        }
    }
    reports
}
