//! `vmm bench`, which measures what is here side by side.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::world::{World, eventually, finish, processes, run, spawn};
use crate::guest::{self, signal};

/// Monitors that the emulated host has not: they take the words of those, and have `vmm` make the same machine. What is
/// in `$MORE` is added to the words of its kernel.
const STAND_INS: [(&str, &str); 2] = [
    (
        "firecracker",
        r#"of() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$config"; }
        config=$3
        exec vmm --kernel "$(of kernel_image_path)" --initrd "$(of initrd_path)" --memory 512M \
            --cmdline "$(of boot_args) $MORE" --disk "path=$(of path_on_host),readonly=on""#,
    ),
    (
        "cloud-hypervisor",
        r#"while [ $# -gt 0 ]; do
            case $1 in --kernel) kernel=$2;; --initramfs) initrd=$2;; --cmdline) line=$2;; esac
            shift 2
        done
        exec vmm --kernel "$kernel" --initrd "$initrd" --memory 512M --cmdline "$line $MORE""#,
    ),
];

/// The arms of other monitors that can be here. QEMU has its microvm machine on x86_64 alone.
fn monitors() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["qemu-microvm", "firecracker", "cloud-hypervisor"],
        _ => &["firecracker", "cloud-hypervisor"],
    }
}

/// A directory for the search path with all [`STAND_INS`].
fn stand_ins() -> TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    for (name, script) in STAND_INS {
        let text =
            format!("#!/bin/sh\n[ \"$1\" != --version ] || exec echo a stand-in\n{script}\n");
        let path = directory.path().join(name);
        fs::write(&path, text).expect("script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    }
    directory
}

/// The arm of this name.
fn arm<'r>(report: &'r Value, name: &str) -> &'r Value {
    let arms = report["arms"].as_array().expect("arms");
    arms.iter().find(|arm| arm["name"] == name).expect(name)
}

/// `vmm bench startup` with the words and the `minimal` kernel.
fn startup(world: &World, words: &[&str]) -> Command {
    let kernel = guest::kernel("minimal");
    let kernel = kernel.to_str().expect("text");
    let line = ["bench", "startup", "--format", "json", "--kernel", kernel];
    world.vmm(&[&line[..], words].concat())
}

/// The report of that, with the stand-ins, to which there is `more` to say.
fn measure(world: &World, words: &[&str], more: &str) -> Value {
    let mut command = startup(world, words);
    let stand_ins = stand_ins();
    let path = std::env::var("PATH").expect("search path");
    command.env("PATH", format!("{path}:{}", stand_ins.path().display())).env("MORE", more);
    serde_json::from_str(&run(&mut command, b"").success()).expect("a report")
}

#[test]
fn startup_is_measured_in_every_arm_that_is_here() {
    let world = World::new();
    let report = measure(&world, &["--runs", "2", "busybox", "echo", "hello"], "");
    let title = report["title"].as_str().expect("title");
    assert!(title.contains("emulated host"), "{title}");
    assert_eq!(report["fingerprint"]["kvm"], "hardware", "{report:#}");
    let arm = |name: &str| arm(&report, name);
    let ours = ["process", "namespaces", "runc", "crun", "vmm", "vmm-minimal"];
    for name in ours.iter().chain(monitors()) {
        let arm = arm(name);
        assert_eq!((&arm["runs"], &arm["failures"]), (&2.into(), &Value::Array(vec![])), "{arm:#}");
        assert!(arm["first_output_p50"].as_f64().expect("it prints") > 0.0);
        let phases = arm["phases"].as_array().expect("phases").iter();
        let sum: f64 = phases.map(|phase| phase["mean"].as_f64().expect("mean")).sum();
        assert!((sum - arm["mean"].as_f64().expect("mean")).abs() < 1e-6, "{arm:#}");
    }
    for name in ["runc", "crun"] {
        let phases = arm(name)["phases"].as_array().expect("phases");
        let found = phases.iter().filter(|found| found["mean"].as_f64() > Some(0.0));
        let names: Vec<_> = found.filter_map(|found| found["name"].as_str()).collect();
        assert!(names.starts_with(&["start", "init", "first output", "run"]), "{name}: {names:?}");
    }
    for name in ["vmm", "vmm-minimal"] {
        for phase in ["host objects", "kernel", "init", "exec", "run", "teardown"] {
            let phases = arm(name)["phases"].as_array().expect("phases");
            let found = phases.iter().find(|found| found["name"] == phase).expect(phase);
            assert!(found["mean"].as_f64().expect("mean") > 0.0, "{name}: {found:#}");
        }
    }
    assert_eq!(arm("podman")["absent"], "podman is not installed");
    assert_eq!(world.ok(&["ps", "--all", "--quiet"]), "");
}

#[test]
fn command_in_a_machine_sees_the_image_and_little_else() {
    let world = World::new();
    // Its own status is what is measured, so that all of this has to be true.
    let script = "echo hello && test $PWD = / && test ! -e /order && test -c /dev/null && test -e /proc/self/fd \
                  && test -d /sys/class && touch /etc/new /tmp/new && test \"$(id -u)\" = 0 && ! read line \
                  && test $(ls /proc | grep -c '^[0-9]') -gt 2 && ! env | grep VMM_";
    let arms = format!("vmm-minimal,{}", monitors().join(","));
    let words = ["--runs", "1", "--warm-ups", "0", "--arms", &arms, "busybox"];
    let report = measure(&world, &[&words[..], &["sh", "-c", script]].concat(), "");
    for name in arms.split(',') {
        assert_eq!(arm(&report, name)["runs"], 1, "{name}: {report:#}");
    }
    let words = ["--runs", "1", "--warm-ups", "0", "--arms", "vmm-minimal", "busybox", "/nosuch"];
    let report = measure(&world, &words, "");
    let why = arm(&report, "vmm-minimal")["failures"][0]["why"].as_str().expect("a failure");
    assert!(why.starts_with("its command ended with status 127"), "{why}");
    assert!(why.contains("vmm-init: /nosuch: No such file"), "{why}");
}

#[test]
fn kernel_without_an_overlay_has_the_image_as_it_is() {
    let world = World::new();
    let script = "echo hello && ! touch /etc/new && touch /tmp/new";
    let words = ["--runs", "1", "--warm-ups", "0", "--arms", "firecracker", "busybox"];
    let words = [&words[..], &["sh", "-c", script]].concat();
    let report = measure(&world, &words, "initcall_blacklist=ovl_init");
    assert_eq!(arm(&report, "firecracker")["runs"], 1, "{report:#}");
}

#[test]
fn interrupt_ends_the_machine_that_runs() {
    let world = World::new();
    // Another monitor that is itself, and no stand-in.
    let other = monitors().iter().filter(|name| **name == "qemu-microvm");
    for name in ["vmm-minimal"].iter().chain(other) {
        let words = ["--arms", name, "busybox", "sleep", "1000"];
        let child = spawn(&mut startup(&world, &words), Stdio::null());
        let files = format!("/run/vmm-contrast-{}", child.id());
        let machines = || processes(|_, line, _| line.contains(&format!("{files}/")));
        eventually("a machine runs", || !machines().is_empty());
        signal(child.id(), "INT");
        let ran = finish(child);
        assert_eq!((ran.status, machines()), (130, vec![]), "{name}: {}", ran.err());
        assert!(ran.out().contains("\"partial\": true"), "{}", ran.out());
        assert!(!fs::exists(files).expect("looked"), "{name}: its files are left");
    }
}
