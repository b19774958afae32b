//! Tables of docs/contrast.md, from the reports of measurements.
//!
//! A part of the page between `<!-- measured: WORDS begin -->` and `<!-- measured: WORDS end -->` is what WORDS ask for:
//! lines of `isolation` by their identifiers, or one of the tables of [`table`].

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// The reports by their names.
pub(super) type Reports = BTreeMap<&'static str, Value>;

const BEGIN: &str = "<!-- measured: ";

/// The page with every measured part replaced.
///
/// # Errors
/// A part has no end, or asks for what no report has.
pub(super) fn fill(page: &str, reports: &Reports) -> Result<String> {
    let mut filled = String::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (words, after) = after
            .split_once(" begin -->")
            .with_context(|| format!("a part without its words: {after:.60}"))?;
        let end = format!("{BEGIN}{words} end -->");
        let (_, after) = after.split_once(&end).with_context(|| format!("no line {end}"))?;
        let content = table(words, reports).with_context(|| format!("the part {words:?}"))?;
        filled.extend([before, BEGIN, words, " begin -->\n\n", content.trim_end(), "\n\n", &end]);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn table(words: &str, reports: &Reports) -> Result<String> {
    let report = |name: &str| reports.get(name).with_context(|| format!("no report {name}"));
    let words: Vec<&str> = words.split(' ').collect();
    match words[..] {
        ["fingerprint", name] => fingerprint(report(name)?),
        ["isolation", ref ids @ ..] => lines(report("isolation")?, ids),
        ["startup"] => starts(report("startup")?),
        ["native"] => starts(report("native")?),
        ["phases"] => phases(report("startup")?),
        [name @ ("memory" | "density" | "cpu")] => figures(report(name)?),
        ["verdicts"] => Ok(reports.iter().map(|(name, report)| verdict(name, report)).collect()),
        _ => bail!("there is no such table"),
    }
}

/// What the measurements ran on.
fn fingerprint(report: &Value) -> Result<String> {
    let of = |key: &str| report.pointer(&format!("/fingerprint/{key}"));
    let text = |key: &str| of(key).and_then(Value::as_str).unwrap_or("unknown").to_owned();
    let cpus = of("cpus").and_then(Value::as_u64).context("the report has no fingerprint")?;
    let processors = if cpus == 1 { "processor" } else { "processors" };
    Ok(format!(
        "This page: {} ({}), {cpus} {processors}, Linux {}, KVM: {}.",
        text("cpu"),
        text("virtualisation"),
        text("kernel"),
        text("kvm"),
    ))
}

/// Lines of the report of isolation.
fn lines(report: &Value, ids: &[&str]) -> Result<String> {
    let lines = report.get("lines").and_then(Value::as_array).context("the report has no lines")?;
    let row = |id: &&str| -> Result<Vec<String>> {
        let has = |line: &&Value| line.get("id").and_then(Value::as_str) == Some(*id);
        let line = lines.iter().find(has).ok_or_else(|| anyhow!("no line {id}"))?;
        let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        let cell = |key: &str| {
            let part = |part: &str| line.get(key)?.get(part)?.as_str();
            match (part("value"), part("says")) {
                (Some(value), Some(says)) => format!("{value}: {says}"),
                (None, Some(says)) => says.to_owned(),
                _ => "-".to_owned(),
            }
        };
        Ok(vec![text("what"), text("host"), cell("container"), cell("vm"), text("how")])
    };
    let rows = ids.iter().map(row).collect::<Result<Vec<_>>>()?;
    Ok(markdown(&["", "host", "container", "VM", "how it was measured"], &rows))
}

/// How long each way to start takes.
fn starts(report: &Value) -> Result<String> {
    let baseline = report.get("baseline").and_then(Value::as_str).unwrap_or("nothing");
    let mut rows = vec![];
    let (mut absent, mut failed_ones) = (vec![], vec![]);
    for arm in arms(report)? {
        let name = name(arm);
        if let Some(why) = arm.get("absent").and_then(Value::as_str) {
            absent.push(format!("`{name}` ({why})"));
            continue;
        }
        let count = |key: &str| arm.get(key).and_then(Value::as_u64).unwrap_or_default();
        let failures = arm.get("failures").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let failed = failures.len();
        let why = failures.first().and_then(|failure| failure.get("why")?.as_str());
        failed_ones.extend(why.map(|why| format!("`{name}` ({why})")));
        rows.push(vec![
            format!("`{name}`"),
            format!("{}, {failed} failed", count("runs")),
            arm.get("p50").and_then(Value::as_f64).map_or("-".to_owned(), ms),
            arm.get("interval")
                .and_then(pair)
                .map_or("-".to_owned(), |[a, b]| format!("{} to {}", ms(a), ms(b))),
            arm.get("ratio").and_then(Value::as_f64).map_or("-".to_owned(), |ratio| {
                let interval = arm.get("ratio_interval").and_then(pair);
                let interval = interval.map(|[a, b]| format!(" ({a:.2} to {b:.2})"));
                format!("{ratio:.2}{}", interval.unwrap_or_default())
            }),
        ]);
    }
    let against = format!("times {baseline}");
    let mut text = markdown(&["", "runs", "median", "95 % interval", &against], &rows);
    for (heading, list) in [("Failed", failed_ones), ("Not there", absent)] {
        if !list.is_empty() {
            text += &format!("\n{heading}: {}.\n", escaped(&list.join(", ")));
        }
    }
    Ok(text)
}

/// What the starts went into, in milliseconds; means, which add up.
fn phases(report: &Value) -> Result<String> {
    let measured: Vec<_> =
        arms(report)?.iter().filter_map(|arm| Some((name(arm), means(arm)?))).collect();
    let mut names: Vec<&str> = vec![];
    // In their order, which all that have a phase agree on.
    for (_, means) in &measured {
        for (index, (phase, _)) in means.iter().enumerate() {
            if !names.contains(phase) {
                let before = means.iter().take(index).rev().map(|(phase, _)| phase);
                let place =
                    before.filter_map(|phase| names.iter().position(|name| name == phase)).next();
                names.insert(place.map_or(0, |place| place.saturating_add(1)), phase);
            }
        }
    }
    let row = |(arm, means): &(&str, Vec<(&str, f64)>)| {
        let of = |phase: &&str| means.iter().find(|(name, _)| name == phase).map(|(_, mean)| *mean);
        let sum: f64 = means.iter().map(|(_, mean)| mean).sum();
        let cells =
            names.iter().map(|phase| of(phase).map_or("-".to_owned(), |mean| format!("{mean:.1}")));
        [format!("`{arm}`")].into_iter().chain(cells).chain([format!("{sum:.1}")]).collect()
    };
    let rows: Vec<Vec<String>> = measured.iter().map(row).collect();
    let header: Vec<&str> =
        [""].into_iter().chain(names.iter().copied()).chain(["all, ms"]).collect();
    Ok(markdown(&header, &rows))
}

/// What was measured of each arm, a line for each figure.
fn figures(report: &Value) -> Result<String> {
    let arms: Vec<_> =
        arms(report)?.iter().filter(|arm| of_figures(arm).next().is_some()).collect();
    let first = arms.first().context("no arm was measured")?;
    let rows = of_figures(first).map(|figure| {
        let text = |key: &str| figure.get(key).and_then(Value::as_str).unwrap_or_default();
        let value = |arm: &&Value| {
            let has = |other: &&Value| other.get("name") == figure.get("name");
            let value = of_figures(arm).find(has)?.get("value")?.as_f64()?;
            Some(if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") })
        };
        let cells = arms.iter().map(|arm| value(arm).unwrap_or_else(|| "-".to_owned()));
        [format!("{}, {}", text("name"), text("unit"))].into_iter().chain(cells).collect()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let names: Vec<String> = arms.iter().map(|arm| format!("`{}`", name(arm))).collect();
    let header: Vec<&str> = [""].into_iter().chain(names.iter().map(String::as_str)).collect();
    Ok(markdown(&header, &rows))
}

fn of_figures(arm: &Value) -> impl Iterator<Item = &Value> {
    arm.get("figures").and_then(Value::as_array).into_iter().flatten()
}

fn means<'a>(arm: &'a Value) -> Option<Vec<(&'a str, f64)>> {
    let phase =
        |phase: &'a Value| Some((phase.get("name")?.as_str()?, phase.get("mean")?.as_f64()?));
    let means: Vec<_> = arm.get("phases")?.as_array()?.iter().filter_map(phase).collect();
    (!means.is_empty()).then_some(means)
}

/// Whether a report is to be trusted.
fn verdict(name: &str, report: &Value) -> String {
    let title = report.get("title").and_then(Value::as_str).unwrap_or(name);
    let list = |pointer: &str| {
        let list = report.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
    };
    match (list("/verdict/reasons"), list("/unexpected")) {
        (reasons, _) if !reasons.is_empty() => format!("- {title}: **not valid**: {reasons}.\n"),
        (_, lines) if !lines.is_empty() => format!("- {title}: not as expected: {lines}.\n"),
        _ => format!("- {title}: nothing speaks against it.\n"),
    }
}

fn arms(report: &Value) -> Result<&Vec<Value>> {
    report.get("arms").and_then(Value::as_array).context("the report has no arms")
}

fn name(arm: &Value) -> &str {
    arm.get("name").and_then(Value::as_str).unwrap_or("?")
}

fn pair(value: &Value) -> Option<[f64; 2]> {
    serde_json::from_value(value.clone()).ok()
}

fn ms(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0} ms") } else { format!("{value:.1} ms") }
}

/// Text of others in the page: what would be a mark of the page's is none.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace(['\n', '\r'], " ")
}

/// A table whose cells are text.
fn markdown(header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let head = line(header.iter().map(|&cell| cell.to_owned()).collect());
    let rule = line(header.iter().map(|_| "---".to_owned()).collect());
    let body = rows.iter().map(|row| line(row.iter().map(|cell| escaped(cell)).collect()));
    [head, rule].into_iter().chain(body).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workspace;

    fn reports() -> Reports {
        let arm = |name: &str, p50: f64, phases: &[(&str, f64)]| {
            let phases: Vec<_> =
                phases.iter().map(|(name, mean)| json!({"name": name, "mean": mean})).collect();
            json!({"name": name, "absent": null, "runs": 5, "p50": p50, "interval": [p50, p50],
                   "ratio": p50 / 100.0, "ratio_interval": [0.5, 2.0], "failures": [], "phases": phases})
        };
        let startup = json!({"title": "T (emulated)", "baseline": "runc", "verdict": {"reasons": []}, "arms": [
            arm("runc", 100.0, &[("start", 60.0), ("run", 40.0)]),
            arm("vmm", 300.0, &[("start", 50.0), ("kernel", 200.0), ("run", 50.0)]),
            {"name": "youki", "absent": "not installed"},
            {"name": "crun", "absent": null, "runs": 0, "failures": [{"why": "no <b>"}]},
        ]});
        let isolation = json!({"title": "I", "verdict": {"reasons": ["load"]}, "lines": [
            {"id": "boot-id", "what": "boot id", "how": "read", "host": "1",
             "container": {"value": "1", "says": "shared"}, "vm": {"value": "2|<b>", "says": "own"}},
        ]});
        Reports::from([("startup", startup), ("isolation", isolation)])
    }

    #[test]
    fn parts_are_replaced_wherever_they_stand_and_again() {
        let part = |words: &str| {
            format!("<!-- measured: {words} begin -->\nold\n<!-- measured: {words} end -->\n")
        };
        let page = format!(
            "a\n{}b\n{}{}c\n",
            part("isolation boot-id"),
            part("startup"),
            part("isolation boot-id")
        );
        let filled = fill(&page, &reports()).unwrap();
        assert!(!filled.contains("old"));
        assert_eq!(
            filled.matches("| boot id | 1 | 1: shared | 2\\|&lt;b>: own | read |").count(),
            2
        );
        assert!(
            filled.contains(
                "| `vmm` | 5, 0 failed | 300 ms | 300 ms to 300 ms | 3.00 (0.50 to 2.00) |"
            )
        );
        assert!(
            filled.contains("Failed: `crun` (no &lt;b>).\n\nNot there: `youki` (not installed).")
        );
        assert_eq!(fill(&filled, &reports()).unwrap(), filled);
    }

    #[test]
    fn phases_stand_in_their_order_and_add_up() {
        let table = table("phases", &reports()).unwrap();
        let expected = "|  | start | kernel | run | all, ms |\n| --- | --- | --- | --- | --- |\n\
                        | `runc` | 60.0 | - | 40.0 | 100.0 |\n| `vmm` | 50.0 | 200.0 | 50.0 | 300.0 |\n";
        assert_eq!(table, expected);
    }

    #[test]
    fn figures_stand_beside_each_other() {
        let arm = |name: &str, value: f64| json!({"name": name, "figures": [{"name": "PSS", "unit": "MiB", "value": value}]});
        let absent = json!({"name": "crun", "absent": "no", "figures": []});
        let memory = json!({"arms": [absent, arm("runc", 1.5), arm("vmm", 100.0)]});
        let table = table("memory", &Reports::from([("memory", memory)])).unwrap();
        let expected = "|  | `runc` | `vmm` |\n| --- | --- | --- |\n| PSS, MiB | 1.50 | 100 |\n";
        assert_eq!(table, expected);
    }

    #[test]
    fn verdicts_are_told_with_their_reasons() {
        let table = table("verdicts", &reports()).unwrap();
        assert_eq!(
            table,
            "- I: **not valid**: load.\n- T (emulated): nothing speaks against it.\n"
        );
    }

    #[test]
    fn what_no_report_has_is_an_error() {
        for words in ["isolation nothing", "memory", "native", "weather"] {
            let page = format!("<!-- measured: {words} begin --><!-- measured: {words} end -->");
            assert!(fill(&page, &reports()).is_err(), "{words}");
        }
        assert!(fill("<!-- measured: startup begin -->", &reports()).is_err());
    }

    #[test]
    fn every_part_of_the_page_is_filled() {
        let page = std::fs::read_to_string(workspace::root().join("docs/contrast.md")).unwrap();
        let parts: Vec<&str> = page.split(BEGIN).skip(1).step_by(2).collect();
        assert!(parts.len() > 10);
        for part in parts {
            let (words, content) = part.split_once(" begin -->").unwrap();
            assert!(content.trim().len() > 40, "{words}");
        }
    }
}
