//! From what was found to what is reported.

use std::collections::BTreeMap;

use crate::measure::{Found, Sample, Series};
use crate::plan::{Cache, Circumstances};
use crate::stats::{Ratio, Summary, mean, median, median_interval};
use crate::timeline::Phase;

use super::{ArmReport, FailureReport, Measured, Other, PhaseReport};

/// An arm that was asked for: what is known about it before it is measured.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its number among those that were measured, or why it was not.
    pub place: Result<usize, String>,
    /// See [`ArmReport::version`].
    pub version: Option<String>,
    /// See [`ArmReport::command_line`].
    pub command_line: Option<String>,
    /// See [`ArmReport::prepared`].
    pub prepared: Vec<String>,
}

impl Entry {
    /// An arm of which nothing is known but its name.
    pub fn absent(name: &str) -> Self {
        let (name, place) = (name.to_owned(), Err(String::new()));
        Self { name, place, version: None, command_line: None, prepared: vec![] }
    }
}

/// The reports of all arms; ratios are to the arm of the name `baseline`.
pub fn assemble(entries: &[Entry], found: &Found, baseline: Option<&str>) -> Vec<ArmReport> {
    let number = |entry: &Entry| entry.place.as_ref().ok().copied();
    let base = entries.iter().find(|entry| Some(&*entry.name) == baseline).and_then(number);
    entries.iter().map(|entry| arm(entry, found, base)).collect()
}

fn arm(entry: &Entry, found: &Found, base: Option<usize>) -> ArmReport {
    let all = found.series.iter().filter(|((arm, _), _)| entry.place.as_ref() == Ok(arm));
    let mut failures = vec![];
    let mut measured = vec![];
    for ((_, circumstances), series) in all {
        let Circumstances { cache, parallel } = *circumstances;
        let failure = |(round, why): &(Option<usize>, String)| FailureReport {
            round: *round,
            cache,
            parallel,
            why: why.clone(),
        };
        failures.extend(series.failures.iter().map(failure));
        let peer = base.and_then(|base| found.series.get(&(base, *circumstances)));
        let each: Vec<f64> = series.samples.values().flat_map(|s| s.each.iter().copied()).collect();
        let each_p50 = median(&each);
        measured.push(Other { cache, parallel, each_p50, measured: statistics(series, peer) });
    }
    let is_first = |other: &Other| other.parallel == 1;
    let first = measured.iter().position(|other| is_first(other) && other.cache == Cache::Warm);
    let first = first.or_else(|| measured.iter().position(is_first));
    let headline = first.map(|first| measured.remove(first).measured).unwrap_or_default();
    measured.retain(|other| other.measured.runs > 0);
    ArmReport {
        name: entry.name.clone(),
        absent: entry.place.as_ref().err().cloned(),
        version: entry.version.clone(),
        command_line: entry.command_line.clone(),
        prepared: entry.prepared.clone(),
        failures,
        measured: headline,
        others: measured,
    }
}

fn statistics(series: &Series, peer: Option<&Series>) -> Measured {
    let samples: Vec<f64> = series.samples.values().map(|sample| sample.total).collect();
    let Some(summary) = Summary::of(&samples) else { return Measured::default() };
    let ratio = peer.and_then(|peer| ratio(series, peer));
    let first: Vec<f64> = series.samples.values().filter_map(|s| s.first_output).collect();
    Measured {
        runs: summary.n,
        min: Some(summary.min),
        p50: Some(summary.p50),
        p90: Some(summary.p90),
        p95: Some(summary.p95),
        p99: Some(summary.p99),
        mean: mean(&samples),
        interval: median_interval(&samples),
        ratio: ratio.map(|ratio| ratio.value),
        ratio_interval: ratio.map(|ratio| ratio.interval),
        first_output_p50: median(&first),
        phases: phases(series.samples.values()),
        samples,
    }
}

/// The ratio over the rounds that both have.
fn ratio(ours: &Series, peer: &Series) -> Option<Ratio> {
    let pair =
        |(round, sample): (&usize, &Sample)| Some((sample.total, peer.samples.get(round)?.total));
    let (ours, peer): (Vec<f64>, Vec<f64>) = ours.samples.iter().filter_map(pair).unzip();
    Ratio::of(&ours, &peer)
}

/// The mean of each phase over all samples: a phase that one did not have took it no time.
fn phases<'s>(samples: impl ExactSizeIterator<Item = &'s Sample>) -> Vec<PhaseReport> {
    let count = samples.len() as f64;
    let mut sums: BTreeMap<Phase, f64> = BTreeMap::new();
    for (phase, time) in samples.flat_map(|sample| &sample.phases) {
        *sums.entry(*phase).or_default() += time;
    }
    let report = |(phase, sum): (Phase, f64)| PhaseReport {
        name: phase.name().to_owned(),
        mean: sum / count,
    };
    sums.into_iter().map(report).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(total: f64) -> Sample {
        let phases = vec![(Phase::Start, total / 4.0), (Phase::Gap, total * 3.0 / 4.0)];
        Sample { total, first_output: Some(total / 2.0), phases, each: vec![], figures: vec![] }
    }

    fn series(times: &[f64]) -> Series {
        Series {
            samples: times.iter().copied().map(sample).enumerate().collect(),
            failures: vec![],
        }
    }

    fn entry(name: &str, place: Result<usize, String>) -> Entry {
        Entry { place, ..Entry::absent(name) }
    }

    fn found() -> Found {
        let alone = Circumstances { cache: Cache::Warm, parallel: 1 };
        let four = Circumstances { parallel: 4, ..alone };
        let mut slow = series(&[4.0, 8.0, 6.0, 2.0]);
        slow.samples.remove(&3);
        slow.failures.push((Some(3), "hung".to_owned()));
        let all = [((0, alone), series(&[2.0, 4.0, 3.0, 9.0])), ((1, alone), slow)];
        let bursts = [((0, four), series(&[5.0]))];
        Found { series: all.into_iter().chain(bursts).collect(), ..Found::default() }
    }

    #[test]
    fn ratio_is_of_the_rounds_that_both_have() {
        let entries =
            [entry("fast", Ok(0)), entry("slow", Ok(1)), entry("none", Err("no".to_owned()))];
        let arms = assemble(&entries, &found(), Some("fast"));
        let slow = arms.get(1).unwrap();
        assert_eq!(slow.measured.ratio, Some(2.0));
        assert_eq!(slow.measured.runs, 3);
        assert_eq!(slow.failures.first().unwrap().why, "hung");
        let none = arms.get(2).unwrap();
        assert_eq!((none.absent.as_deref(), none.measured.runs), (Some("no"), 0));
    }

    #[test]
    fn phases_add_up_to_the_mean() {
        let arms = assemble(&[entry("fast", Ok(0))], &found(), None);
        let measured = &arms.first().unwrap().measured;
        let sum: f64 = measured.phases.iter().map(|phase| phase.mean).sum();
        assert!((sum - measured.mean.unwrap()).abs() < 1e-9);
        assert_eq!(measured.ratio, None);
    }

    #[test]
    fn bursts_stand_beside_what_ran_alone() {
        let arms = assemble(&[entry("fast", Ok(0))], &found(), Some("fast"));
        let fast = arms.first().unwrap();
        assert_eq!(fast.measured.p50, Some(3.5));
        let other = fast.others.first().unwrap();
        assert_eq!((other.parallel, other.measured.p50), (4, Some(5.0)));
    }
}
