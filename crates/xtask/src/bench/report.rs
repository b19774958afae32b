//! The report: a table for people, `summary.json` for programs, and the measured part of
//! `docs/performance.md`.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use vmm_contrast::stats::{MAX_DRIFT, Summary};

use super::figure::{Figure, Goal, Unit};
use super::record::{Arm, Records};
use super::{histogram, null_guest};

/// The line of the document before, or after, what [`update_document`] writes of a group.
fn mark(group: &str, end: &str) -> String {
    format!("<!-- measured: {group} {end} -->")
}

const HEADER: [&str; 9] =
    ["figure", "place", "n", "ours", "peer", "ratio", "95 % interval", "goal", "met"];

const SPREAD_HEADER: [&str; 8] =
    ["figure", "ours min", "p50", "p95", "peer min", "p50", "p95", "control drift"];

/// Marks a figure whose control drifted.
const DOUBTFUL: &str = " (!)";

/// The figures as plain text.
pub(super) fn table(figures: &[Figure]) -> String {
    aligned(&HEADER, figures.iter().map(row))
}

/// How the samples behind the figures spread, as plain text; nothing when none has several.
pub(super) fn spread_table(figures: &[Figure]) -> String {
    let mut several = sampled(figures).peekable();
    if several.peek().is_some() {
        aligned(&SPREAD_HEADER, several.map(spread))
    } else {
        String::new()
    }
}

/// The figures with more than one sample.
fn sampled(figures: &[Figure]) -> impl Iterator<Item = &Figure> {
    figures.iter().filter(|figure| figure.ours.n > 1)
}

fn aligned(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let header = header.iter().map(|&cell| cell.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let mut widths: Vec<usize> = vec![];
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// What a reader of the table has to know besides it.
pub(super) fn notes(figures: &[Figure]) -> String {
    let count = figures.iter().filter(|figure| figure.is_doubtful()).count();
    if count == 0 {
        return String::new();
    }
    let limit = MAX_DRIFT * 100.0;
    format!(
        "(!) {count} of {} figures: the control drifted by more than {limit:.0} %, the spread says by how much. Run \
         them again on a quiet machine.\n",
        figures.len()
    )
}

/// Writes `summary.json`.
///
/// # Errors
/// It cannot be written.
pub(super) fn write_summary(figures: &[Figure], path: &Path) -> Result<()> {
    let lines: Vec<_> = figures.iter().map(Figure::line).collect();
    let text = serde_json::to_string_pretty(&lines)? + "\n";
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Replaces what the document at `path` says of a group, which is titled `title`.
///
/// # Errors
/// It cannot be read or written, or it has no such part.
pub(super) fn update_document(
    path: &Path,
    (group, title): (&str, &str),
    figures: &[Figure],
    records: &Records,
) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let measured = format!("### {title}\n\n{}", measured(figures, records));
    let updated = replaced(&text, group, &measured).with_context(|| {
        format!("{} has no lines {} and end", path.display(), mark(group, "begin"))
    })?;
    fs::write(path, updated).with_context(|| format!("write {}", path.display()))
}

fn replaced(text: &str, group: &str, measured: &str) -> Option<String> {
    let (begin, end) = (mark(group, "begin"), mark(group, "end"));
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", measured.trim_end()))
}

fn measured(figures: &[Figure], records: &Records) -> String {
    let mut text = String::new();
    let mut line = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    line(&format!("Machine: {}.\n", machine()));
    line(&markdown_row(&HEADER.map(str::to_owned)));
    line(&markdown_row(&HEADER.map(|_| "---".to_owned())));
    for figure in figures {
        line(&markdown_row(&row(figure)));
    }
    line("");
    line(&notes(figures));
    if sampled(figures).next().is_some() {
        line(&markdown_row(&SPREAD_HEADER.map(str::to_owned)));
        line(&markdown_row(&SPREAD_HEADER.map(|_| "---".to_owned())));
    }
    for figure in sampled(figures) {
        line(&markdown_row(&spread(figure)));
    }
    if !records.appendix().is_empty() {
        line(&format!("\n{}", records.appendix().trim_end()));
    }
    let commands: Vec<_> = records.commands().map(command_line).collect();
    if !commands.is_empty() {
        line(&format!("\n```text\n{}\n```\n", commands.join("\n\n")));
    }
    line(&histograms(records));
    text
}

fn command_line((series, arm, command): (&str, Arm, &str)) -> String {
    let who = if arm == Arm::Ours { "ours" } else { "peer" };
    format!("# {series} ({who})\n{command}")
}

/// Histograms of the ends of null guests: medians hide that they come in steps.
pub(super) fn histograms(records: &Records) -> String {
    let mut text = String::new();
    for series in [null_guest::EXIT, null_guest::CLOSE] {
        for (arm, who) in [(Arm::Ours, "ours"), (Arm::Peer, "QEMU")] {
            let samples = records.samples(series, arm);
            if !samples.is_empty() {
                let bars = histogram::render(samples);
                let _ = writeln!(text, "{series}, {who}:\n\n```text\n{bars}```\n");
            }
        }
    }
    text
}

fn row(figure: &Figure) -> Vec<String> {
    let value = |value: f64| number(value, figure.unit);
    let ratio = figure.ratio;
    let doubt = if figure.is_doubtful() { DOUBTFUL } else { "" };
    vec![
        format!("{}{doubt}", figure.name),
        figure.place.clone(),
        figure.ours.n.to_string(),
        value(figure.ours.p50),
        figure.peer.map_or("-".to_owned(), |peer| value(peer.p50)),
        ratio.map_or("-".to_owned(), |ratio| format!("{:.3}", ratio.value)),
        ratio.map_or("-".to_owned(), |ratio| {
            let [low, high] = ratio.interval;
            format!("{low:.3} - {high:.3}")
        }),
        match figure.goal {
            None => "-".to_owned(),
            Some(Goal::RatioAtMost(bound)) => format!("<= {bound}x"),
            Some(Goal::RatioAtLeast(bound)) => format!(">= {bound}x"),
            Some(Goal::AtMost(bound)) => format!("<= {}", value(bound)),
        },
        match figure.met() {
            None => "-".to_owned(),
            Some(true) => "yes".to_owned(),
            Some(false) => "NO".to_owned(),
        },
    ]
}

fn spread(figure: &Figure) -> Vec<String> {
    let three = |summary: Option<Summary>| {
        let values = summary.map(|summary| [summary.min, summary.p50, summary.p95]);
        values.map_or(["-"; 3].map(str::to_owned), |values| {
            values.map(|value| number(value, figure.unit))
        })
    };
    let mut cells = vec![figure.name.clone()];
    cells.extend(three(Some(figure.ours)));
    cells.extend(three(figure.peer));
    let drift = figure.drift.map_or("-".to_owned(), |drift| format!("{:.1} %", drift * 100.0));
    cells.push(drift);
    cells
}

fn markdown_row(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}

/// A number with its unit, to three or four digits.
fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count if value >= 1e6 => format!("{:.2} M", value / 1e6),
        Unit::Count => format!("{value:.0}"),
        Unit::Ms if value >= 100.0 => format!("{value:.0} ms"),
        Unit::Ms => format!("{value:.2} ms"),
        Unit::Mib => format!("{value:.2} MiB"),
        Unit::MibPerSecond => format!("{value:.0} MiB/s"),
        Unit::PerSecond => format!("{value:.0} /s"),
        Unit::SecondsPerGib => format!("{value:.2} s/GiB"),
    }
}

/// What this machine is, as far as it matters to the numbers.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(':')).map_or("unknown", |(_, name)| name);
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    format!("{count} x {}, Linux {release}", model.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::tests::sample;

    #[test]
    fn table_lines_up_and_says_whether_goals_are_met() {
        let good = sample().with_goal(Goal::RatioAtMost(0.5));
        let bad = Figure::exact(16.2e6).with_goal(Goal::AtMost(16e6)).named("count", "B");
        let text = table(&[good, bad]);
        let lines: Vec<&str> = text.lines().collect();
        let [header, good, bad] = lines.as_slice() else { panic!("{text}") };
        let column = header.find("met").unwrap();
        assert_eq!(good.get(column..), Some("yes"));
        assert_eq!(bad.get(column..), Some("NO"));
        assert!(bad.contains("16.20 M") && bad.contains("<= 16.00 M"), "{bad}");
    }

    #[test]
    fn drift_is_told() {
        assert!(notes(&[sample(), Figure::exact(1.0)]).starts_with("(!) 1 of 2 figures: "));
        assert!(table(&[sample()]).contains("a figure (!)"));
        assert_eq!(notes(&[Figure::exact(1.0)]), "");
    }

    #[test]
    fn measured_part_of_the_document_is_replaced_and_nothing_else() {
        let part = |group: &str, text: &str| {
            format!("{}\n\n{text}\n\n{}\n", mark(group, "begin"), mark(group, "end"))
        };
        let document = format!("above\n{}{}below\n", part("net", "old"), part("null", "kept"));
        let updated = replaced(&document, "net", "new\n").unwrap();
        let expected = format!("above\n{}{}below\n", part("net", "new"), part("null", "kept"));
        assert_eq!(updated, expected);
        assert_eq!(replaced(&updated, "net", "new").as_ref(), Some(&updated));
        assert_eq!(replaced(&updated, "block", "new"), None);
    }

    #[test]
    fn summary_is_an_array_of_figures() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("summary.json");
        write_summary(&[sample(), Figure::exact(1.0)], &path).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(json.as_array().map(Vec::len), Some(2));
        assert_eq!(json.pointer("/0/ratio"), Some(&0.25.into()));
    }

    #[test]
    fn document_of_the_tree_has_a_part_for_each_group() {
        use clap::ValueEnum;
        let text = fs::read_to_string(crate::bench::document()).unwrap();
        for group in crate::bench::Group::value_variants() {
            let (name, _) = group.title();
            assert!(replaced(&text, &name, "").is_some(), "{name}");
        }
    }
}
