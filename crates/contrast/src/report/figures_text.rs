//! The report of several figures for people, for a page and for spreadsheets.

use std::fmt::Write as _;

use super::csv::quoted;
use super::table::{self, Section, judgement};
use super::{Figure, Figures, FiguresArm, markdown};

const HEADINGS: [&str; 8] =
    ["FIGURE", "UNIT", "ARM", "RUNS", "VALUE", "95 % INTERVAL", "RATIO", "95 % INTERVAL"];
/// What the name of a figure begins with that is a part of the one before.
const PART: &str = "of that: ";
const HEAD: &str = "figure,unit,arm,absent,runs,failures,value,low,high,ratio,ratio_low,ratio_high";

/// For people.
pub(super) fn table(report: &Figures) -> String {
    table::text(&report.title, &rows(report), &sections(report))
}

/// For a page.
pub(super) fn markdown(report: &Figures) -> String {
    let commands = report.arms.iter().map(|arm| (&*arm.name, arm.command_line.as_deref()));
    markdown::text(&report.title, &rows(report), &sections(report), commands)
}

/// One line for each figure of each arm, and one for each arm that is absent.
pub(super) fn csv(report: &Figures) -> String {
    let mut text = format!("{HEAD}\r\n");
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for arm in &report.arms {
        for figure in &arm.figures {
            let Figure { value, interval, ratio, ratio_interval, .. } = figure;
            let pair = |pair: &Option<[f64; 2]>| [pair.map(|p| p[0]), pair.map(|p| p[1])];
            let mut cells = vec![quoted(figure.name), quoted(figure.unit), quoted(&arm.name)];
            cells.push(quoted(figure.absent.as_deref().unwrap_or_default()));
            cells.extend([figure.runs.to_string(), arm.failures.len().to_string()]);
            let [low, high] = pair(interval);
            let [ratio_low, ratio_high] = pair(ratio_interval);
            cells.extend([*value, low, high, *ratio, ratio_low, ratio_high].map(number));
            let _ = write!(text, "{}\r\n", cells.join(","));
        }
        if let Some(absent) = &arm.absent {
            let _ = write!(text, ",,{},{},0,0,,,,,,\r\n", quoted(&arm.name), quoted(absent));
        }
    }
    text
}

/// Rows of all figures, each with all arms that have it; the headings first.
fn rows(report: &Figures) -> Vec<Vec<String>> {
    let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
    let most = report.arms.iter().map(|arm| arm.figures.len()).max().unwrap_or(0);
    for number in 0..most {
        let having = report.arms.iter().filter_map(|arm| Some((arm, arm.figures.get(number)?)));
        let mut first = true;
        for (arm, figure) in having.filter(|(_, figure)| figure.value.is_some()) {
            rows.push(row(arm, figure, first));
            first = false;
        }
    }
    rows
}

fn row(arm: &FiguresArm, figure: &Figure, first: bool) -> Vec<String> {
    let dash = || "-".to_owned();
    let number = |value: f64| match value.abs() {
        0.0..10.0 => format!("{value:.3}"),
        10.0..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    };
    let pair = |pair: Option<[f64; 2]>| {
        pair.map_or_else(dash, |[low, high]| format!("{} - {}", number(low), number(high)))
    };
    // A figure is named once, and the arms that have it stand below.
    let [name, unit] = if first { [figure.name, figure.unit] } else { ["", ""] };
    vec![
        name.to_owned(),
        unit.to_owned(),
        arm.name.clone(),
        figure.runs.to_string(),
        figure.value.map_or_else(dash, number),
        pair(figure.interval),
        figure.ratio.map_or_else(dash, |ratio| format!("{ratio:.3}")),
        pair(figure.ratio_interval),
    ]
}

fn sections(report: &Figures) -> Vec<Section> {
    let absent = report
        .arms
        .iter()
        .filter_map(|arm| arm.absent.as_ref().map(|why| format!("{}: {why}", arm.name)));
    let stopped = report.arms.iter().filter_map(|arm| {
        let count = arm.steps.last().map_or(0, |step| step.count);
        Some(format!("{}: {count} instances; {}", arm.name, arm.stopped.as_ref()?))
    });
    let ratio = report.baseline.as_ref().map(|name| format!("ratios are to {name}"));
    let settings = report.settings.iter().map(|(name, value)| format!("{name}: {value}"));
    let missing = report.arms.iter().flat_map(missing);
    vec![
        ("What stopped it", stopped.collect()),
        ("Absent", absent.chain(missing).collect()),
        ("Failures", report.arms.iter().flat_map(failures).collect()),
        ("Measured", report.measured.iter().cloned().chain(settings).chain(ratio).collect()),
        ("Prepared before", report.prepared.clone()),
        ("Not as asked", report.limitations.clone()),
        ("Verdict", judgement(&report.verdict)),
    ]
}

/// The figures that an arm has not, by what is missing; nothing of one that failed in all of them.
fn missing(arm: &FiguresArm) -> Vec<String> {
    let mut kinds: Vec<(&str, Vec<&str>)> = vec![];
    let has_some = arm.figures.iter().any(|figure| figure.value.is_some());
    for figure in arm.figures.iter().filter(|_| has_some) {
        let Some(why) = &figure.absent else { continue };
        let name = figure.name.trim_start_matches(PART);
        match kinds.iter_mut().find(|(own, _)| own == why) {
            Some((_, names)) => names.push(name),
            None => kinds.push((why, vec![name])),
        }
    }
    let line =
        |(why, names): (&str, Vec<&str>)| format!("{}, {}: {why}", arm.name, names.join("; "));
    kinds.into_iter().map(line).collect()
}

/// One line for each way to fail, with how often.
fn failures(arm: &FiguresArm) -> Vec<String> {
    let mut kinds: Vec<(&str, usize)> = vec![];
    for failure in &arm.failures {
        match kinds.iter_mut().find(|(why, _)| *why == failure.why) {
            Some((_, count)) => *count += 1,
            None => kinds.push((&failure.why, 1)),
        }
    }
    kinds.into_iter().map(|(why, count)| format!("{}: {count} x {why}", arm.name)).collect()
}
