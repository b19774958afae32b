//! How many instances there is room for, and what each further one takes.

use std::io;

use crate::arm::Arm;
use crate::figures::{Kind, Step};
use crate::instance::{Patience, Running, pause};
use crate::launch::Failure;
use crate::memory::{Split, available, meminfo, mib, mib_of_kib};
use crate::stats::Slope;

/// The figures: what one more takes of what programs could still get, and by its own processes.
pub const KINDS: [Kind; 2] = [
    kind("one more, of the host's memory (MemAvailable)"),
    kind("one more, of all processes (PSS)"),
];

const fn kind(name: &'static str) -> Kind {
    Kind { name, unit: "MiB", absent: "fewer than three instances tell nothing" }
}

/// Instances that a line is laid through, at least, without the first.
const LEAST: usize = 2;
/// The part of its memory that this host keeps for others, whatever was asked for.
const KEPT: f64 = 0.1;

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Instances at most.
    pub count: usize,
    /// MiB of this host's memory at most, by either way to count.
    pub budget: Option<f64>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Found {
    /// Without an instance, and after each.
    pub steps: Vec<Step>,
    /// Why there was no further one.
    pub stopped: String,
    /// Whether that was a failure.
    pub failed: bool,
    /// Whether no more is wanted.
    pub interrupted: bool,
}

/// Starts instances of `arm` that run `words`, one after the other, until a bound is met. None is left.
pub fn measure(
    arm: &dyn Arm,
    name: &str,
    words: &[String],
    bounds: &Bounds,
    patience: &Patience<'_>,
    mut progress: impl FnMut(usize),
) -> Found {
    let mut found = Found::default();
    let mut instances = vec![];
    let result = fill(arm, name, words, bounds, patience, &mut instances, |step| {
        found.steps.push(step);
        progress(step.count);
    });
    (found.stopped, found.failed) = match result {
        Ok(why) => (why, false),
        Err(failure) => {
            found.interrupted = matches!(failure, Failure::Interrupted);
            let next = instances.len() + 1;
            (format!("instance {next} {failure}"), !found.interrupted)
        }
    };
    // The last first, as a stack of dishes.
    while instances.pop().is_some() {}
    found
}

fn fill<'a>(
    arm: &'a dyn Arm,
    name: &str,
    words: &[String],
    bounds: &Bounds,
    patience: &Patience<'_>,
    instances: &mut Vec<Running<'a>>,
    mut step: impl FnMut(Step),
) -> Result<String, Failure> {
    pause(patience.settle, patience.interrupt)?;
    let first = look(instances, words)?;
    step(first);
    loop {
        let instance = format!("{name}-{}", instances.len());
        instances.push(Running::start(arm, &instance, words, patience)?);
        let now = look(instances, words)?;
        step(now);
        if let Some(why) = bounds.met(&first, &now, meminfo("MemTotal:").map_or(0.0, mib)) {
            return Ok(why);
        }
    }
}

fn look(instances: &[Running<'_>], words: &[String]) -> Result<Step, Failure> {
    let unknown = || Failure::Measure(io::Error::other("this kernel has no MemAvailable"));
    let available = mib(available().ok_or_else(unknown)?);
    let mut pss = 0;
    for instance in instances {
        let split = Split::of(instance.processes(), words).map_err(Failure::Measure)?;
        if split.total == 0 {
            return Err(Failure::Gone);
        }
        pss += split.total;
    }
    Ok(Step { count: instances.len(), available, pss: mib_of_kib(pss) })
}

impl Bounds {
    /// Why there is no further instance, on a host with `total` MiB.
    fn met(&self, first: &Step, now: &Step, total: f64) -> Option<String> {
        let gone = first.available - now.available;
        if let Some(budget) = self.budget {
            for (taken, how) in [(gone, "MemAvailable"), (now.pss, "PSS")] {
                if taken >= budget {
                    return Some(format!(
                        "the budget of {budget:.0} MiB is used up by {how} ({taken:.0} MiB)"
                    ));
                }
            }
        }
        if now.available < total * KEPT {
            return Some(format!("this host has only {:.0} MiB left", now.available));
        }
        (now.count >= self.count).then(|| "as many as were asked for".to_owned())
    }
}

/// What each further instance takes, by either way to count, in the order of [`KINDS`].
pub fn slopes(steps: &[Step]) -> [Option<Slope>; 2] {
    // The first has what all share, and what this host had not read yet.
    let further = steps.get(1..).unwrap_or_default();
    if further.len() <= LEAST {
        return [None, None];
    }
    let line = |of: fn(&Step) -> f64| {
        let points: Vec<_> = further.iter().map(|step| (step.count as f64, of(step))).collect();
        Slope::of(&points)
    };
    [line(|step| -step.available), line(|step| step.pss)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(count: u32) -> Vec<Step> {
        let step = |n: u32| {
            let n = f64::from(n);
            let shared = if n > 0.0 { 30.0 } else { 0.0 };
            Step {
                count: n as usize,
                available: 8000.0 - shared - 50.0 * n,
                pss: shared + 40.0 * n,
            }
        };
        (0..=count).map(step).collect()
    }

    #[test]
    fn further_instances_cost_what_they_take_without_what_all_share() {
        let [available, pss] = slopes(&steps(6)).map(Option::unwrap);
        assert!((available.value - 50.0).abs() < 1e-6 && (pss.value - 40.0).abs() < 1e-6);
        assert_eq!(slopes(&steps(2)), [None, None]);
        assert_eq!(slopes(&[]), [None, None]);
    }

    #[test]
    fn each_bound_is_met_and_named() {
        let all = steps(10);
        let met = |bounds: Bounds, total| {
            let first = all.first().unwrap();
            all.iter().skip(1).find_map(|now| Some((now.count, bounds.met(first, now, total)?)))
        };
        let count = Bounds { count: 4, budget: None };
        assert_eq!(met(count, 9000.0), Some((4, "as many as were asked for".to_owned())));
        let budget = Bounds { count: 100, budget: Some(200.0) };
        let (number, why) = met(budget, 9000.0).unwrap();
        assert!(
            number == 4 && why.contains("200 MiB is used up by MemAvailable (230 MiB)"),
            "{why}"
        );
        let (number, why) = met(Bounds { count: 100, budget: None }, 78_000.0).unwrap();
        assert!(number == 4 && why.contains("only 7770 MiB left"), "{number} {why}");
    }
}
