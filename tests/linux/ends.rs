//! How guests end, and what is said about those that fail.

use std::process::Command;

use crate::guest::{Guest, kernel, run_words, signal, wait, wait_for};

#[test]
fn power_off_and_reboot_end_with_success() {
    for (command, reason) in [
        ("poweroff -f", "the machine ends: the guest powered off"),
        ("reboot -f", "the machine ends: the guest reset"),
    ] {
        for cpus in ["1", "2"] {
            let guest = Guest::minimal().args("--log-level info --cpus").arg(cpus);
            let ended = guest.run(command);
            assert_eq!(ended.status, Some(0), "{command}, {cpus} CPUs: {ended:#?}");
            let mut lines = ended.stderr.lines();
            let only =
                lines.next().is_some_and(|line| line.ends_with(reason)) && lines.next().is_none();
            assert!(only, "{command}, {cpus} CPUs: {ended:#?}");
        }
    }
}

#[test]
fn panic_has_its_own_status_and_the_last_lines_are_shown() {
    let ended = Guest::minimal().append("init=/bin/true").boot();
    assert_eq!(ended.status, Some(4), "{ended:#?}");
    assert!(ended.stderr.contains("the guest's kernel panicked"), "{ended:#?}");
    assert!(ended.stderr.contains("an init must not return"), "{ended:#?}");
    assert!(ended.stderr.contains("Kernel panic - not syncing"), "{ended:#?}");
}

#[test]
fn missing_root_filesystem_is_explained() {
    let ended = Guest::bare(&kernel("minimal")).append("root=/dev/vda").boot();
    assert_eq!(ended.status, Some(4), "{ended:#?}");
    assert!(
        ended.stderr.contains("likely cause: the kernel found no root filesystem"),
        "{ended:#?}"
    );
    assert!(ended.stderr.contains("phase: "), "{ended:#?}");
    assert!(ended.stderr.contains("last exit: "), "{ended:#?}");
}

#[test]
fn silent_console_still_explains_a_panic() {
    let ended =
        Guest::bare(&kernel("minimal")).args("--console off").append("root=/dev/vda").boot();
    assert_eq!(ended.console, "");
    assert_eq!(ended.status, Some(4), "{ended:#?}");
    assert!(ended.stderr.contains("Kernel panic - not syncing"), "{ended:#?}");
}

#[test]
fn sigterm_ends_a_running_guest_with_its_number() {
    let guest = Guest::minimal().append(&run_words("echo ready; sleep 100"));
    let mut child = guest.start();
    wait_for(&mut child, "ready");
    signal(child.id(), "TERM");
    let ended = wait(child);
    assert_eq!(ended.status, Some(143), "{ended:#?}");
}

#[test]
fn doctor_finds_hardware_that_runs_guest_kernels() {
    let output = Command::new("vmm").args(["doctor", "--format", "json"]).output().expect("vmm");
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{report}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["kvm"]["mode"], "hardware", "{report:#}");
    assert_eq!(report["ready"], true, "{report:#}");
}
