//! The report of a measurement: what is printed, in every form.

mod csv;
mod figures;
mod figures_text;
mod html;
mod markdown;
mod render;
mod startup;
mod table;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::fingerprint::Fingerprint;
use crate::plan::{Cache, Circumstances};
use crate::verdict::Verdict;

pub(crate) use csv::quoted;
pub use figures::{Figure, Figures, FiguresArm, RunFailure, assemble as assemble_figures};
pub use render::{Format, html, render, render_figures};
pub use startup::{Entry, assemble};

/// The form of this report; another number means other meanings.
pub const FORM: &str = "vmm-contrast/startup/1";

/// Reads a report of whatever kind whose form, which `of` finds in it, is `form`.
pub(crate) fn parse_as<T: DeserializeOwned>(
    text: &str,
    form: &str,
    of: fn(&T) -> &String,
) -> Result<T, String> {
    let report: T = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if of(&report) != form {
        return Err(format!("it has the form {}, not {form}", of(&report)));
    }
    Ok(report)
}

/// `vmm bench startup`: everything about one run of it. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORM`].
    pub form: String,
    /// What this is, with what it is worth.
    pub title: String,
    /// Whether it was interrupted.
    pub partial: bool,
    /// The image as the user called it, and its identifier.
    pub image: Image,
    /// Program and arguments.
    pub command: Vec<String>,
    /// What the order of runs comes from.
    pub seed: u64,
    /// Runs of each arm that were to be made.
    pub runs: usize,
    /// Runs of each arm that do not count.
    pub warm_ups: usize,
    /// How many were started at once, in each of these ways; nothing in reports of an earlier program.
    #[serde(default)]
    pub parallel: Vec<usize>,
    /// The states of the page cache; as above.
    #[serde(default)]
    pub caches: Vec<Cache>,
    /// How long a run may take.
    pub timeout_ms: f64,
    /// The arm that ratios are to.
    pub baseline: Option<String>,
    /// Which clock, and what starts and stops it.
    pub clock: String,
    /// What was prepared before the clock started, for all arms.
    pub prepared: Vec<String>,
    /// What could not be done as asked.
    pub limitations: Vec<String>,
    /// The host.
    pub fingerprint: Fingerprint,
    /// Whether the numbers are to be trusted.
    pub verdict: Verdict,
    /// One for each arm that was asked for, absent ones too.
    pub arms: Vec<ArmReport>,
}

/// One series of an arm: what it was measured under, and what was found.
#[derive(Debug, Clone, Copy)]
struct Row<'r> {
    arm: &'r ArmReport,
    cache: Cache,
    parallel: usize,
    measured: &'r Measured,
}

impl Row<'_> {
    /// What it is called.
    fn name(&self) -> String {
        let cold = if self.cache == Cache::Cold { ", cold" } else { "" };
        match self.parallel {
            1 => format!("{}{cold}", self.arm.name),
            parallel => format!("{}{cold}, {parallel} at once", self.arm.name),
        }
    }
}

impl ArmReport {
    /// All series of this arm, the first of which is from the page cache `headline`.
    fn rows(&self, headline: Cache) -> impl Iterator<Item = Row<'_>> {
        let first = Row { arm: self, cache: headline, parallel: 1, measured: &self.measured };
        let others = self.others.iter().map(|other| {
            let Other { cache, parallel, measured, .. } = other;
            Row { arm: self, cache: *cache, parallel: *parallel, measured }
        });
        std::iter::once(first).chain(others)
    }
}

impl Report {
    /// All series of the arms that are here.
    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let here = self.arms.iter().filter(|arm| arm.absent.is_none());
        here.flat_map(|arm| arm.rows(self.headline()))
    }

    /// By how much the control changed in the rounds behind the numbers of an arm itself, as a fraction.
    pub fn drift(&self) -> Option<f64> {
        let kind = Circumstances { cache: self.headline(), parallel: 1 }.to_string();
        let own = self.verdict.drifts.iter().find(|found| found.rounds == kind);
        own.map(|found| found.drift).or(self.verdict.control_drift)
    }

    /// The page cache behind the numbers of an arm itself, which are of one at a time.
    fn headline(&self) -> Cache {
        let only_cold = !self.caches.is_empty() && !self.caches.contains(&Cache::Warm);
        if only_cold { Cache::Cold } else { Cache::Warm }
    }
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// As the user calls it.
    pub reference: String,
    /// The digest of its configuration.
    pub id: String,
}

/// One arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmReport {
    /// Its name.
    pub name: String,
    /// Why it was not measured; `None` if it was.
    pub absent: Option<String>,
    /// What its program says its version is.
    pub version: Option<String>,
    /// The command line of a run.
    pub command_line: Option<String>,
    /// What was prepared for it before the clock started.
    pub prepared: Vec<String>,
    /// Runs that failed: they are in no statistics.
    pub failures: Vec<FailureReport>,
    /// One at a time, from a warm page cache where that was asked for.
    #[serde(flatten)]
    pub measured: Measured,
    /// The same under other circumstances.
    pub others: Vec<Other>,
}

/// A run that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReport {
    /// Its round, from 0; `None` for a warm-up.
    pub round: Option<usize>,
    /// The page cache.
    pub cache: Cache,
    /// How many were started at once.
    pub parallel: usize,
    /// What happened.
    pub why: String,
}

/// Measured under other circumstances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Other {
    /// The page cache.
    pub cache: Cache,
    /// How many were started at once; times are until the last has ended.
    pub parallel: usize,
    /// The median of each by itself.
    pub each_p50: Option<f64>,
    /// What was measured.
    #[serde(flatten)]
    pub measured: Measured,
}

/// Statistics of one series; `None` where nothing was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Runs that went well.
    pub runs: usize,
    /// The least.
    pub min: Option<f64>,
    /// The median.
    pub p50: Option<f64>,
    /// Percentiles, nearest ranks.
    pub p90: Option<f64>,
    /// See `p90`.
    pub p95: Option<f64>,
    /// See `p90`.
    pub p99: Option<f64>,
    /// Of all: what the phases add up to.
    pub mean: Option<f64>,
    /// 95 % bootstrap interval of the median.
    pub interval: Option<[f64; 2]>,
    /// The median over the baseline's, of the rounds that both have.
    pub ratio: Option<f64>,
    /// 95 % bootstrap interval of the ratio.
    pub ratio_interval: Option<[f64; 2]>,
    /// The median until the first byte of output.
    pub first_output_p50: Option<f64>,
    /// What the mean is made of.
    pub phases: Vec<PhaseReport>,
    /// Every run that went well, in order.
    pub samples: Vec<f64>,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// The mean of all runs that went well.
    pub mean: f64,
}
