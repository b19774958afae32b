//! Whether the numbers of a run are to be trusted, and why not.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fingerprint::Fingerprint;
use crate::stats::{MAX_DRIFT, drift, median};

/// More runnable processes than this for each processor, before the first run, are somebody else's work.
const MAX_LOAD: f64 = 0.5;
/// Controls that tell anything about drift.
const MIN_CONTROLS: usize = 6;
/// Fewer runs have no 99th percentile, and hardly an interval.
const MIN_RUNS: usize = 10;

/// The judgement on a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether nothing speaks against the numbers.
    pub valid: bool,
    /// What speaks against them.
    pub reasons: Vec<String>,
    /// What is known to distort such numbers and is found here, without making them invalid.
    pub notes: Vec<String>,
    /// The largest of `drifts`.
    pub control_drift: Option<f64>,
    /// By how much the control changed in the rounds of each kind; nothing in reports of an earlier program.
    #[serde(default)]
    pub drifts: Vec<Drift>,
    /// The control's median, in milliseconds.
    pub control_p50: Option<f64>,
    /// How many controls there are.
    pub controls: usize,
}

/// By how much the control changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// In which rounds.
    pub rounds: String,
    /// How far their second half is from their first, as a fraction.
    pub drift: f64,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} % ({})", self.drift * 100.0, self.rounds)
    }
}

impl Verdict {
    /// Judges a run of `runs` rounds of each kind on the host `fingerprint`, whose control took `controls` in those of
    /// each kind, which has a name. Times of different kinds are not compared, so that a drift between them is none.
    pub fn of(
        fingerprint: &Fingerprint,
        controls: &[(String, Vec<f64>)],
        runs: usize,
        partial: bool,
    ) -> Self {
        let drifts = controls.iter().filter_map(|(rounds, control)| {
            Some(Drift { rounds: rounds.clone(), drift: drift(control)? })
        });
        let drifts: Vec<_> = drifts.collect();
        let most = drifts.iter().max_by(|a, b| a.drift.total_cmp(&b.drift));
        let control: Vec<f64> = controls.iter().flat_map(|(_, control)| control).copied().collect();
        let mut reasons = vec![];
        if partial {
            reasons.push("the run was interrupted".to_owned());
        }
        match most {
            _ if control.len() < MIN_CONTROLS => reasons.push(format!(
                "there are {} controls, too few to notice a machine that changes its pace",
                control.len()
            )),
            Some(most) if most.drift > MAX_DRIFT => reasons
                .push(format!("the control changed from the first half to the second by {most}")),
            _ => {}
        }
        let limit = MAX_LOAD * fingerprint.cpus as f64;
        if let Some(load) = fingerprint.load.filter(|load| *load > limit) {
            reasons.push(format!(
                "the load was {load} before the first run, on {} processors",
                fingerprint.cpus
            ));
        }
        Self {
            valid: reasons.is_empty(),
            reasons,
            notes: notes(fingerprint, runs),
            control_drift: most.map(|most| most.drift),
            control_p50: median(&control),
            controls: control.len(),
            drifts,
        }
    }

    /// By how much the control changed, in words.
    pub fn change(&self) -> Option<String> {
        let all = self.drifts.iter().map(Drift::to_string).collect::<Vec<_>>().join(", ");
        let one = self.control_drift.map(|drift| format!("{:.1} %", drift * 100.0));
        if all.is_empty() { one } else { Some(all) }
    }
}

/// Traps that this host has.
fn notes(fingerprint: &Fingerprint, runs: usize) -> Vec<String> {
    let mut notes = vec![];
    let mut note = |applies: bool, text: &str| {
        if applies {
            notes.push(text.to_owned());
        }
    };
    note(
        runs < MIN_RUNS,
        "so few runs have no meaningful tail: the high percentiles are the slowest run",
    );
    note(
        fingerprint.governor.as_deref().is_some_and(|governor| governor != "performance"),
        "the clock rate of the processors follows the load: short runs may meet slow processors",
    );
    note(
        fingerprint.nx_huge_pages.as_deref() == Some("Y"),
        "nx_huge_pages is on: huge pages that guests execute from are split at first use",
    );
    note(
        fingerprint.cgroup == Some(2) && fingerprint.favordynmods == Some(false),
        "favordynmods is off: a process waits for a grace period when it is moved to a control group",
    );
    note(
        fingerprint.smt.as_deref() == Some("on"),
        "threads share cores: what runs at once may take time from each other",
    );
    note(
        fingerprint.mounts > 100,
        "many file systems are mounted: a mount namespace takes longer to copy",
    );
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn quiet() -> Fingerprint {
        Fingerprint { load: Some(0.1), cpus: 2, ..Fingerprint::take(None, Path::new("/")) }
    }

    fn all(control: &[f64]) -> (String, Vec<f64>) {
        ("all".to_owned(), control.to_vec())
    }

    #[test]
    fn quiet_run_is_valid() {
        let verdict = Verdict::of(&quiet(), &[all(&[1.0; 30])], 30, false);
        assert!(verdict.valid && verdict.reasons.is_empty(), "{verdict:?}");
        assert_eq!(verdict.change().unwrap(), "0.0 % (all)");
    }

    #[test]
    fn drift_load_and_interruption_are_named() {
        let reasons = |fingerprint, control: &[f64], partial| {
            Verdict::of(&fingerprint, &[all(control)], 30, partial).reasons.join("; ")
        };
        let drifting: Vec<f64> = (0..30).map(f64::from).collect();
        assert!(reasons(quiet(), &drifting, false).contains("the control changed"));
        let loaded = Fingerprint { load: Some(3.0), ..quiet() };
        assert!(reasons(loaded, &[1.0; 30], false).contains("the load was 3"));
        assert!(reasons(quiet(), &[1.0; 30], true).contains("interrupted"));
        assert!(reasons(quiet(), &[], false).contains("0 controls"));
    }

    #[test]
    fn rounds_of_each_kind_are_judged_by_themselves() {
        let drifting = (0..30).map(f64::from).collect();
        let controls = [all(&[1.0; 30]), ("cold".to_owned(), drifting), all(&[9.0; 30])];
        let verdict = Verdict::of(&quiet(), &controls, 30, false);
        let drifts: Vec<_> = verdict.drifts.iter().map(|found| found.drift > 0.0).collect();
        assert_eq!((verdict.controls, drifts), (90, vec![false, true, false]));
        assert!(verdict.reasons[0].ends_with("% (cold)"), "{verdict:?}");
        let earlier = Verdict { drifts: vec![], control_drift: Some(0.25), ..verdict };
        assert_eq!(earlier.change().unwrap(), "25.0 %");
    }

    #[test]
    fn traps_are_named_without_a_verdict() {
        let trapped = Fingerprint {
            governor: Some("powersave".to_owned()),
            nx_huge_pages: Some("Y".to_owned()),
            cgroup: Some(2),
            favordynmods: Some(false),
            ..quiet()
        };
        let verdict = Verdict::of(&trapped, &[all(&[1.0; 30])], 3, false);
        assert!(verdict.valid && verdict.notes.len() >= 4, "{verdict:?}");
    }
}
