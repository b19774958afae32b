//! `vmm bench memory`, `density`, `io` and `cpu` as programs, with containers of this host and with runtimes that are
//! scripts.
//!
//! The tests run as root, as those of our own containers do.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use support::{World, add_file, arm, resource, said};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Containers that every host has.
const OURS: &str = "process,namespaces";
/// What the probe of a script says.
const CPU: &str = r#"{"cpu":{"arithmetic":4000000,"hash":2,"copy":3,"kernel":null},"syscall-latency":
    {"getpid":100,"read":1,"pipe":1,"fault":1,"fork":1,"mmap":1}}"#;

/// A world with a shell in the image `shell`, and the programs of other packages beside ours.
fn world(runtimes: &[(&str, &str)]) -> World {
    support::build_programs();
    let world = World::new(runtimes);
    let mut tar = tar::Builder::new(vec![]);
    // Debian's busybox-static.
    let busybox = fs::read("/bin/busybox").unwrap();
    for name in ["bin/sh", "bin/sleep"] {
        add_file(&mut tar, name, 0o755, &busybox);
    }
    world.add_image("shell", tar);
    world
}

/// A command that nobody else runs.
fn idle(number: u32) -> [String; 2] {
    ["sleep".to_owned(), format!("{}{number}", std::process::id())]
}

fn run(world: &World, words: &[&str]) -> Output {
    world.command(words).output().unwrap()
}

fn report(world: &World, words: &[&str]) -> Value {
    let words =
        [words.split_at(1).0, &["--format", "json", "--quiet"], words.split_at(1).1].concat();
    let output = run(world, &words);
    assert!(output.status.success(), "{}", said(&output));
    let report = serde_json::from_slice(&output.stdout).unwrap();
    assert_valid(&report);
    report
}

fn assert_valid(report: &Value) {
    let schema = fs::read_to_string(resource("bench-figures.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let errors: Vec<_> = validator.iter_errors(report).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}\n{report:#}");
}

/// The figure whose name begins so.
fn figure<'r>(report: &'r Value, name: &str, begin: &str) -> &'r Value {
    let figures = arm(report, name)["figures"].as_array().unwrap();
    let found = figures.iter().find(|figure| figure["name"].as_str().unwrap().starts_with(begin));
    found.unwrap_or_else(|| panic!("no {begin} of {name} in {report:#}"))
}

/// How many processes have this word in their command line.
fn running(word: &str) -> usize {
    let lines = fs::read_dir("/proc").unwrap().flatten().map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
    });
    lines.filter(|has| *has).count()
}

fn assert_nothing_left(word: &str, program: u32) {
    assert_eq!(running(word), 0);
    assert!(!Path::new(&format!("/run/vmm-contrast-{program}")).exists());
}

#[test]
fn memory_is_split_without_a_rest() {
    let world = world(&[]);
    let idle = idle(1);
    let words =
        ["memory", "--arms", OURS, "--runs", "2", "--warm-ups", "0", "shell", &idle[0], &idle[1]];
    let report = report(&world, &words);
    assert_eq!(report["form"], "vmm-contrast/memory/1");
    for name in OURS.split(',') {
        let samples = |begin: &str, round: usize| {
            figure(&report, name, begin)["samples"][round].as_f64().unwrap_or(0.0)
        };
        for round in 0..2 {
            let parts = ["guest", "monitor", "keeper", "command", "its part"];
            let sum: f64 =
                parts.iter().map(|part| samples(&format!("of that: {part}"), round)).sum();
            let whole = samples("memory", round);
            assert!(whole > 0.1 && (sum - whole).abs() < 1e-6, "{name}: {sum} {whole}");
        }
        let guest = figure(&report, name, "of that: guest");
        assert_eq!(guest["absent"], "there is no virtual machine");
    }
    assert!(figure(&report, "namespaces", "kernel memory")["value"].as_f64().unwrap() > 0.0);
    assert!(figure(&report, "process", "page cache")["absent"].is_string());
    assert_eq!(running(&idle[1]), 0);
}

#[test]
fn density_has_a_slope_a_reason_to_stop_and_leaves_nothing() {
    let world = world(&[]);
    let idle = idle(2);
    let words = ["density", "--arms", OURS, "--count", "4", "--baseline", "process", "shell"];
    let report_of = |words: &[&str]| report(&world, &[words, &[&idle[0], &idle[1]]].concat());
    let report = report_of(&words);
    for name in OURS.split(',') {
        let found = arm(&report, name);
        assert_eq!(found["stopped"], "as many as were asked for", "{found:#}");
        assert_eq!(found["steps"].as_array().unwrap().len(), 5);
        assert_eq!(found["failures"], Value::Array(vec![]));
        let pss = figure(&report, name, "one more, of all processes");
        let [low, high] = [0, 1].map(|end| pss["interval"][end].as_f64().unwrap());
        let value = pss["value"].as_f64().unwrap();
        assert!(0.0 < value && low <= value && value <= high, "{pss:#}");
        assert!(figure(&report, name, "one more, of the host")["value"].is_number());
    }
    assert_eq!(figure(&report, "process", "one more, of all processes")["ratio"], 1.0);
    let little = report_of(&["density", "--arms", "namespaces", "--budget", "64k", "shell"]);
    let found = arm(&little, "namespaces");
    let why = found["stopped"].as_str().unwrap();
    assert!(why.contains("budget of 0 MiB is used up by"), "{why}");
    assert_eq!(found["steps"].as_array().unwrap().len(), 2);
    assert!(figure(&little, "namespaces", "one more")["absent"].is_string());
    assert_eq!(running(&idle[1]), 0);
}

#[test]
fn probe_measures_within_every_arm() {
    let world = world(&[]);
    let base = ["--arms", OURS, "--runs", "2", "--baseline", "namespaces", "shell"];
    let cpu = report(&world, &[&["cpu"], &base[..]].concat());
    let io = report(&world, &[&["io"], &base[..]].concat());
    for name in OURS.split(',') {
        for report in [&cpu, &io] {
            assert_eq!(arm(report, name)["failures"], Value::Array(vec![]), "{report:#}");
        }
        for begin in ["arithmetic", "getpid", "first touch", "process made"] {
            assert!(figure(&cpu, name, begin)["value"].as_f64().unwrap() > 0.0, "{begin}");
        }
        for begin in ["file written", "file read", "4 KiB read", "TCP stream"] {
            assert!(figure(&io, name, begin)["value"].as_f64().unwrap() > 0.0, "{begin}");
        }
    }
    assert_eq!(figure(&cpu, "namespaces", "getpid")["ratio"], 1.0);
    // A network namespace has no way to its host.
    let to_host = |name| figure(&io, name, "TCP stream to its host");
    assert!(to_host("process")["value"].is_number());
    assert!(to_host("namespaces")["absent"].as_str().unwrap().contains("no way to its host"));
    // An unpacked image has no devices.
    let absent = figure(&cpu, "process", "read of a byte")["absent"].as_str().unwrap();
    assert!(absent.contains("/dev/zero"), "{absent}");
    // The image with the probe is made once.
    let prepared = |report: &Value| report["prepared"].to_string();
    assert!(prepared(&cpu).contains("was made") && prepared(&io).contains("was there"));
}

#[test]
fn what_the_probe_says_is_read_and_compared_or_refused() {
    let good = format!("echo '{CPU}'");
    let twice = good.replace("4000000", "8000000");
    let world = world(&[
        ("runc", &good),
        ("crun", &twice),
        ("youki", "head -c 300000000 /dev/zero"),
        ("runsc", "echo '{\"cpu\":{\"arithmetic\":-1}}'"),
    ]);
    let words = ["cpu", "--arms", "runc,crun,youki,runsc,podman", "--runs", "3", "shell"];
    let report = report(&world, &words);
    let arithmetic = figure(&report, "runc", "arithmetic");
    assert_eq!((&arithmetic["value"], &arithmetic["unit"]), (&4.0.into(), &"ms".into()));
    assert_eq!(figure(&report, "crun", "arithmetic")["ratio"], 2.0);
    assert_eq!(figure(&report, "runc", "getpid")["value"], 100.0);
    let why = |name: &str| arm(&report, name)["failures"][0]["why"].as_str().unwrap().to_owned();
    assert!(why("youki").contains("printed no measurement: it is no object"), "{}", why("youki"));
    assert!(why("runsc").contains("cpu, arithmetic: -1"), "{}", why("runsc"));
    assert_eq!(figure(&report, "runsc", "getpid")["absent"], "no run went well");
    assert_eq!(arm(&report, "podman")["absent"], "podman is not installed");
    assert!(report["limitations"].to_string().contains("youki was not run again"));
}

#[test]
fn same_report_has_four_forms() {
    let world = world(&[("runc", &format!("echo '{CPU}'"))]);
    for (form, part) in [
        ("table", "ratios are to runc"),
        ("markdown", "| getpid | ns | runc | 1 |"),
        ("csv", "getpid,ns,runc,,1,0,100,100,100,1,1,1\r\n"),
        ("json", "\"form\": \"vmm-contrast/cpu/1\""),
    ] {
        let words = ["cpu", "--arms", "runc,youki", "--runs", "1", "--format", form, "shell"];
        let output = run(&world, &words);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(text.contains(part), "{form}: {text} {}", said(&output));
        assert!(text.contains("youki is not installed"), "{form}: {text}");
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let world = world(&[("runc", "touch ran; echo hello")]);
    for (words, part) in [
        (&["memory", "--arms", "nosuch", "shell"][..], "no arm named nosuch"),
        (&["density", "--count", "0", "shell"], "--count"),
        (&["density", "--budget", "0", "shell"], "--budget"),
        (&["density", "--budget", "much", "shell"], "such as 512m"),
        (&["memory", "--memory", "0", "shell"], "--memory"),
        (&["cpu", "--runs", "0", "shell"], "--runs"),
        (&["io", "-o", "/nosuch/file", "shell"], "write /nosuch/file"),
        (&["io", "--listen", "here", "shell"], "--listen"),
        (&["memory", "--baseline", "nosuch", "shell"], "no arm named nosuch"),
        (&["cpu", "--arms", "runc", "--baseline", "crun", "shell"], "crun is not among"),
        (&["memory", "--quiet", "oci:/nosuch"], "oci:/nosuch"),
        (&["density"], "IMAGE"),
    ] {
        let output = run(&world, words);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(125), "{words:?}: {said}");
        assert!(said.contains(part), "{words:?}: {said}");
    }
    assert!(!world.path("ran").exists());
}

#[test]
fn instance_that_hangs_fails_or_ends_is_a_failure() {
    let world = world(&[
        ("runc", "exec sleep 1000"),
        ("crun", "echo broken >&2; exit 3"),
        ("youki", "exit 0"),
    ]);
    let base = ["--arms", "runc,crun,youki", "--timeout", "1", "shell"];
    let began = Instant::now();
    let memory = [&["memory", "--runs", "1", "--warm-ups", "0"], &base[..]].concat();
    let memory = report(&world, &memory);
    let density = report(&world, &[&["density"], &base[..]].concat());
    assert!(began.elapsed() < PATIENCE);
    assert!(world.path("deleted").exists(), "the runtime was not told to clean up");
    for report in [&memory, &density] {
        let why = |name: &str| arm(report, name)["failures"][0]["why"].as_str().unwrap().to_owned();
        assert!(why("runc").contains("killed after 1 s"), "{}", why("runc"));
        assert!(why("crun").contains("exit status: 3: broken"), "{}", why("crun"));
        assert!(why("youki").contains("is not there"), "{}", why("youki"));
    }
    let stopped = arm(&density, "crun")["stopped"].as_str().unwrap();
    assert!(stopped.starts_with("instance 1 ended with"), "{stopped}");
}

/// A runtime whose containers are sleeping processes that only its death-defying `delete` ends.
#[test]
fn processes_that_outlive_their_instance_are_ended_and_named() {
    let world = world(&[]);
    let script = "#!/bin/sh\ncase $3 in run) sleep 4321 & ;; esac\n";
    fs::write(world.path("bin/runc"), script).unwrap();
    fs::set_permissions(world.path("bin/runc"), fs::Permissions::from_mode(0o755)).unwrap();
    let words = ["memory", "--arms", "runc", "--runs", "1", "--warm-ups", "0", "shell"];
    let report = report(&world, &words);
    let why = arm(&report, "runc")["failures"][0]["why"].as_str().unwrap();
    assert!(why.contains("left processes behind") && why.contains("sleep"), "{why}");
}

fn interrupt(child: Child) -> Output {
    let began = Instant::now();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    output
}

#[test]
fn interrupt_gives_a_partial_report_and_leaves_nothing() {
    let world = world(&[]);
    let idle = idle(3);
    for (kind, option) in [("memory", "--runs"), ("density", "--count")] {
        let words = [kind, "--arms", OURS, option, "500", "--format", "json", "shell"];
        let words = [&words[..], &[&idle[0], &idle[1]]].concat();
        let child = world.command(&words).spawn().unwrap();
        let program = child.id();
        let deadline = Instant::now() + PATIENCE;
        // In the middle: an instance is there, of some a few. The program itself has the word too.
        while running(&idle[1]) < if kind == "density" { 4 } else { 2 } {
            assert!(Instant::now() < deadline, "nothing is started");
            sleep(Duration::from_millis(20));
        }
        let output = interrupt(child);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_valid(&report);
        assert_eq!(
            (&report["partial"], &report["verdict"]["valid"]),
            (&true.into(), &false.into())
        );
        assert!(report["title"].as_str().unwrap().ends_with("(partial)"));
        assert_nothing_left(&idle[1], program);
    }
}
