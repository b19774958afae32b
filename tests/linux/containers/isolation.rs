//! `vmm contrast`, which says what a container and a machine keep apart.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::world::{self, World};
use crate::guest::signal;

/// The report of `vmm contrast` with these words.
fn isolation(world: &World, words: &[&str]) -> Value {
    let args = [&["contrast", "--format", "json"], words, &["busybox"]].concat();
    serde_json::from_str(&world.ok(&args)).expect("a report")
}

fn line<'r>(report: &'r Value, id: &str) -> &'r Value {
    let lines = report["lines"].as_array().expect("lines");
    lines.iter().find(|line| line["id"] == id).unwrap_or_else(|| panic!("no {id}"))
}

/// What a line comes down to, in the container and in the machine.
fn verdicts<'r>(report: &'r Value, id: &str) -> [&'r str; 2] {
    let line = line(report, id);
    ["container", "vm"].map(|column| line[column]["verdict"].as_str().expect("verdict"))
}

#[test]
fn machine_has_a_kernel_of_its_own_and_a_container_the_hosts() {
    let world = World::new();
    let report = isolation(&world, &[]);
    let title = report["title"].as_str().expect("title");
    assert!(title.contains("emulated host"), "{title}");
    for column in report["columns"].as_array().expect("columns") {
        assert_eq!(column["failed"], Value::Null, "{column:#}");
    }
    for (id, expected) in [
        ("boot-id", ["shared", "own"]),
        ("uptime", ["shared", "own"]),
        ("command-line", ["shared", "own"]),
        ("disks", ["shared", "own"]),
        ("memory", ["shared", "own"]),
        ("clock", ["shared", "own"]),
        ("processes", ["own", "own"]),
        ("hostname", ["own", "own"]),
        ("sysctls", ["refused", "refused"]),
        ("capabilities", ["reduced", "own-only"]),
        ("system-calls", ["reaches", "own-only"]),
        ("memory-hog", ["contained", "contained"]),
        ("fork-bomb", ["contained", "contained"]),
        ("escape-kernel-module", ["refused", "refused"]),
        ("escape-mount", ["refused", "refused"]),
        ("escape-kvm", ["refused", "refused"]),
        ("escape-vsock", ["refused", "refused"]),
        ("host-ioctls", ["reaches", "reaches"]),
    ] {
        assert_eq!(verdicts(&report, id), expected, "{:#}", line(&report, id));
    }
    assert_eq!(report["unexpected"], Value::Array(vec![]), "{report:#}");
    let calls = line(&report, "host-calls");
    for column in ["container", "vm"] {
        let count = calls[column]["value"].as_str().and_then(|count| count.parse::<u32>().ok());
        assert!(count.is_some_and(|count| count > 3), "{calls:#}");
    }
    // Who ended the hog.
    let hog = line(&report, "memory-hog");
    let says = |column: &str| hog[column]["says"].as_str().expect("says").to_owned();
    assert!(says("container").contains("by the host's kernel"), "{hog:#}");
    assert!(says("vm").contains("had nothing to do with it"), "{hog:#}");
    assert_eq!(world.ok(&["ps", "--all", "--quiet"]), "");
    world.assert_nothing_left();
}

#[test]
fn isolation_by_another_runtime_is_measured_as_well() {
    let world = World::new();
    let report = isolation(&world, &["--container", "runc"]);
    let column = &report["columns"][1];
    assert_eq!((&column["made_by"], &column["failed"]), (&"runc".into(), &Value::Null));
    assert_eq!(verdicts(&report, "boot-id"), ["shared", "own"]);
    assert_eq!(verdicts(&report, "memory-hog"), ["contained", "contained"]);
    assert_eq!(verdicts(&report, "fork-bomb"), ["contained", "contained"]);
    assert_eq!(verdicts(&report, "escape-kernel-module"), ["refused", "refused"]);
    assert_eq!(verdicts(&report, "filter")[0], "reaches", "{:#}", line(&report, "filter"));
    world.assert_nothing_left();
}

/// SIGINT in the middle: what was found is told, and no machine, container or file is left.
#[test]
fn interrupted_contrast_tells_what_it_found_and_leaves_nothing() {
    let own = World::new();
    let mut command = own.vmm(&["contrast", "--format", "json", "busybox"]);
    let child = world::spawn(&mut command, Stdio::null());
    let deadline = Instant::now() + Duration::from_secs(200);
    while !has_machine(&own) {
        assert!(Instant::now() < deadline, "no machine is started");
        thread::sleep(Duration::from_millis(50));
    }
    signal(child.id(), "INT");
    let ran = world::finish(child);
    assert_eq!(ran.status, 130, "{}{}", ran.out(), ran.err());
    let report: Value = serde_json::from_str(&ran.out()).expect("a report");
    assert_eq!(report["partial"], true);
    assert_eq!(verdicts(&report, "boot-id")[0], "shared");
    assert!(!has_machine(&own));
    own.assert_nothing_left();
}

/// Whether a monitor of `world` runs.
fn has_machine(world: &World) -> bool {
    world.processes().into_iter().any(|pid| world::command_line(pid).contains("monitor --keeper"))
}
