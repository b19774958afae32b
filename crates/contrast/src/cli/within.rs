//! `vmm bench cpu` and `vmm bench io`: what the probe measures within each arm.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::desk::{Common, Desk, Outcome, What};
use super::startup::{count, measure};
use crate::figures::{Kind, Rounds};
use crate::measure::Found;
use crate::plan::{Cache, Plan};
use crate::probed::{self, Probed};
use crate::report::assemble_figures;
use crate::sink::Sink;

#[derive(Debug, Args)]
pub(super) struct WithinArgs {
    #[command(flatten)]
    common: Common,

    /// Runs of each arm that count
    #[arg(long, value_name = "N", default_value = "10", value_parser = count(1, 10_000))]
    runs: u64,

    /// Runs of each arm before those
    #[arg(long, value_name = "N", default_value = "1", value_parser = count(0, 1000))]
    warm_ups: u64,
}

#[derive(Debug, Args)]
pub(super) struct IoArgs {
    #[command(flatten)]
    within: WithinArgs,

    /// Address of this host to listen at for streams from within: one that is not loopback can be reached by machines
    /// and engines, which get a network then, and by whoever else can reach it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    listen: IpAddr,
}

/// One of the two.
struct Kit {
    name: &'static str,
    words: &'static [&'static str],
    list: &'static [Probed],
    measured: &'static [&'static str],
}

const CPU: Kit = Kit {
    name: "cpu",
    words: &probed::CPU_WORDS,
    list: &probed::CPU,
    measured: &[
        "each run is a new instance that runs the probe, which takes the best of five rounds of each figure",
        "times are by the clock within: CLOCK_MONOTONIC of the kernel that the probe runs on",
    ],
};

const IO: Kit = Kit {
    name: "io",
    words: &probed::IO_WORDS,
    list: &probed::IO,
    measured: &[
        "each run is a new instance that runs the probe, which takes the best of five rounds of each figure",
        "a file of 16 MiB where the instance writes; before it is read, the kernel within forgets it, and the host's \
         does not forget what it keeps of a machine's disk",
        "TCP over the loopback interface within; and to this program, at the address of --listen, where an arm has a \
         way there: a process by its host's network, a machine by passt, an engine by its own",
        "times are by the clock within: CLOCK_MONOTONIC of the kernel that the probe runs on",
    ],
};

pub(super) fn cpu(args: &WithinArgs) -> Result<ExitCode> {
    run(args, &CPU, None)
}

pub(super) fn io(args: &IoArgs) -> Result<ExitCode> {
    run(&args.within, &IO, Some(args.listen))
}

/// `listen` is where streams from within are served, if there are any.
fn run(args: &WithinArgs, kit: &'static Kit, listen: Option<IpAddr>) -> Result<ExitCode> {
    let common = &args.common;
    let mut words: Vec<String> = kit.words.iter().map(|word| (*word).to_owned()).collect();
    // The other end of streams, as long as anything runs.
    let sink = listen.map(Sink::open).transpose();
    let sink = sink.context("listen for streams where --listen says")?;
    // The first word: what the probe serves itself comes later, and is not taken for this.
    words.splice(0..0, sink.iter().map(Sink::word));
    let mut desk = Desk::open(common, &What::Probe(&words))?;
    desk.workload.network = listen.is_some_and(|address| !address.is_loopback());
    let arms = desk.arms()?;
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let plan = Plan {
        seed: common.seed,
        warm_ups: number(args.warm_ups),
        runs: number(args.runs),
        parallel: vec![1],
        caches: vec![Cache::Warm],
    };
    let read = |output: &[u8]| probed::read(kit.list, output);
    let mut measurement = desk.measurement(&arms);
    measurement.read = Some(&read);
    let found = measure(&measurement, &plan, common.quiet, &arms.entries);
    let kinds: Vec<Kind> = kit.list.iter().map(|probed| probed.kind).collect();
    let rounds = rounds(&found, arms.arms.len());
    let given_up = found.given_up.iter().filter_map(|arm| {
        let entry = arms.entries.iter().find(|entry| entry.place == Ok(*arm))?;
        Some(format!("{} was not run again after its warm-ups had failed", entry.name))
    });
    let outcome = Outcome {
        name: kit.name,
        about: "the probe".to_owned(),
        settings: BTreeMap::new(),
        runs: plan.runs,
        warm_ups: plan.warm_ups,
        interrupted: found.interrupted,
        measured: kit.measured.iter().map(|line| (*line).to_owned()).collect(),
        limitations: given_up.collect(),
        arms: assemble_figures(&arms.entries, &rounds, &kinds, arms.baseline.as_deref()),
        control: found.control.into_values().flatten().collect(),
    };
    desk.close(arms, outcome)
}

/// What was found in each of so many arms.
fn rounds(found: &Found, arms: usize) -> Vec<Rounds> {
    let of = |arm: usize| {
        let series = found.series.iter().filter(|((own, _), _)| *own == arm);
        let mut rounds = Rounds::default();
        for (_, series) in series {
            let values = series.samples.iter();
            rounds.values.extend(values.map(|(round, sample)| (*round, sample.figures.clone())));
            rounds.failures.extend(series.failures.iter().cloned());
        }
        rounds
    };
    (0..arms).map(of).collect()
}
