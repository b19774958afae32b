//! What a container and a virtual machine keep apart: `vmm contrast`, in the emulated host. The same report is left as
//! JSON and as a page.

use std::time::Duration;

use anyhow::{Result, anyhow};
use vmm_contrast::isolation::{self, Column, Report, Surface};
use vmm_contrast::report::Format;
use vmm_contrast::stats::{Ratio, Summary};

use super::figure::{Figure, Goal};
use super::place::Place;
use super::record::{Arm, Records};
use super::{Context, kept};

/// Name of the files of the report.
pub(super) const GROUP: &str = "contrast";

const IMAGE: &str = "busybox";

/// It takes a minute or two on a quiet machine.
const TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Measures and returns the figures.
///
/// # Errors
/// The measurement failed.
pub(super) fn figures(context: &Context, records: &mut Records) -> Result<Vec<Figure>> {
    eprintln!("bench: vmm contrast");
    let text = kept::measure(context, &["contrast"], &[IMAGE], TIMEOUT)?;
    let report = isolation::parse(&text).map_err(|why| anyhow!("vmm contrast: {why}"))?;
    kept::keep(context, GROUP, &text, &isolation::page(&report))?;
    println!("{}", isolation::render(&report, Format::Table)?);
    for column in &report.columns {
        if let Some(line) = column.command_lines.first() {
            let arm = if column.name == "vm" { Arm::Ours } else { Arm::Peer };
            records.take_command(&format!("contrast, {}", column.name), arm, line);
        }
    }
    of_report(&report)
}

fn of_report(report: &Report) -> Result<Vec<Figure>> {
    let named =
        |name: &str| format!("{name}, by the monitor of a machine to a container's process");
    let place = Place::Emulated.name();
    let unexpected = Figure::exact(float(report.unexpected.len()))
        .named("lines of vmm contrast that are not as expected", place)
        .with_goal(Goal::AtMost(0.0));
    Ok(vec![
        surface(report, |surface| surface.calls.len())?
            .named(&named("system calls of the host in use"), place),
        surface(report, |surface| surface.ioctls.len())?
            .named(&named("requests of ioctl(2) in use"), place),
        unexpected,
    ])
}

/// Something of the host's kernel that is counted for the machine and for the container.
///
/// # Errors
/// It was not counted; says why.
fn surface(report: &Report, count: fn(&Surface) -> usize) -> Result<Figure> {
    let of = |name: &str| {
        let surface = |column: &Column| column.surface.as_ref().map(count);
        let found = report.columns.iter().find(|column| column.name == name).and_then(surface);
        found.map(float).ok_or_else(|| anyhow!("the calls of the column {name} were not counted"))
    };
    let (vm, container) = (of("vm")?, of("container")?);
    let figure = Figure::exact(vm);
    Ok(Figure {
        peer: Some(Summary::exact(container)),
        ratio: Ratio::of(&[vm], &[container]),
        ..figure
    })
}

fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A report in which the machine asks for one call and the container for two.
    fn report() -> Report {
        let column = |name: &str, surface: Value| {
            json!({"name": name, "made_by": "x", "version": null, "command_lines": ["x y"], "failed": null,
                   "answers": null, "surface": surface})
        };
        let vm = json!({"calls": {"read": 3}, "ioctls": {"KVM_RUN": 9}});
        let container = json!({"calls": {"read": 3, "write": 1}, "ioctls": {"TCGETS": 1}});
        let columns =
            [column("host", Value::Null), column("container", container), column("vm", vm)];
        let fingerprint = json!({"cpu": null, "cpus": 1, "microcode": null, "kernel": null,
            "virtualisation": "emulated", "hypervisor": null, "kvm": null, "thp": null, "nx_huge_pages": null,
            "cgroup": 2, "favordynmods": null, "governor": null, "smt": null, "clocksource": null,
            "memory_bytes": null, "mounts": 1, "rootfs_filesystem": null, "load": null});
        serde_json::from_value(json!({"form": isolation::FORM, "title": "t", "partial": false,
            "image": {"reference": "b", "id": "i"}, "columns": columns, "lines": [], "unexpected": ["dmesg"],
            "prepared": [], "limitations": [], "fingerprint": fingerprint}))
        .unwrap()
    }

    #[test]
    fn machine_is_compared_with_the_container() {
        let figures = of_report(&report()).unwrap();
        let found: Vec<_> = figures
            .iter()
            .map(|figure| (figure.ours.p50, figure.ratio.map(|ratio| ratio.value)))
            .collect();
        assert_eq!(found, [(1.0, Some(0.5)), (1.0, Some(1.0)), (1.0, None)]);
        assert_eq!(figures[2].met(), Some(false));
    }

    #[test]
    fn what_was_not_counted_is_an_error() {
        let mut report = report();
        report.columns[1].surface = None;
        let error = of_report(&report).unwrap_err().to_string();
        assert!(error.contains("container"), "{error}");
    }
}
