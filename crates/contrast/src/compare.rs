//! Two reports of the same measurement, from before and after a change.

use std::fmt::Write as _;

use serde::Serialize;

use crate::report::{FORM, Report, parse_as};
use crate::stats::Ratio;

/// What became of one arm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The arm.
    pub name: String,
    /// The medians before and after, in milliseconds.
    pub before: f64,
    /// See `before`.
    pub after: f64,
    /// After over before.
    pub ratio: f64,
    /// 95 % bootstrap interval of the ratio.
    pub interval: [f64; 2],
    /// Whether it takes longer: the whole interval is above 1.
    pub slower: bool,
}

/// The comparison of two reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Whether both are about the same and nothing speaks against their numbers.
    pub valid: bool,
    /// What speaks against a comparison.
    pub reasons: Vec<String>,
    /// Arms that both have measured.
    pub changes: Vec<Change>,
    /// Arms that only one of them has measured.
    pub missing: Vec<String>,
}

/// Reads a report.
///
/// # Errors
/// It is none, or of another form.
pub fn parse(text: &str) -> Result<Report, String> {
    parse_as(text, FORM, |report: &Report| &report.form)
}

/// Compares what was measured `before` and `after`.
pub fn compare(before: &Report, after: &Report) -> Comparison {
    let mut reasons = vec![];
    let mut differ = |what: &str, is: bool| {
        if is {
            reasons.push(format!("{what} differs"));
        }
    };
    differ("the image", before.image.id != after.image.id);
    differ("the command", before.command != after.command);
    let (one, two) = (&before.fingerprint, &after.fingerprint);
    differ("the processor", (&one.cpu, one.cpus) != (&two.cpu, two.cpus));
    differ("the kernel of the host", one.kernel != two.kernel);
    differ("what runs the host", one.virtualisation != two.virtualisation);
    for (when, report) in [("before", before), ("after", after)] {
        let of_report = report.verdict.reasons.iter();
        reasons.extend(of_report.map(|reason| format!("{when}: {reason}")));
    }
    let names: Vec<&str> = before.arms.iter().chain(&after.arms).map(|arm| &*arm.name).collect();
    let (mut changes, mut missing): (Vec<Change>, Vec<String>) = (vec![], vec![]);
    for name in names {
        if changes.iter().any(|change| change.name == name) || missing.iter().any(|m| m == name) {
            continue;
        }
        match change(name, before, after) {
            Some(change) => changes.push(change),
            None => missing.push(name.to_owned()),
        }
    }
    Comparison { valid: reasons.is_empty(), reasons, changes, missing }
}

fn change(name: &str, before: &Report, after: &Report) -> Option<Change> {
    let of = |report: &Report| {
        let arm = report.arms.iter().find(|arm| arm.name == name)?;
        Some((arm.measured.p50?, arm.measured.samples.clone()))
    };
    let ((before, old), (after, new)) = (of(before)?, of(after)?);
    let ratio = Ratio::of_unpaired(&new, &old)?;
    let (slower, interval) = (ratio.interval[0] > 1.0, ratio.interval);
    Some(Change { name: name.to_owned(), before, after, ratio: ratio.value, interval, slower })
}

impl Comparison {
    /// The comparison for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for change in &self.changes {
            let Change { name, before, after, ratio, interval: [low, high], .. } = change;
            let verdict = match (change.slower, *high < 1.0) {
                (true, _) => "slower",
                (_, true) => "faster",
                _ => "no difference seen",
            };
            let _ = writeln!(
                text,
                "{name}: {before:.2} ms -> {after:.2} ms, {ratio:.3}x ({low:.3} - {high:.3}): {verdict}"
            );
        }
        for name in &self.missing {
            let _ = writeln!(text, "{name}: not measured in both");
        }
        for reason in &self.reasons {
            let _ = writeln!(text, "not comparable: {reason}");
        }
        text
    }
}
