//! `vmm bench startup` and `compare` as programs: what they print and what they refuse.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::process::Output;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use support::{GOOD, World, arm, resource, said};

/// Quick runs of two runtimes.
const TWO: [&str; 5] = ["--arms", "runc,crun", "--runs", "3", "--quiet"];

fn two() -> World {
    World::new(&[("runc", GOOD), ("crun", "sleep 0.05; echo hello")])
}

#[test]
fn report_is_as_the_schema_says() {
    let schema = fs::read_to_string(resource("bench-startup.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let world = World::new(&[("runc", GOOD), ("crun", "exit 3")]);
    let words = ["--arms", "runc,crun,youki,process", "--runs", "4", "--parallel", "1,2"];
    let report = world.report(&words);
    let errors: Vec<_> = validator.iter_errors(&report).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}\n{report:#}");
    let mut wrong = report;
    wrong["arms"][0]["p50"] = "fast".into();
    assert!(!validator.is_valid(&wrong), "the schema refuses nothing");
}

#[test]
fn every_arm_is_measured_or_absent_or_failed() {
    let world = World::new(&[("runc", GOOD), ("crun", "echo broken >&2; exit 3")]);
    let report = world.report(&["--arms", "runc,crun,youki", "--runs", "3"]);
    assert_eq!(arm(&report, "runc")["runs"], 3);
    assert_eq!(arm(&report, "runc")["version"], "runc 1.0");
    assert!(arm(&report, "runc")["command_line"].as_str().unwrap().contains(" run --bundle "));
    assert_eq!(arm(&report, "youki")["absent"], "youki is not installed");
    let crun = arm(&report, "crun");
    assert_eq!((&crun["runs"], &crun["absent"]), (&0.into(), &Value::Null));
    let why = crun["failures"][0]["why"].as_str().unwrap();
    assert!(why.contains("exit status: 3") && why.contains("broken"), "{why}");
    let limitations = report["limitations"].to_string();
    assert!(limitations.contains("crun: it was not run again"), "{limitations}");
}

#[test]
fn engines_without_their_daemon_are_absent_and_those_with_it_measured() {
    let talk = "case \"$1 $2\" in 'run --rm') echo hello;; 'import -') cat >/dev/null; touch imported;; \
                'rmi --force') rm imported;; esac";
    let without = "case \"$1\" in version) echo 'no daemon here' >&2; exit 1;; esac";
    let world = World::new(&[("podman", talk), ("docker", talk), ("ctr", without)]);
    let words =
        ["startup", "--arms", "podman,docker,ctr", "--runs", "1", "--format", "json", "box"];
    let output = world.command(&words).current_dir(world.path("")).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(arm(&report, "podman")["runs"], 1, "{report:#}");
    assert_eq!(arm(&report, "docker")["runs"], 1, "{report:#}");
    let absent = arm(&report, "ctr")["absent"].as_str().unwrap();
    assert_eq!(absent, "its daemon does not answer: no daemon here");
    assert!(!world.path("imported").exists(), "the imported image is left");
}

#[test]
fn run_that_fails_now_and_then_is_counted_and_kept_out_of_the_times() {
    let world = World::new(&[(
        "runc",
        "N=$(cat n 2>/dev/null || echo 0); echo $((N+1)) > n\n\
                                       [ $((N % 2)) = 0 ] || exit 1; echo hello",
    )]);
    let mut command =
        world.command(&["startup", "--arms", "runc", "--runs", "6", "--format", "json", "box"]);
    let output = command.current_dir(world.path("")).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let runc = arm(&report, "runc");
    assert_eq!(runc["runs"], 3);
    assert_eq!(runc["failures"].as_array().unwrap().len(), 3);
    assert_eq!(runc["samples"].as_array().unwrap().len(), 3);
}

#[test]
fn slower_runtime_has_a_larger_ratio_and_phases_add_up() {
    let report = two().report(&TWO);
    assert_eq!(report["baseline"], "runc");
    let ratio = arm(&report, "crun")["ratio"].as_f64().unwrap();
    assert!(ratio > 1.5, "{ratio}");
    assert_eq!(arm(&report, "runc")["ratio"], 1.0);
    for name in ["runc", "crun"] {
        let arm = arm(&report, name);
        let phases = arm["phases"].as_array().unwrap().iter();
        let sum: f64 = phases.map(|phase| phase["mean"].as_f64().unwrap()).sum();
        assert!((sum - arm["mean"].as_f64().unwrap()).abs() < 1e-6);
        assert!(arm["first_output_p50"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn same_report_has_four_forms() {
    let world = two();
    for (form, part) in [
        ("table", "95 % INTERVAL"),
        ("markdown", "| runc | 3 |"),
        ("csv", "\r\nrunc,,warm,1,3,0,"),
        ("json", "\"form\": \"vmm-contrast/startup/1\""),
    ] {
        let output = world.startup(&[&TWO[..], &["--format", form]].concat());
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(text.contains(part), "{form}: {text} {}", said(&output));
    }
}

#[test]
fn every_form_is_made_again_from_the_report() {
    let world = two();
    let path = |name: &str| world.path(name).to_str().unwrap().to_owned();
    let (json, html) = (path("report.json"), path("report.html"));
    let output = world.startup(&[&TWO[..], &["--json", &json, "--html", &html]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let render = |words: &[&str]| {
        let words = [&["render", &json], words].concat();
        world.command(&words).output().unwrap()
    };
    let again = render(&["--html", &path("again.html")]);
    assert_eq!(again.stdout, output.stdout, "{}", said(&again));
    let read = |name: &str| fs::read_to_string(path(name)).unwrap();
    assert_eq!(read("again.html"), read("report.html"));
    assert_eq!(String::from_utf8_lossy(&render(&["--format", "json"]).stdout), read("report.json"));
    fs::write(&json, "{}").unwrap();
    refused(&render(&[]), &["no report of vmm bench startup"]);
}

#[test]
fn headline_from_a_cold_page_cache_is_called_so() {
    let world = two();
    let mut report = world.report(&TWO);
    report["caches"] = serde_json::json!(["cold"]);
    fs::write(world.path("cold"), report.to_string()).unwrap();
    let path = world.path("cold");
    let render = |form: &str| {
        let words = ["render", path.to_str().unwrap(), "--format", form];
        String::from_utf8(world.command(&words).output().unwrap().stdout).unwrap()
    };
    assert!(render("table").contains("runc, cold"));
    assert!(render("csv").contains("\nrunc,,cold,1,"));
}

fn refused(output: &Output, parts: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let world = World::new(&[("runc", "touch ran; echo hello")]);
    let refuse = |words: &[&str], parts: &[&str]| refused(&world.startup(words), parts);
    refuse(&["--arms", "nosuch"], &["no arm named nosuch", "runc"]);
    refuse(&["--baseline", "nosuch"], &["no arm named nosuch"]);
    refuse(&["--arms", "runc", "--baseline", "crun"], &["crun is not among the arms runc"]);
    refuse(&["--arms", "runc,youki", "--baseline", "youki"], &["youki is not installed"]);
    refuse(&["--runs", "0"], &["--runs"]);
    refuse(&["--parallel", "0"], &["--parallel"]);
    refuse(&["--cache", "hot"], &["warm or cold"]);
    refuse(&["-o", "/nosuch/file"], &["write /nosuch/file"]);
    refuse(&["--html", "/nosuch/file"], &["write /nosuch/file"]);
    refuse(&["--json", "/nosuch/file"], &["write /nosuch/file"]);
    let page = world.path("page");
    let page = page.to_str().unwrap();
    refuse(&["--json", page, "--html", page], &[page, "two forms"]);
    let unknown = world.command(&["startup", "--quiet", "oci:/nosuch"]).output().unwrap();
    refused(&unknown, &["oci:/nosuch"]);
    assert!(!world.path("ran").exists());
}

#[test]
fn hanging_runtime_is_killed_cleaned_up_and_counted() {
    let world = World::new(&[("runc", GOOD), ("crun", "sleep 1000")]);
    let began = Instant::now();
    let report =
        world.report(&["--arms", "runc,crun", "--runs", "2", "--timeout", "1", "--warm-ups", "0"]);
    assert!(began.elapsed() < Duration::from_secs(60));
    let crun = arm(&report, "crun");
    assert_eq!((&crun["runs"], crun["failures"].as_array().unwrap().len()), (&0.into(), 2));
    assert!(crun["failures"][0]["why"].as_str().unwrap().contains("killed after 1 s"));
    assert!(world.path("deleted").exists(), "the runtime was not told to clean up");
}

#[test]
fn crashing_and_silent_runtimes_are_failures() {
    let world = World::new(&[("runc", GOOD), ("crun", "kill -SEGV $$"), ("youki", "exit 0")]);
    let report = world.report(&["--arms", "runc,crun,youki", "--runs", "2"]);
    let why = |name: &str| arm(&report, name)["failures"][0]["why"].as_str().unwrap().to_owned();
    assert!(why("crun").contains("SIGSEGV"), "{}", why("crun"));
    assert!(why("youki").contains("printed nothing"), "{}", why("youki"));
}

#[test]
fn process_that_is_left_behind_is_ended_and_named() {
    let script = "(exec sleep 1000 >/dev/null 2>&1) & echo hello";
    let world = World::new(&[("runc", script)]);
    let report = world.report(&["--arms", "runc", "--runs", "1"]);
    let why = arm(&report, "runc")["failures"][0]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("left processes behind") && why.contains("sleep"), "{why}");
}

#[test]
fn interrupt_gives_a_partial_report_and_leaves_nothing() {
    let world = World::new(&[("runc", "sleep 0.1; echo hello")]);
    let words = ["startup", "--arms", "runc", "--runs", "1000", "--format", "json", "-o"];
    let file = world.path("report.json");
    let words = [&words[..], &[file.to_str().unwrap(), "box"]].concat();
    let mut child = world.command(&words).spawn().unwrap();
    sleep(Duration::from_secs(4));
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let report: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(report["partial"], true);
    assert!(report["title"].as_str().unwrap().ends_with("(partial)"));
    assert_eq!(report["verdict"]["valid"], false);
    let runs = arm(&report, "runc")["runs"].as_u64().unwrap();
    assert!((1..1000).contains(&runs), "{runs}");
    let name = format!("vmm-contrast-{}", pid.as_raw_nonzero());
    assert!(!world.path(&name).exists() && !std::path::Path::new("/run").join(name).exists());
}

#[test]
fn comparison_finds_what_became_slower() {
    let world = World::new(&[("runc", GOOD)]);
    let write = |name: &str| {
        let path = world.path(name);
        let words = ["--arms", "runc", "--runs", "8", "--format", "json", "-o"];
        let output = world.startup(&[&words[..], &[path.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{}", said(&output));
        let mut report: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        report["verdict"]["reasons"] = Value::Array(vec![]);
        report
    };
    let (before, mut after) = (write("before"), write("after"));
    for sample in after["arms"][0]["samples"].as_array_mut().unwrap() {
        *sample = (sample.as_f64().unwrap() * 50.0).into();
    }
    let compare = |one: &Value, two: &Value| {
        fs::write(world.path("before"), one.to_string()).unwrap();
        fs::write(world.path("after"), two.to_string()).unwrap();
        let (one, two) = (world.path("before"), world.path("after"));
        let words = ["compare", one.to_str().unwrap(), two.to_str().unwrap()];
        world.command(&words).output().unwrap()
    };
    let slower = compare(&before, &after);
    assert_eq!(slower.status.code(), Some(1), "{}", said(&slower));
    assert!(String::from_utf8_lossy(&slower.stdout).contains("slower"));
    let same = compare(&before, &before);
    assert_eq!(same.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&same.stdout).contains("no difference seen"));
    after["image"]["id"] = "sha256:0".into();
    let other = compare(&before, &after);
    assert_eq!(other.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&other.stdout).contains("the image differs"));
    refused(&world.command(&["compare", "/nosuch", "/nosuch"]).output().unwrap(), &["/nosuch"]);
    fs::write(world.path("before"), "{}").unwrap();
    let path = world.path("before");
    let words = ["compare", path.to_str().unwrap(), path.to_str().unwrap()];
    refused(&world.command(&words).output().unwrap(), &["no report of vmm bench startup"]);
}
