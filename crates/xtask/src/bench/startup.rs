//! The start of a container in every way: `vmm bench startup`, in the emulated host, and what its report says of our
//! goals. The same report is left as JSON and as a page.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use vmm_contrast::compare;
use vmm_contrast::report::{self, ArmReport, Format, Report};
use vmm_contrast::stats::{Ratio, Summary};

use super::figure::{Figure, Goal, Unit};
use super::place::{Place, VMM};
use super::record::{Arm, Records};
use super::{Context, kept};

const RUNS: usize = 10;
/// Rounds before those that count: an emulated host gets faster for some rounds.
const WARM_UPS: &str = "6";
/// How many are started at once.
const PARALLEL: &str = "1,2,4";
const IMAGE: [&str; 3] = ["busybox", "echo", "hello"];

/// Eight at once of all that there are take this long on the slowest machine we know.
const TIMEOUT: Duration = Duration::from_secs(90 * 60);
/// One run of them does.
const RUN_TIMEOUT: &str = "300";

/// Who has to be how fast beside whom.
const GOALS: [(&str, &str, f64); 2] = [("namespaces", "crun", 0.5), ("vmm", "runc", 2.0)];
/// All others are compared with this.
const BASELINE: &str = "runc";

/// Name of the files of the report.
pub(super) const GROUP: &str = "startup";

/// Measures and returns the figures.
///
/// # Errors
/// The measurement failed, or an arm with a goal was not measured.
pub(super) fn figures(context: &Context, records: &mut Records) -> Result<Vec<Figure>> {
    let text = measure(context)?;
    let report = compare::parse(&text).map_err(|why| anyhow!("vmm bench startup: {why}"))?;
    kept::keep(context, GROUP, &text, &report::html(&report))?;
    println!("{}", report::render(&report, Format::Table)?);
    for arm in &report.arms {
        if let Some(line) = &arm.command_line {
            records.take_command(&format!("startup, {}", arm.name), side(&arm.name), line);
        }
    }
    let (figures, appendix) = of_report(&report)?;
    records.append(&appendix);
    Ok(figures)
}

/// The report as JSON, from the emulated host.
fn measure(context: &Context) -> Result<String> {
    let runs = context.runs(RUNS).to_string();
    eprintln!("bench: vmm bench startup, {runs} runs, {PARALLEL} at once");
    let words =
        ["--runs", &runs, "--warm-ups", WARM_UPS, "--parallel", PARALLEL, "--timeout", RUN_TIMEOUT];
    kept::measure(context, &["bench", "startup"], &[&words[..], &IMAGE].concat(), TIMEOUT)
}

fn side(arm: &str) -> Arm {
    if arm.starts_with(VMM) || arm == "namespaces" { Arm::Ours } else { Arm::Peer }
}

/// The figures of a report, and what explains them.
fn of_report(report: &Report) -> Result<(Vec<Figure>, String)> {
    let (mut figures, mut appendix) = (vec![], String::new());
    for (ours, peer, most) in GOALS {
        let pair = (measured(report, ours)?, measured(report, peer)?);
        figures.push(figure(report, pair)?.with_goal(Goal::RatioAtMost(most)));
        appendix.push_str(&gap(pair));
    }
    let baseline = measured(report, BASELINE)?;
    for arm in report.arms.iter().filter(|arm| arm.measured.runs > 0) {
        let known = GOALS.iter().any(|(ours, peer, _)| *ours == arm.name && *peer == BASELINE);
        if arm.name != BASELINE && !known {
            figures.push(figure(report, (arm, baseline))?);
        }
    }
    Ok((figures, appendix))
}

/// The arm of this name.
///
/// # Errors
/// It was not measured; says why.
fn measured<'r>(report: &'r Report, name: &str) -> Result<&'r ArmReport> {
    let arm = report.arms.iter().find(|arm| arm.name == name);
    let arm = arm.with_context(|| format!("vmm bench knows no arm {name}"))?;
    let why = arm.absent.as_ref().or(arm.failures.first().map(|failure| &failure.why));
    let why = why.map_or("no runs", String::as_str);
    ensure!(arm.measured.runs > 0, "the arm {name} was not measured: {why}");
    Ok(arm)
}

fn figure(report: &Report, (ours, peer): (&ArmReport, &ArmReport)) -> Result<Figure> {
    let (samples, others) = (&ours.measured.samples, &peer.measured.samples);
    // Without a failure the samples are those of the same rounds.
    let whole = samples.len() == report.runs && others.len() == report.runs;
    let ratio = if whole { Ratio::of } else { Ratio::of_unpaired };
    Ok(Figure {
        name: format!("start to end by {}, to {}", ours.name, peer.name),
        place: Place::Emulated.name().to_owned(),
        unit: Unit::Ms,
        ours: Summary::of(samples).context("no samples")?,
        peer: Summary::of(others),
        ratio: ratio(samples, others),
        goal: None,
        drift: report.drift(),
    })
}

/// Where the means of two arms differ, phase by phase: the rows add up to the whole.
fn gap((ours, peer): (&ArmReport, &ArmReport)) -> String {
    let of = |arm: &ArmReport, phase: &str| {
        let found = arm.measured.phases.iter().find(|found| found.name == phase);
        found.map(|found| found.mean).filter(|mean| *mean > 0.0)
    };
    let mean = |arm: &ArmReport| arm.measured.mean.unwrap_or_default();
    let whole = mean(ours) - mean(peer);
    let mut rows: Vec<(&str, Option<f64>, Option<f64>)> = vec![];
    for phase in vmm_contrast::timeline::Phase::ALL.map(|phase| phase.name()) {
        let pair = (of(ours, phase), of(peer, phase));
        if pair != (None, None) {
            rows.push((phase, pair.0, pair.1));
        }
    }
    let difference =
        |row: &(&str, Option<f64>, Option<f64>)| row.1.unwrap_or(0.0) - row.2.unwrap_or(0.0);
    let mut largest: Vec<_> = rows.iter().map(|row| (row.0, difference(row))).collect();
    largest.sort_by(|(_, a), (_, b)| b.abs().total_cmp(&a.abs()));
    let parts: Vec<_> =
        largest.iter().take(4).map(|(phase, time)| format!("{phase} {time:+.1} ms")).collect();
    let (name, other) = (&ours.name, &peer.name);
    let mut text = format!(
        "#### {name} beside {other}, by phase\n\n`{name}` takes {:.1} ms on average and `{other}` {:.1} ms: {whole:+.1} ms. \
         Most of that: {}.\n\n| phase | {name} | {other} | difference |\n| --- | --- | --- | --- |\n",
        mean(ours),
        mean(peer),
        parts.join(", ")
    );
    let time = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.2} ms"));
    for row in &rows {
        let (phase, first, second) = *row;
        let cells = [time(first), time(second), format!("{:+.2} ms", difference(row))].join(" | ");
        let _ = writeln!(text, "| {phase} | {cells} |");
    }
    let sums =
        [time(Some(mean(ours))), time(Some(mean(peer))), format!("{whole:+.2} ms")].join(" | ");
    let _ = writeln!(text, "| all | {sums} |\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two runs of each arm; the second phase of ours takes longer.
    fn report() -> Report {
        let mut report: serde_json::Value = serde_json::from_str(REPORT).unwrap();
        let arm = |name: &str, kernel: f64| {
            let samples = [kernel + 10.0, kernel + 30.0];
            serde_json::json!({
                "name": name, "absent": null, "version": "1", "command_line": "x", "prepared": [], "failures": [],
                "others": [], "runs": 2, "min": samples[0], "p50": kernel + 20.0, "p90": samples[1],
                "p95": samples[1], "p99": samples[1], "mean": kernel + 20.0, "interval": samples, "ratio": null,
                "ratio_interval": null, "first_output_p50": null, "samples": samples,
                "phases": [{"name": "start", "mean": 20.0}, {"name": "kernel", "mean": kernel}]
            })
        };
        let arms = [("namespaces", 0.0), ("crun", 80.0), ("runc", 100.0), ("vmm", 160.0)];
        report["arms"] = arms.into_iter().map(|(name, kernel)| arm(name, kernel)).collect();
        serde_json::from_value(report).unwrap()
    }

    const REPORT: &str = r#"{
        "form": "vmm-contrast/startup/1", "title": "t", "partial": false, "image": {"reference": "b", "id": "i"},
        "command": ["true"], "seed": 1, "runs": 2, "warm_ups": 1, "timeout_ms": 1.0, "baseline": "runc", "clock": "c",
        "prepared": [], "limitations": [], "arms": [],
        "fingerprint": {"cpu": null, "cpus": 1, "microcode": null, "kernel": null, "virtualisation": "emulated",
            "hypervisor": null, "kvm": null, "thp": null, "nx_huge_pages": null, "cgroup": 2, "favordynmods": null,
            "governor": null, "smt": null, "clocksource": null, "memory_bytes": null, "mounts": 1,
            "rootfs_filesystem": null, "load": null},
        "verdict": {"valid": true, "reasons": [], "notes": [], "control_drift": 0.3, "drifts": [
            {"rounds": "alone", "drift": 0.01}, {"rounds": "alone, cold", "drift": 0.3}], "control_p50": 1.0, "controls": 9}
    }"#;

    #[test]
    fn goals_are_judged_and_all_others_compared() {
        let (figures, _) = of_report(&report()).unwrap();
        let found: Vec<_> =
            figures.iter().map(|figure| (figure.name.as_str(), figure.met())).collect();
        let expected = [
            ("start to end by namespaces, to crun", Some(true)),
            ("start to end by vmm, to runc", Some(true)),
            ("start to end by namespaces, to runc", None),
            ("start to end by crun, to runc", None),
        ];
        assert_eq!(found, expected);
        assert_eq!(figures[1].ratio.unwrap().value, 1.5);
        assert_eq!(figures[0].drift, Some(0.01), "that of the rounds that the figures are from");
    }

    #[test]
    fn gap_is_explained_by_phases_that_add_up() {
        let (_, text) = of_report(&report()).unwrap();
        assert!(text.contains("| kernel | 160.00 ms | 100.00 ms | +60.00 ms |"), "{text}");
        assert!(text.contains("| all | 180.00 ms | 120.00 ms | +60.00 ms |"), "{text}");
        assert!(text.contains("Most of that: kernel -80.0 ms, start +0.0 ms."), "{text}");
    }

    #[test]
    fn arm_with_a_goal_that_was_not_measured_is_an_error() {
        let mut report = report();
        let crun = report.arms.iter_mut().find(|arm| arm.name == "crun").unwrap();
        crun.absent = Some("crun is not installed".to_owned());
        crun.measured.runs = 0;
        let error = of_report(&report).unwrap_err().to_string();
        assert!(error.contains("crun is not installed"), "{error}");
    }
}
