//! Whether the numbers of a run are to be trusted, and why not.

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
    /// By how much the control's second half differs from its first, as a fraction; of the rounds of that kind in
    /// which it differs most.
    pub control_drift: Option<f64>,
    /// The control's median, in milliseconds.
    pub control_p50: Option<f64>,
    /// How many controls there are.
    pub controls: usize,
}

impl Verdict {
    /// Judges a run of `runs` rounds of each kind on the host `fingerprint`, whose control took `controls` in those of
    /// each kind. Times of different kinds are not compared, so that a drift between them is none.
    pub fn of(
        fingerprint: &Fingerprint,
        controls: &[Vec<f64>],
        runs: usize,
        partial: bool,
    ) -> Self {
        let drift = controls.iter().filter_map(|control| drift(control)).max_by(f64::total_cmp);
        let control = &*controls.concat();
        let mut reasons = vec![];
        if partial {
            reasons.push("the run was interrupted".to_owned());
        }
        match drift {
            _ if control.len() < MIN_CONTROLS => reasons.push(format!(
                "there are {} controls, too few to notice a machine that changes its pace",
                control.len()
            )),
            Some(drift) if drift > MAX_DRIFT => reasons.push(format!(
                "the control changed by {:.0} % from the first half to the second",
                drift * 100.0
            )),
            _ => {}
        }
        let limit = MAX_LOAD * fingerprint.cpus as f64;
        if let Some(load) = fingerprint.load.filter(|load| *load > limit) {
            reasons.push(format!(
                "the load was {load} before the first run, on {} processors",
                fingerprint.cpus
            ));
        }
        let (controls, control_p50) = (control.len(), median(control));
        let valid = reasons.is_empty();
        let notes = notes(fingerprint, runs);
        Self { valid, reasons, notes, control_drift: drift, control_p50, controls }
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

    #[test]
    fn quiet_run_is_valid() {
        let verdict = Verdict::of(&quiet(), &[vec![1.0; 30]], 30, false);
        assert!(verdict.valid && verdict.reasons.is_empty(), "{verdict:?}");
    }

    #[test]
    fn drift_load_and_interruption_are_named() {
        let reasons = |fingerprint, control: &[f64], partial| {
            Verdict::of(&fingerprint, &[control.to_vec()], 30, partial).reasons.join("; ")
        };
        let drifting: Vec<f64> = (0..30).map(f64::from).collect();
        assert!(reasons(quiet(), &drifting, false).contains("the control changed"));
        let loaded = Fingerprint { load: Some(3.0), ..quiet() };
        assert!(reasons(loaded, &[1.0; 30], false).contains("the load was 3"));
        assert!(reasons(quiet(), &[1.0; 30], true).contains("interrupted"));
        assert!(reasons(quiet(), &[], false).contains("0 controls"));
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
        let verdict = Verdict::of(&trapped, &[vec![1.0; 30]], 3, false);
        assert!(verdict.valid && verdict.notes.len() >= 4, "{verdict:?}");
    }
}
