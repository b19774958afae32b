//! The report for people.

use std::fmt::Write as _;

use super::{ArmReport, Measured, Report, Row};
use crate::verdict::Verdict;

/// Column headings of a list of arms.
pub(super) const HEADINGS: [&str; 9] =
    ["ARM", "RUNS", "MIN", "P50", "P90", "P95", "P99", "95 % INTERVAL", "RATIO"];

/// A heading and what stands below it.
pub(super) type Section = (&'static str, Vec<String>);

pub(super) fn of(report: &Report) -> String {
    text(&report.title, &rows(report), &sections(report))
}

/// A title, a table with its headings first, and lists below it.
pub(super) fn text(title: &str, rows: &[Vec<String>], sections: &[Section]) -> String {
    let mut text = format!("{title}\n\n{}", columns(rows));
    for (heading, list) in sections.iter().filter(|(_, list)| !list.is_empty()) {
        let _ = writeln!(text, "\n{heading}:");
        for line in list {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

/// Rows of all arms, the headings first; times in milliseconds.
pub(super) fn rows(report: &Report) -> Vec<Vec<String>> {
    of_rows(report.rows())
}

/// The same of some.
pub(super) fn of_rows<'r>(rows: impl Iterator<Item = Row<'r>>) -> Vec<Vec<String>> {
    let head = HEADINGS.map(str::to_owned).to_vec();
    std::iter::once(head).chain(rows.map(|found| row(&found.name(), found.measured))).collect()
}

fn row(name: &str, measured: &Measured) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    let ratio = match (measured.ratio, measured.ratio_interval) {
        (Some(ratio), Some([low, high])) => format!("{ratio:.3} ({low:.3} - {high:.3})"),
        _ => "-".to_owned(),
    };
    let interval = measured.interval;
    let interval = interval.map_or_else(|| "-".to_owned(), |[a, b]| format!("{a:.2} - {b:.2}"));
    let Measured { min, p50, p90, p95, p99, .. } = *measured;
    let mut row = vec![name.to_owned(), measured.runs.to_string()];
    row.extend([min, p50, p90, p95, p99].map(number));
    row.extend([interval, ratio]);
    row
}

/// What stands below the numbers.
pub(super) fn sections(report: &Report) -> Vec<Section> {
    let ratio =
        report.baseline.as_ref().map(|name| format!("ratios are to {name}, in the same rounds"));
    let measured =
        [Some("times are in milliseconds".to_owned()), ratio, Some(report.clock.clone())];
    vec![
        (
            "Phases (means; they add up to the whole)",
            report.arms.iter().filter_map(phases).collect(),
        ),
        ("Absent", absent(report)),
        ("Failures", failures(report)),
        ("Measured", measured.into_iter().flatten().collect()),
        ("Prepared before the clock started", report.prepared.clone()),
        ("Not as asked", report.limitations.clone()),
        ("Verdict", judgement(&report.verdict)),
    ]
}

/// The arms that are not here, and why.
pub(super) fn absent(report: &Report) -> Vec<String> {
    let absent = report.arms.iter();
    absent.filter_map(|arm| Some(format!("{}: {}", arm.name, arm.absent.as_ref()?))).collect()
}

/// What is said about the numbers.
pub(super) fn judgement(verdict: &Verdict) -> Vec<String> {
    let validity = match verdict.valid {
        true => "nothing speaks against these numbers".to_owned(),
        false => format!("NOT VALID: {}", verdict.reasons.join("; ")),
    };
    let drift = verdict
        .change()
        .map(|change| format!("the control changed by {change} in {} runs", verdict.controls));
    [validity].into_iter().chain(drift).chain(verdict.notes.clone()).collect()
}

/// What an arm's mean is made of, in words.
pub(super) fn phases(arm: &ArmReport) -> Option<String> {
    let phase = |phase: &super::PhaseReport| format!("{} {:.2}", phase.name, phase.mean);
    let list: Vec<_> = arm.measured.phases.iter().map(phase).collect();
    (!list.is_empty()).then(|| format!("{}: {}", arm.name, list.join(", ")))
}

/// One line for each way to fail, with how often.
pub(super) fn failures<'r>(report: &'r Report) -> Vec<String> {
    let mut kinds: Vec<(&str, &str, usize)> = vec![];
    let of = |arm: &'r ArmReport| arm.failures.iter().map(|failure| (&*arm.name, &*failure.why));
    for (arm, why) in report.arms.iter().flat_map(of) {
        match kinds.iter_mut().find(|(name, own, _)| *name == arm && *own == why) {
            Some((.., count)) => *count += 1,
            None => kinds.push((arm, why, 1)),
        }
    }
    kinds.into_iter().map(|(arm, why, count)| format!("{arm}: {count} x {why}")).collect()
}

/// Cells under each other, the first column to the left.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cell = |(index, (cell, width)): (usize, (&String, &usize))| match index {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        };
        let cells: Vec<_> = row.iter().zip(&widths).enumerate().map(cell).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}
