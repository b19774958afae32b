//! The report of a measurement that has several figures for each arm: memory, density, io, cpu.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Entry, Image};
use crate::figures::{Kind, Rounds, Step};
use crate::fingerprint::Fingerprint;
use crate::stats::{Ratio, Slope, median, median_interval};
use crate::verdict::Verdict;

/// Everything about one run of `vmm bench memory`, `density`, `io` or `cpu`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// `vmm-contrast/NAME/1`; another number means other meanings.
    pub form: String,
    /// What this is, with what it is worth.
    pub title: String,
    /// Whether it was interrupted.
    pub partial: bool,
    /// The image as the user called it, and the identifier of what was run.
    pub image: Image,
    /// Program and arguments.
    pub command: Vec<String>,
    /// What was asked for besides.
    pub settings: BTreeMap<String, String>,
    /// What the order of runs comes from.
    pub seed: u64,
    /// Runs of each arm that were to be made.
    pub runs: usize,
    /// Runs of each arm that do not count.
    pub warm_ups: usize,
    /// How long a run may take.
    pub timeout_ms: f64,
    /// The arm that ratios are to.
    pub baseline: Option<String>,
    /// How it was measured.
    pub measured: Vec<String>,
    /// What was prepared before, for all arms.
    pub prepared: Vec<String>,
    /// What could not be done as asked.
    pub limitations: Vec<String>,
    /// The host.
    pub fingerprint: Fingerprint,
    /// Whether the numbers are to be trusted.
    pub verdict: Verdict,
    /// One for each arm that was asked for, absent ones too.
    pub arms: Vec<FiguresArm>,
}

/// One arm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FiguresArm {
    /// Its name.
    pub name: String,
    /// Why it was not measured; `None` if it was.
    pub absent: Option<String>,
    /// What its program says its version is.
    pub version: Option<String>,
    /// The command line of a run.
    pub command_line: Option<String>,
    /// What was prepared for it before.
    pub prepared: Vec<String>,
    /// Runs that failed: they are in no figure.
    pub failures: Vec<RunFailure>,
    /// What was measured, the same figures in the same order for all arms.
    pub figures: Vec<Figure>,
    /// What the host said after each further instance, if there were several.
    pub steps: Vec<Step>,
    /// Why there was no further instance, if there were several.
    pub stopped: Option<String>,
}

/// A run that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunFailure {
    /// Its round, from 0; `None` for a warm-up.
    pub round: Option<usize>,
    /// What happened.
    pub why: String,
}

/// One figure of one arm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Why there is no number.
    pub absent: Option<String>,
    /// Runs that have it.
    pub runs: usize,
    /// The median of all runs, or the slope over all steps.
    pub value: Option<f64>,
    /// 95 % bootstrap interval.
    pub interval: Option<[f64; 2]>,
    /// The value over the baseline's, of the rounds that both have.
    pub ratio: Option<f64>,
    /// 95 % bootstrap interval of the ratio.
    pub ratio_interval: Option<[f64; 2]>,
    /// Every run that has it, in order.
    pub samples: Vec<f64>,
}

/// The reports of all arms; ratios are to the arm of the name `baseline`.
pub fn assemble(
    entries: &[Entry],
    found: &[Rounds],
    kinds: &[Kind],
    baseline: Option<&str>,
) -> Vec<FiguresArm> {
    let rounds = |entry: &Entry| found.get(entry.place.as_ref().ok().copied()?);
    let base = entries.iter().find(|entry| Some(&*entry.name) == baseline).and_then(rounds);
    entries.iter().map(|entry| arm(entry, rounds(entry), kinds, base)).collect()
}

fn arm(entry: &Entry, own: Option<&Rounds>, kinds: &[Kind], base: Option<&Rounds>) -> FiguresArm {
    let own_failures = own.map(|own| own.failures.as_slice()).unwrap_or_default();
    let failures = own_failures.iter();
    let figures = own.into_iter().flat_map(|own| {
        kinds.iter().enumerate().map(move |(number, kind)| figure(kind, number, own, base))
    });
    FiguresArm {
        name: entry.name.clone(),
        absent: entry.place.as_ref().err().cloned(),
        version: entry.version.clone(),
        command_line: entry.command_line.clone(),
        prepared: entry.prepared.clone(),
        failures: failures
            .map(|(round, why)| RunFailure { round: *round, why: why.clone() })
            .collect(),
        figures: figures.collect(),
        steps: own.map(|own| own.steps.clone()).unwrap_or_default(),
        stopped: own.and_then(|own| own.stopped.clone()),
    }
}

fn figure(kind: &Kind, number: usize, own: &Rounds, base: Option<&Rounds>) -> Figure {
    let samples: Vec<f64> = own.of(number).map(|(_, value)| value).collect();
    let ratio = base.and_then(|base| {
        let peer: BTreeMap<usize, f64> = base.of(number).collect();
        let pair = |(round, value)| Some((value, *peer.get(&round)?));
        let (ours, peer): (Vec<f64>, Vec<f64>) = own.of(number).filter_map(pair).unzip();
        // What may be nothing, or less, is no multiple of anything.
        let all_positive = ours.iter().chain(&peer).all(|value| *value > 0.0);
        Ratio::of(&ours, &peer).filter(|_| all_positive)
    });
    Figure {
        name: kind.name,
        unit: kind.unit,
        absent: samples.is_empty().then(|| absence(kind, own)),
        runs: samples.len(),
        value: median(&samples),
        interval: median_interval(&samples),
        ratio: ratio.map(|ratio| ratio.value),
        ratio_interval: ratio.map(|ratio| ratio.interval),
        samples,
    }
}

fn absence(kind: &Kind, own: &Rounds) -> String {
    let nothing = own.values.is_empty();
    if nothing { "no run went well".to_owned() } else { kind.absent.to_owned() }
}

impl FiguresArm {
    /// Adds a figure that is the slope over all steps but the first, which has what all share.
    pub fn add_slope(&mut self, kind: &Kind, slope: Option<&Slope>, base: Option<&Slope>) {
        let ratio = slope.zip(base).and_then(|(own, base)| own.ratio(base));
        self.figures.push(Figure {
            name: kind.name,
            unit: kind.unit,
            absent: slope.is_none().then(|| kind.absent.to_owned()),
            runs: self.steps.len().saturating_sub(1),
            value: slope.map(|slope| slope.value),
            interval: slope.and_then(Slope::interval),
            ratio: ratio.map(|ratio| ratio.value),
            ratio_interval: ratio.map(|ratio| ratio.interval),
            samples: vec![],
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 2] = [
        Kind { name: "one", unit: "ns", absent: "it has none" },
        Kind { name: "two", unit: "MiB", absent: "it has no two" },
    ];

    fn entry(name: &str, place: Result<usize, String>) -> Entry {
        Entry { place, ..Entry::absent(name) }
    }

    fn rounds(values: &[(usize, Option<f64>, Option<f64>)]) -> Rounds {
        let values = values.iter().map(|(round, one, two)| (*round, vec![*one, *two])).collect();
        Rounds { values, ..Rounds::default() }
    }

    #[test]
    fn figures_of_all_arms_stand_beside_each_other() {
        let entries =
            [entry("base", Ok(0)), entry("other", Ok(1)), entry("none", Err("no".into()))];
        let base = rounds(&[(0, Some(1.0), None), (1, Some(2.0), None), (2, Some(9.0), None)]);
        let mut other = rounds(&[(0, Some(4.0), Some(5.0)), (1, Some(8.0), Some(6.0))]);
        other.failures.push((Some(2), "hung".to_owned()));
        let arms = assemble(&entries, &[base, other], &KINDS, Some("base"));
        let one = &arms[1].figures[0];
        assert_eq!((one.runs, one.value, one.ratio), (2, Some(6.0), Some(4.0)));
        assert_eq!(arms[1].failures[0].why, "hung");
        let two = &arms[1].figures[1];
        assert_eq!((two.value, two.ratio), (Some(5.5), None));
        assert_eq!(arms[0].figures[1].absent.as_deref(), Some("it has no two"));
        assert_eq!((arms[2].absent.as_deref(), arms[2].figures.len()), (Some("no"), 0));
    }

    #[test]
    fn arm_whose_runs_all_failed_says_so_in_each_figure() {
        let arms = assemble(&[entry("base", Ok(0))], &[Rounds::default()], &KINDS, None);
        let absent: Vec<_> = arms[0].figures.iter().map(|f| f.absent.as_deref()).collect();
        assert_eq!(absent, [Some("no run went well"); 2]);
    }
}
