//! The report as a page.

use crate::fingerprint::Fingerprint;
use crate::page::plot::{
    About, Curve, Part, Spot, Stack, Strip, bars, curves, legend, strips, time,
};
use crate::page::{self, Page, Tone};
use crate::plan::Cache;
use crate::timeline::Phase;

use super::{ArmReport, Report, Row, table};

pub(super) fn of(report: &Report) -> String {
    let mut page = Page::new(&report.title);
    page.add(&verdict(report));
    page.section("Times", &times(report));
    for (heading, html) in [
        ("Distribution", distribution(report)),
        ("What the time goes into", phases(report)),
        ("Several at once", bursts(report)),
    ] {
        if !html.is_empty() {
            page.section(heading, &html);
        }
    }
    let or = |list: Vec<String>, nothing: &str| match list.is_empty() {
        true => page::paragraph(nothing),
        false => page::list(&list),
    };
    page.section("Absent", &or(table::absent(report), "All arms that were asked for are here."));
    page.section("Failures", &or(table::failures(report), "No run failed."));
    page.section("Not as asked", &or(report.limitations.clone(), "All was done as asked."));
    page.section("How it was measured", &how(report));
    page.section("Prepared before the clock started", &prepared(report));
    page.section("Programs and command lines", &programs(report));
    page.section("The host", &host(&report.fingerprint));
    page.render()
}

fn verdict(report: &Report) -> String {
    let verdict = &report.verdict;
    let mut html = match verdict.valid {
        true => page::notice(
            Tone::Good,
            "Valid: nothing speaks against these numbers",
            &verdict.reasons,
        ),
        false => page::notice(Tone::Bad, "Not valid", &verdict.reasons),
    };
    if !verdict.notes.is_empty() {
        html += &page::paragraph("Known to distort such numbers, and found here:");
        html += &page::list(&verdict.notes);
    }
    html
}

fn times(report: &Report) -> String {
    let rows = table::of_rows(report.rows().filter(|row| row.parallel == 1));
    let ratio = report.baseline.as_ref();
    let ratio = ratio
        .map_or_else(String::new, |name| format!(" Ratios are to {name}, in the same rounds."));
    let note = format!("Milliseconds from start to end of one run.{ratio}");
    format!("{}{}", page::table("Times of all arms", &rows), page::note(&note))
}

fn distribution(report: &Report) -> String {
    let strip = |row: Row<'_>| {
        let headline = row.cache == report.headline();
        Some(Strip {
            name: row.name(),
            samples: row.measured.samples.clone(),
            median: row.measured.p50?,
            interval: row.measured.interval,
            baseline: headline && report.baseline.as_ref() == Some(&row.arm.name),
        })
    };
    let alone = report.rows().filter(|row| row.parallel == 1);
    let all: Vec<Strip> = alone.filter_map(strip).collect();
    let described = all.iter().map(|strip| {
        let interval = strip.interval.map_or_else(String::new, |[low, high]| {
            format!(", 95 % interval {} to {}", time(low), time(high))
        });
        format!(
            "{}: median {}{interval}, {} runs",
            strip.name,
            time(strip.median),
            strip.samples.len()
        )
    });
    let about = About {
        title: "Distribution of the times of each arm",
        description: &described.collect::<Vec<_>>().join("; "),
        caption: "A dot is a run; of more than 240 runs, 240 stand for all. The line across is the median, the bar \
                  around it its 95 % interval. The broken line is the median of the baseline.",
        legend: "",
    };
    strips(&about, &all)
}

fn phases(report: &Report) -> String {
    let mut kinds: Vec<&str> = Phase::ALL.iter().map(|phase| phase.name()).collect();
    let mut stacks = vec![];
    for arm in report.arms.iter().filter(|arm| !arm.measured.phases.is_empty()) {
        let mut parts = vec![];
        for phase in &arm.measured.phases {
            let known = kinds.iter().position(|kind| *kind == phase.name);
            let kind = known.unwrap_or(kinds.len());
            if known.is_none() {
                kinds.push(&phase.name);
            }
            parts.push(Part { kind, value: phase.mean });
        }
        stacks.push(Stack { name: arm.name.clone(), parts });
    }
    let described: Vec<_> = report.arms.iter().filter_map(table::phases).collect();
    let described = format!("Means in ms. {}", described.join("; "));
    let about = About {
        title: "Mean time of each arm, by phase",
        description: &described,
        caption: "Means, because means add up: the parts of a bar are the whole mean of its arm, which stands beside it.",
        legend: &legend(&kinds, &stacks),
    };
    let same = bars(&about, &kinds, &stacks, false);
    if same.is_empty() {
        return same;
    }
    let about = About {
        title: "Phases of each arm, as shares of its own mean time",
        caption: "The same, each bar as long as the others: what an arm's own time goes into.",
        legend: "",
        ..about
    };
    let shares = bars(&about, &kinds, &stacks, true);
    format!("{same}{shares}{}", page::table("Phases of all arms", &phase_rows(&kinds, &stacks)))
}

/// The phases that some arm has, in milliseconds, and their sums.
fn phase_rows(kinds: &[&str], stacks: &[Stack]) -> Vec<Vec<String>> {
    let value = |stack: &Stack, kind: usize| {
        let part = stack.parts.iter().find(|part| part.kind == kind);
        part.map(|part| part.value).filter(|value| *value > 0.0)
    };
    let used = |kind: &usize| stacks.iter().any(|stack| value(stack, *kind).is_some());
    let used: Vec<usize> = (0..kinds.len()).filter(used).collect();
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    let name = |kind: &usize| kinds.get(*kind).copied().unwrap_or_default().to_uppercase();
    let mut head = vec!["ARM".to_owned()];
    head.extend(used.iter().map(name).chain(["MEAN".to_owned()]));
    let row = |stack: &Stack| {
        let mut row = vec![stack.name.clone()];
        row.extend(used.iter().map(|kind| number(value(stack, *kind))));
        row.push(number(Some(stack.parts.iter().map(|part| part.value).sum())));
        row
    };
    [head].into_iter().chain(stacks.iter().map(row)).collect()
}

fn bursts(report: &Report) -> String {
    let several = |row: &Row<'_>| row.parallel > 1 && row.measured.p50.is_some();
    if !report.rows().any(|row| several(&row)) {
        return String::new();
    }
    let mut all: Vec<Curve> = vec![];
    let mut described = vec![];
    for row in report.rows() {
        let Some(y) = row.measured.p50 else { continue };
        described.push(format!("{}: {}", row.name(), time(y)));
        let name = Row { parallel: 1, ..row }.name();
        let spot = Spot { x: row.parallel as f64, y, interval: row.measured.interval };
        match all.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.spots.push(spot),
            None => all.push(Curve { name, spots: vec![spot] }),
        }
    }
    let about = About {
        title: "Time until the last has ended, by how many were started at once",
        description: &described.join("; "),
        caption: "Medians of the time until the last of those that were started at once has ended; upright lines are \
                  their 95 % intervals.",
        legend: "",
    };
    let rows = table::of_rows(report.rows().filter(several));
    let plot = curves(&about, "started at once", &all);
    format!("{plot}{}", page::table("Times of several at once", &rows))
}

fn how(report: &Report) -> String {
    let caches = report.caches.iter().map(|cache| match cache {
        Cache::Warm => "warm",
        Cache::Cold => "cold",
    });
    let list = |words: Vec<String>| words.join(", ");
    let facts = [
        ("image", report.image.reference.clone()),
        ("its identifier", report.image.id.clone()),
        ("command", report.command.join(" ")),
        ("runs of each arm", report.runs.to_string()),
        ("runs before those", report.warm_ups.to_string()),
        ("at once", list(report.parallel.iter().map(ToString::to_string).collect())),
        ("page cache", list(caches.map(str::to_owned).collect())),
        ("order from the seed", report.seed.to_string()),
        ("a run may take", time(report.timeout_ms)),
        ("baseline", report.baseline.clone().unwrap_or_else(|| "none".to_owned())),
        ("form", report.form.clone()),
    ];
    let facts: Vec<_> = facts.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let facts: Vec<_> = facts.iter().map(|(name, value)| (*name, &**value)).collect();
    format!("{}{}{}", page::paragraph(&report.clock), control(report), page::facts(&facts))
}

fn control(report: &Report) -> String {
    let verdict = &report.verdict;
    let Some(change) = verdict.change() else { return String::new() };
    let median = verdict
        .control_p50
        .map_or_else(String::new, |p50| format!("; their median is {}", time(p50)));
    page::paragraph(&format!(
        "The control, a process that does nothing, had {} turns{median}. From the first half to the second it changed \
         by {change}.",
        verdict.controls
    ))
}

fn prepared(report: &Report) -> String {
    let of_arm = |arm: &ArmReport| -> Vec<String> {
        arm.prepared.iter().map(|what| format!("{}: {what}", arm.name)).collect()
    };
    let all: Vec<String> =
        report.prepared.iter().cloned().chain(report.arms.iter().flat_map(of_arm)).collect();
    page::list(&all)
}

fn programs(report: &Report) -> String {
    let mut html = String::new();
    for arm in &report.arms {
        let (Some(version), Some(line)) = (&arm.version, &arm.command_line) else { continue };
        html += &page::subheading(&arm.name);
        html += &page::paragraph(version);
        html += &page::code(line);
    }
    html
}

fn host(fingerprint: &Fingerprint) -> String {
    let Fingerprint {
        cpu,
        cpus,
        microcode,
        kernel,
        virtualisation,
        hypervisor,
        kvm,
        thp,
        nx_huge_pages,
        cgroup,
        favordynmods,
        governor,
        smt,
        clocksource,
        memory_bytes,
        mounts,
        rootfs_filesystem,
        load,
    } = fingerprint;
    let text = |value: &Option<String>| value.clone();
    let on = |value: &Option<bool>| value.map(|on| if on { "on" } else { "off" }.to_owned());
    let facts = [
        ("processor", text(cpu)),
        ("processors", Some(cpus.to_string())),
        ("microcode", text(microcode)),
        ("memory", memory_bytes.map(|bytes| format!("{} MiB", bytes >> 20))),
        ("kernel", text(kernel)),
        ("kind of host", Some(virtualisation.name().to_owned())),
        ("hypervisor", text(hypervisor)),
        ("KVM", text(kvm)),
        ("transparent huge pages", text(thp)),
        ("nx_huge_pages", text(nx_huge_pages)),
        ("control groups", cgroup.map(|version| format!("version {version}"))),
        ("favordynmods", on(favordynmods)),
        ("governor", text(governor)),
        ("threads of a core", text(smt)),
        ("clock source", text(clocksource)),
        ("mounts", Some(mounts.to_string())),
        ("file system of the image", text(rootfs_filesystem)),
        ("load before the first run", load.map(|load| load.to_string())),
    ];
    let facts = facts
        .map(|(name, value)| (name.to_owned(), value.unwrap_or_else(|| "not told".to_owned())));
    page::facts(&facts)
}
