//! `vmm bench startup` with monitors: what is asked of each, and what becomes of those that misbehave. The monitors are
//! scripts; with real guests these arms run in the emulated host.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::{self, File};
use std::path::Path;
use std::process::Output;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use support::{GOOD, World, arm, said};

/// Tells steps as a guest would whose monitor got these words, or this file.
const GUEST: &str = r#"words=$*; [ "$2" != --config-file ] || words=$(cat "$3")
token=$(echo "$words" | sed -n 's/.*VMM_TOKEN=\([0-9a-f]*\).*/\1/p')
tell() { printf '\036%s%s\n' "$token" "$1"; }
"#;
const MONITORS: [(&str, &str); 3] = [
    ("qemu-microvm", "qemu-system-x86_64"),
    ("firecracker", "firecracker"),
    ("cloud-hypervisor", "cloud-hypervisor"),
];

/// A world with this kernel, whose monitors all do the same; nothing else is looked for.
struct Machines(World);

impl Machines {
    fn new(script: &str) -> Self {
        let script = format!("{GUEST}{script}");
        let monitors = MONITORS.map(|(_, program)| (program, script.as_str()));
        let world = World::new(&[&[("runc", GOOD)], &monitors[..]].concat());
        fs::write(world.path("kernel"), "ELF").unwrap();
        Self(world)
    }

    /// `vmm bench startup` of these arms, without a kernel of the user's.
    fn run(&self, arms: &str, words: &[&str]) -> Output {
        let line = [&["startup", "--arms", arms, "--format", "json"], words, &["box"]].concat();
        self.0.command(&line).env("XDG_CACHE_HOME", self.0.path("none")).output().unwrap()
    }

    fn report(&self, arms: &str, words: &[&str]) -> Value {
        let kernel = self.0.path("kernel");
        let output = self.run(arms, &[words, &["--kernel", kernel.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Why the first run of QEMU failed, all of whose runs did.
fn failure(script: &str) -> String {
    let words = ["--runs", "1", "--warm-ups", "0", "--timeout", "2"];
    let report = Machines::new(script).report("qemu-microvm", &words);
    let arm = arm(&report, "qemu-microvm");
    assert_eq!((&arm["runs"], &arm["absent"]), (&0.into(), &Value::Null));
    arm["failures"][0]["why"].as_str().unwrap().to_owned()
}

#[test]
fn every_monitor_is_measured_by_what_its_guest_tells() {
    let script =
        "echo noise; tell b; sleep 0.2; tell r; tell x; sleep 0.2; echo hello; tell e0; echo more";
    let world = Machines::new(script);
    let arms = "runc,qemu-microvm,firecracker,cloud-hypervisor";
    let report = world.report(arms, &["--runs", "3", "--parallel", "1,2"]);
    for (name, _) in MONITORS {
        let arm = arm(&report, name);
        assert_eq!((&arm["runs"], &arm["failures"]), (&3.into(), &Value::Array(vec![])), "{arm:#}");
        assert_eq!(arm["others"][0]["runs"], 3);
        let phases = arm["phases"].as_array().unwrap();
        let names: Vec<_> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
        let expected =
            ["start", "kernel", "init", "exec", "first output", "run", "teardown", "unattributed"];
        assert_eq!(names, expected);
        let time = |name: &str| {
            phases.iter().find(|phase| phase["name"] == name).unwrap()["mean"].as_f64().unwrap()
        };
        assert!(time("init") > 40.0 && time("first output") > 40.0, "{arm:#}");
        assert!(arm["first_output_p50"].as_f64().unwrap() > 90.0, "{arm:#}");
        let sum: f64 = phases.iter().map(|phase| phase["mean"].as_f64().unwrap()).sum();
        assert!((sum - arm["mean"].as_f64().unwrap()).abs() < 1e-6);
    }
    let limitations = report["limitations"].to_string();
    assert!(limitations.contains("qemu-microvm: it does not tell when its guest begins"));
    assert!(limitations.contains("cloud-hypervisor: its disks need a driver"), "{limitations}");
}

#[test]
fn report_says_what_each_monitor_was_given() {
    let world = Machines::new("tell x; tell e0");
    let report = world.report("qemu-microvm,firecracker,cloud-hypervisor", &["--runs", "1"]);
    let line = |name: &str| arm(&report, name)["command_line"].as_str().unwrap().to_owned();
    for part in ["-M microvm,accel=kvm", "/kernel", "initrd.cpio", ".erofs", "VMM_TOKEN="] {
        assert!(line("qemu-microvm").contains(part), "{}", line("qemu-microvm"));
    }
    assert!(line("firecracker").contains("--no-api --config-file "));
    assert!(line("cloud-hypervisor").contains("--initramfs "));
    for (name, program) in MONITORS {
        let arm = arm(&report, name);
        assert_eq!(arm["version"], format!("{program} 1.0"));
        let prepared = arm["prepared"].to_string();
        assert!(prepared.contains("the kernel is ") && prepared.contains("vmm-init"), "{prepared}");
    }
}

#[test]
fn absent_monitors_are_listed_and_so_is_a_kernel_that_is_not_there() {
    let world = Machines::new("tell x; tell e0");
    let output = world.run("qemu-microvm,firecracker", &["--runs", "1"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for name in ["qemu-microvm", "firecracker"] {
        let absent = arm(&report, name)["absent"].as_str().unwrap();
        assert!(absent.starts_with("there is no minimal kernel: build one"), "{absent}");
    }
    fs::remove_file(world.0.path("bin/firecracker")).unwrap();
    let report = world.report("qemu-microvm,firecracker", &["--runs", "1"]);
    assert_eq!(arm(&report, "firecracker")["absent"], "firecracker is not installed");
    assert_eq!(arm(&report, "qemu-microvm")["runs"], 1);
    for kernel in ["/nosuch/kernel", "/"] {
        let refused = world.run("qemu-microvm", &["--kernel", kernel]);
        assert_eq!(refused.status.code(), Some(125));
        assert!(said(&refused).contains(&format!("kernel {kernel}")), "{}", said(&refused));
    }
}

#[test]
fn image_that_would_fill_the_guests_memory_is_not_put_there() {
    let world = Machines::new("tell x; tell e0");
    assert_eq!(
        arm(&world.report("cloud-hypervisor", &["--runs", "1"]), "cloud-hypervisor")["runs"],
        1
    );
    let unpacked = fs::read_dir(world.0.path("data/cache/unpacked")).unwrap().next().unwrap();
    let file = File::create(unpacked.unwrap().path().join("large")).unwrap();
    file.set_len(200 << 20).unwrap();
    let report = world.report("cloud-hypervisor,qemu-microvm", &["--runs", "1"]);
    let absent = arm(&report, "cloud-hypervisor")["absent"].as_str().unwrap();
    assert!(absent.contains("too much for an initial RAM file system"), "{absent}");
    assert_eq!(arm(&report, "qemu-microvm")["runs"], 1);
}

#[test]
fn monitor_that_hangs_is_ended_and_shows_where_its_guest_was() {
    let began = Instant::now();
    let why = failure("echo early; tell b; echo Kernel panic; sleep 1000");
    assert!(began.elapsed() < Duration::from_secs(60));
    assert!(why.starts_with("was killed after 2 s without an end"), "{why}");
    assert!(why.ends_with("last console lines:; early; Kernel panic"), "{why}");
}

#[test]
fn monitor_that_crashes_fails_is_silent_or_lies_is_a_failure() {
    let crash = failure("tell x; tell e0; echo gone; kill -SEGV $$");
    assert!(crash.contains("SIGSEGV") && crash.contains("gone"), "{crash}");
    let refusal = failure("echo no kvm >&2; exit 3");
    assert!(refusal.contains("exit status: 3") && refusal.contains("no kvm"), "{refusal}");
    let untold = "ended without a word of its guest about how the command ended";
    assert_eq!(failure("exit 0"), untold);
    // A token of its own, a word that is none, and a status that is none.
    let lies = "tell x; printf '\\0360123456789abcdefe0\\n'; tell exit0; tell e1000; tell e-1";
    let lie = failure(lies);
    assert!(lie.starts_with(untold) && lie.contains("0123456789abcdefe0"), "{lie}");
}

#[test]
fn command_that_fails_in_a_guest_fails_the_run() {
    let missing = failure("tell x; echo 'vmm-init: /file: No such file'; tell e127");
    assert!(missing.starts_with("its command ended with status 127"), "{missing}");
    assert!(missing.ends_with("/file: No such file"), "{missing}");
    let silent = "tell b; tell r; tell x; tell e0";
    let report = Machines::new(silent).report("runc,qemu-microvm", &["--runs", "1"]);
    let why = arm(&report, "qemu-microvm")["failures"].to_string();
    assert!(why.contains("printed nothing, where the same command prints"), "{why}");
}

#[test]
fn first_process_of_a_guest_is_no_program_for_a_host() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_vmm-init")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("the first process of a guest"), "{}", said(&output));
}

#[test]
fn interrupt_leaves_no_machine_and_no_file() {
    let world = Machines::new("echo $$ > \"${0%/*}/pid\"; tell x; exec sleep 1000");
    let kernel = world.0.path("kernel");
    let words = ["startup", "--arms", "firecracker", "--kernel", kernel.to_str().unwrap(), "box"];
    let mut child = world.0.command(&words).spawn().unwrap();
    let began = Instant::now();
    let pid = loop {
        let pid = fs::read_to_string(world.0.path("bin/pid")).unwrap_or_default();
        if pid.ends_with('\n') {
            break pid.trim().to_owned();
        }
        assert!(began.elapsed() < Duration::from_secs(30), "no machine was started");
        sleep(Duration::from_millis(10));
    };
    let own = Pid::from_child(&child);
    kill_process(own, Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!Path::new("/proc").join(&pid).exists(), "the machine is left");
    let name = format!("vmm-contrast-{}", own.as_raw_nonzero());
    assert!(!world.0.path(&name).exists() && !Path::new("/run").join(name).exists());
}
