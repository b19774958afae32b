//! `vmm contrast` as a program: our own container and the host are real, what stands for machines is a script.
//!
//! The tests run as root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use support::{PROGRAM, World, resource, said};

/// What a machine says that cannot be started.
const NO_MACHINE: &str = "echo 'vmm: no machine here' >&2; exit 125";

/// A world whose machines are this script.
fn world(machine: &str) -> World {
    support::build_programs();
    World::new(&[("vmm", machine), ("crun", "echo broken >&2; exit 1")])
}

fn command(world: &World, words: &[&str]) -> Command {
    world.contrast(words)
}

fn run(world: &World, words: &[&str]) -> Output {
    command(world, &[words, &["box"]].concat()).output().unwrap()
}

fn report(world: &World, words: &[&str]) -> Value {
    let output = run(world, &[&["--format", "json"], words].concat());
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn line<'r>(report: &'r Value, id: &str) -> &'r Value {
    let lines = report["lines"].as_array().unwrap();
    lines.iter().find(|line| line["id"] == id).unwrap()
}

fn verdict<'r>(report: &'r Value, id: &str, column: &str) -> &'r str {
    line(report, id)[column]["verdict"].as_str().unwrap()
}

/// Nothing of a run is left: no directory, no control group.
fn assert_nothing_left(world: &World, pid: u32) {
    assert!(!world.path(&format!("data/cache/with-probe-{pid}")).exists());
    assert!(!Path::new("/run").join(format!("vmm-contrast-{pid}")).exists());
    for place in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        for group in
            entries.filter(|e| e.file_name().to_string_lossy().starts_with("vmm-namespaces-"))
        {
            let runtime = group.file_name().to_string_lossy().into_owned();
            // Other tests have some too, whose runtimes live.
            let number = runtime.trim_start_matches("vmm-namespaces-").to_owned();
            let process = Path::new("/proc").join(number);
            let deadline = Instant::now() + Duration::from_secs(10);
            while group.path().exists() && !process.exists() {
                assert!(Instant::now() < deadline, "{runtime} is left");
                sleep(Duration::from_millis(20));
            }
        }
    }
}

#[test]
fn report_is_as_the_schema_says() {
    let schema = fs::read_to_string(resource("contrast.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let report = report(&world(NO_MACHINE), &[]);
    let errors: Vec<_> = validator.iter_errors(&report).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}\n{report:#}");
    for (place, value) in [
        ("/lines/0/how", Value::Null),
        ("/lines/0/vm/verdict", "fine".into()),
        ("/columns/0/name", "hosts".into()),
    ] {
        let mut wrong = report.clone();
        *wrong.pointer_mut(place).unwrap() = value;
        assert!(!validator.is_valid(&wrong), "{place} may be anything");
    }
}

#[test]
fn container_is_compared_with_its_host_and_no_machine_is_made_up() {
    let report = report(&world(NO_MACHINE), &[]);
    for (id, expected) in [
        ("boot-id", "shared"),
        ("uptime", "shared"),
        ("command-line", "shared"),
        ("processes", "own"),
        ("mounts", "own"),
        ("devices", "reduced"),
        ("capabilities", "reduced"),
        ("filter", "reduced"),
        ("system-calls", "reaches"),
        ("sysctls", "refused"),
        ("escape-kernel-module", "refused"),
        ("escape-user-namespace", "refused"),
        ("memory-hog", "unknown"),
        ("host-calls", "reaches"),
    ] {
        assert_eq!(verdict(&report, id, "container"), expected, "{:#}", line(&report, id));
        assert_eq!(verdict(&report, id, "vm"), "unknown");
    }
    assert_eq!(report["unexpected"], Value::Array(vec![]));
    let calls: u32 =
        line(&report, "host-calls")["container"]["value"].as_str().unwrap().parse().unwrap();
    assert!((15..200).contains(&calls), "{calls}");
    let why = report["columns"][2]["failed"].as_str().unwrap();
    assert!(why.contains("no machine here"), "{why}");
    let peace = line(&report, "memory-hog")["container"]["says"].as_str().unwrap();
    assert!(peace.contains("not tried on this host, because"), "{peace}");
    for line in report["lines"].as_array().unwrap() {
        assert!(line["how"].as_str().unwrap().len() > 6, "{line:#}");
    }
}

#[test]
fn hog_and_bomb_are_contained_where_they_are_allowed() {
    let report = report(&world(NO_MACHINE), &["--hostile"]);
    for id in ["memory-hog", "fork-bomb"] {
        assert_eq!(verdict(&report, id, "container"), "contained", "{:#}", line(&report, id));
    }
    let says = line(&report, "fork-bomb")["container"]["says"].as_str().unwrap();
    assert!(says.starts_with("refused after 25"), "{says}");
}

/// A machine that is a process of the host is found out.
#[test]
fn machine_that_shares_the_kernel_is_not_as_expected() {
    let probe = Path::new(PROGRAM).with_file_name("vmm-probe");
    let script = format!("exec {} facts syscalls escapes", probe.display());
    let report = report(&world(&script), &[]);
    let unexpected = report["unexpected"].as_array().unwrap();
    assert!(unexpected.contains(&"boot-id".into()), "{unexpected:?}");
    assert!(unexpected.contains(&"escape-mount".into()), "{unexpected:?}");
    assert_eq!(verdict(&report, "boot-id", "vm"), "shared");
    let says = line(&report, "host-calls")["vm"]["says"].as_str().unwrap();
    assert!(says.starts_with("not measured: "), "{says}");
}

#[test]
fn probe_that_says_anything_else_is_a_column_that_failed() {
    for (script, why) in [
        ("echo '{\"facts\": 7}'", "says what it cannot"),
        ("echo Segmentation fault", "something else than JSON"),
        ("head -c 300000 /dev/zero | tr '\\0' '{'", "more than 64 KiB"),
        ("true", "printed nothing"),
        ("kill -SEGV $$", "SIGSEGV"),
        ("sleep 1000", "killed after 3 s"),
        ("(exec sleep 1000 >/dev/null 2>&1) & echo '{}'", "left processes behind"),
    ] {
        let script = format!("[ $1 = run ] || exit; {script}");
        let world = world(&script);
        let report = report(&world, &["--timeout", "3", "--quiet"]);
        let failed = report["columns"][2]["failed"].as_str().unwrap();
        assert!(failed.contains(why), "{script}: {failed}");
        assert_eq!(report["columns"][0]["failed"], Value::Null, "{script}");
        assert_eq!(verdict(&report, "boot-id", "vm"), "unknown", "{script}");
    }
}

#[test]
fn runtime_that_fails_is_a_column_that_failed() {
    let report = report(&world(NO_MACHINE), &["--container", "crun"]);
    let failed = report["columns"][1]["failed"].as_str().unwrap();
    assert!(failed.contains("broken"), "{failed}");
    assert_eq!(report["columns"][1]["version"], "crun 1.0", "{report:#}");
}

#[test]
fn same_report_has_four_forms() {
    let world = world(NO_MACHINE);
    for (form, part) in [
        ("table", "\nHow it was measured:\n"),
        ("markdown", "| boot id |"),
        ("csv", "\r\nboot-id,kernel,boot id,container,"),
        ("json", "\"form\": \"vmm-contrast/isolation/1\""),
    ] {
        let output = run(&world, &["--format", form]);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(text.contains(part), "{form}: {text} {}", said(&output));
    }
}

#[test]
fn page_has_every_line_and_the_report_as_json_beside_it() {
    let world = world(NO_MACHINE);
    let (page, json) = (world.path("page.html"), world.path("report.json"));
    let words = ["--html", page.to_str().unwrap(), "--json", json.to_str().unwrap()];
    let output = run(&world, &words);
    assert!(output.status.success(), "{}", said(&output));
    let page = fs::read_to_string(page).unwrap();
    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert!(!page.contains("<script"), "{page}");
    for line in report["lines"].as_array().unwrap() {
        let how = line["how"].as_str().unwrap().split('\'').next().unwrap();
        assert!(page.contains(how), "{how}");
    }
    assert!(page.contains("no machine here"));
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let world = world("touch ran");
    let refuse = |words: &[&str], part: &str| {
        let output = command(&world, words).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{words:?}: {}", said(&output));
        assert!(said(&output).contains(part), "{words:?}: {}", said(&output));
    };
    refuse(&["--container", "nosuch", "box"], "nothing named nosuch makes containers");
    refuse(&["--container", "process", "box"], "nothing named process makes containers");
    refuse(&["--container", "youki", "box"], "youki is not installed");
    refuse(&["-o", "/nosuch/file", "box"], "write /nosuch/file");
    refuse(&["--timeout", "0", "box"], "--timeout");
    refuse(&["--quiet", "oci:/nosuch"], "oci:/nosuch");
    refuse(&[], "IMAGE");
    assert!(!world.path("ran").exists());
}

#[test]
fn interrupt_gives_a_partial_report_and_leaves_nothing() {
    let world = world("[ $1 = run ] || exit; touch \"$TMPDIR/started\"; sleep 1000");
    let file = world.path("report.json");
    let words = ["--format", "json", "-o", file.to_str().unwrap(), "box"];
    let mut child = command(&world, &words).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(100);
    while !world.path("started").exists() {
        assert!(Instant::now() < deadline, "no machine is started");
        sleep(Duration::from_millis(20));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let report: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(report["partial"], true);
    assert!(report["title"].as_str().unwrap().ends_with("(partial)"));
    assert_eq!(verdict(&report, "boot-id", "container"), "shared");
    assert_eq!(report["columns"][2]["failed"], "it was interrupted");
    assert_nothing_left(&world, child.id());
}
