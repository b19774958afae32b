//! A figure: what was measured, against whom, and whether it is as good as it has to be.

use anyhow::{Context, Result};
use serde::Serialize;
use vmm_contrast::stats::{MAX_DRIFT, Ratio, Summary, drift};

use super::record::{Arm, Records};

/// What a figure has to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    /// Our median over the peer's is at most this.
    RatioAtMost(f64),
    /// Our median over the peer's is at least this.
    RatioAtLeast(f64),
    /// Our median is at most this, in the figure's unit.
    AtMost(f64),
}

/// How the numbers of a figure are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Milliseconds.
    Ms,
    /// 2^20 bytes.
    Mib,
    /// 2^20 bytes a second.
    MibPerSecond,
    /// Operations a second.
    PerSecond,
    /// Processor seconds for 2^30 bytes.
    SecondsPerGib,
    /// Things counted.
    Count,
}

/// One row of the report.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) place: String,
    pub(super) unit: Unit,
    pub(super) ours: Summary,
    pub(super) peer: Option<Summary>,
    pub(super) ratio: Option<Ratio>,
    pub(super) goal: Option<Goal>,
    /// By how much the control changed while this was measured, as a fraction.
    pub(super) drift: Option<f64>,
}

/// A figure as `summary.json` has it.
#[derive(Debug, Serialize)]
pub(super) struct SummaryLine<'a> {
    name: &'a str,
    place: &'a str,
    n: usize,
    ours: f64,
    peer: Option<f64>,
    ratio: Option<f64>,
    interval: Option<[f64; 2]>,
    goal: Option<f64>,
    met: Option<bool>,
}

impl Figure {
    /// The figure behind a series of `records`, whose controls are in the series `control`.
    ///
    /// # Errors
    /// The series has no samples of ours.
    pub(super) fn of(records: &Records, series: &str, control: &str) -> Result<Self> {
        Self::between(records, (series, Arm::Ours), (series, Arm::Peer), control)
    }

    /// As [`Figure::of`], between any two series and arms.
    ///
    /// # Errors
    /// The first has no samples.
    pub(super) fn between(
        records: &Records,
        (series, arm): (&str, Arm),
        peer: (&str, Arm),
        control: &str,
    ) -> Result<Self> {
        let (ours, peer) = (records.samples(series, arm), records.samples(peer.0, peer.1));
        Ok(Self {
            name: series.to_owned(),
            place: String::new(),
            unit: Unit::Ms,
            ours: Summary::of(ours).with_context(|| format!("no samples of {series}"))?,
            peer: Summary::of(peer),
            ratio: Ratio::of(ours, peer),
            goal: None,
            drift: drift(records.samples(control, Arm::Control)),
        })
    }

    /// A figure that is one exact number, without a peer.
    pub(super) fn exact(value: f64) -> Self {
        Self {
            name: String::new(),
            place: String::new(),
            unit: Unit::Count,
            ours: Summary::exact(value),
            peer: None,
            ratio: None,
            goal: None,
            drift: None,
        }
    }

    /// The same figure under the name a reader knows it by.
    pub(super) fn named(self, name: &str, place: &str) -> Self {
        Self { name: name.to_owned(), place: place.to_owned(), ..self }
    }

    /// The same figure in another unit.
    pub(super) fn in_unit(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }

    /// The same figure with something to reach.
    pub(super) fn with_goal(self, goal: impl Into<Option<Goal>>) -> Self {
        Self { goal: goal.into(), ..self }
    }

    /// Whether the goal is met; nothing without a goal, `false` when it needs a peer that is missing.
    pub(super) fn met(&self) -> Option<bool> {
        let ratio = self.ratio.map(|ratio| ratio.value);
        Some(match self.goal? {
            Goal::RatioAtMost(most) => ratio.is_some_and(|ratio| ratio <= most),
            Goal::RatioAtLeast(least) => ratio.is_some_and(|ratio| ratio >= least),
            Goal::AtMost(most) => self.ours.p50 <= most,
        })
    }

    /// Whether the machine changed its pace too much for the figure to be trusted. What is counted
    /// does not depend on the pace.
    pub(super) fn is_doubtful(&self) -> bool {
        let timed = !matches!(self.unit, Unit::Count | Unit::Mib);
        timed && self.drift.is_some_and(|drift| drift > MAX_DRIFT)
    }

    /// The figure as `summary.json` has it.
    pub(super) fn line(&self) -> SummaryLine<'_> {
        SummaryLine {
            name: &self.name,
            place: &self.place,
            n: self.ours.n,
            ours: self.ours.p50,
            peer: self.peer.map(|peer| peer.p50),
            ratio: self.ratio.map(|ratio| ratio.value),
            interval: self.ratio.map(|ratio| ratio.interval),
            goal: self.goal.map(Goal::bound),
            met: self.met(),
        }
    }
}

impl Goal {
    fn bound(self) -> f64 {
        match self {
            Self::RatioAtMost(bound) | Self::RatioAtLeast(bound) | Self::AtMost(bound) => bound,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    /// A figure with a peer four times as slow.
    pub(in crate::bench) fn sample() -> Figure {
        let mut records = Records::default();
        for value in [1.0, 2.0, 3.0] {
            for (arm, factor) in [("ours", 1.0), ("peer", 4.0), ("control", 1.0)] {
                let value = value * factor;
                let line =
                    format!(r#"{{"record":"sample","series":"s","arm":"{arm}","value":{value}}}"#);
                writeln!(records, "{line}").unwrap();
            }
        }
        Figure::of(&records, "s", "s").unwrap().named("a figure", "A")
    }

    #[test]
    fn goals_are_judged_on_the_right_side() {
        let met = |goal| sample().with_goal(goal).met();
        assert_eq!(met(Goal::RatioAtMost(0.25)), Some(true));
        assert_eq!(met(Goal::RatioAtMost(0.24)), Some(false));
        assert_eq!(met(Goal::RatioAtLeast(0.25)), Some(true));
        assert_eq!(met(Goal::RatioAtLeast(0.26)), Some(false));
        assert_eq!(met(Goal::AtMost(2.0)), Some(true));
        assert_eq!(met(Goal::AtMost(1.9)), Some(false));
        assert_eq!(sample().met(), None);
        assert_eq!(Figure::exact(1.0).with_goal(Goal::RatioAtMost(9.0)).met(), Some(false));
    }

    #[test]
    fn summary_line_has_exactly_the_promised_names() {
        let json = serde_json::to_value(sample().with_goal(Goal::AtMost(2.0)).line()).unwrap();
        let mut names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["goal", "interval", "met", "n", "name", "ours", "peer", "place", "ratio"]
        );
        assert_eq!(json.get("peer"), Some(&8.0.into()));
        let alone = serde_json::to_value(Figure::exact(7.0).line()).unwrap();
        assert_eq!(alone.get("peer"), Some(&serde_json::Value::Null));
    }

    #[test]
    fn drifting_control_makes_a_figure_doubtful() {
        assert!(sample().is_doubtful());
        assert!(!Figure { drift: Some(0.05), ..sample() }.is_doubtful());
        assert!(!sample().in_unit(Unit::Count).is_doubtful());
    }
}
