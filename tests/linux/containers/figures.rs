//! `vmm bench memory`, `density`, `io` and `cpu`, with containers and machines side by side.

use std::fs;

use serde_json::Value;

use super::world::World;
use crate::guest;
use crate::user_net::connect_host;

/// The report of `vmm bench WORDS`.
fn bench(world: &World, words: &[&str]) -> Value {
    let text = world.ok(&[&["bench"], words].concat());
    let report: Value = serde_json::from_str(&text).expect("a report");
    assert!(report["title"].as_str().expect("title").contains("emulated host"), "{report:#}");
    for arm in report["arms"].as_array().expect("arms") {
        assert_eq!((&arm["absent"], &arm["failures"]), (&Value::Null, &Value::Array(vec![])));
    }
    report
}

/// The value of the figure of an arm whose name begins so.
fn figure(report: &Value, arm: &str, begin: &str) -> Option<f64> {
    let arms = report["arms"].as_array().expect("arms");
    let arm = arms.iter().find(|found| found["name"] == arm).expect(arm);
    let mut figures = arm["figures"].as_array().expect("figures").iter();
    let is = |name: &Value| name.as_str().is_some_and(|name| name.starts_with(begin));
    figures.find(|figure| is(&figure["name"])).expect(begin)["value"].as_f64()
}

/// Control groups, mounts and network namespaces of this host.
fn traces() -> Vec<String> {
    let list = |directory: &str| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.path().display().to_string());
        names.filter(|path| std::path::Path::new(path).is_dir()).collect::<Vec<_>>()
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let mut traces = list("/sys/fs/cgroup");
    traces.extend(list("/run/netns"));
    traces.extend(mounts.lines().map(str::to_owned));
    traces.sort();
    traces
}

const ARMS: &str = "namespaces,runc,crun,vmm";

#[test]
fn memory_is_told_apart_in_containers_and_machines_and_nothing_is_left() {
    let world = World::new();
    let before = traces();
    let kernel = guest::kernel("minimal");
    let kernel = kernel.to_str().expect("text");
    let arms = format!("{ARMS},vmm-minimal");
    let common = ["--memory", "128m", "--kernel", kernel, "--format", "json", "--arms"];
    let words = ["memory", "--runs", "1", "--warm-ups", "0"];
    let words = [&words[..], &common[..], &[&arms, "busybox"]].concat();
    let report = bench(&world, &words);
    let value = |arm: &str, begin: &str| figure(&report, arm, begin);
    for arm in arms.split(',') {
        let parts = ["guest", "monitor", "keeper", "command", "its part"];
        let part = |part: &&str| value(arm, format!("of that: {part}").as_str()).unwrap_or(0.0);
        let sum: f64 = parts.iter().map(part).sum();
        let whole = value(arm, "memory").expect("PSS");
        assert!((sum - whole).abs() < 1e-6, "{arm}: {sum} {whole}");
        let is_machine = arm.starts_with("vmm");
        for begin in ["of that: guest", "of that: monitor"] {
            assert_eq!(value(arm, begin).is_some(), is_machine, "{arm}: {report:#}");
        }
        assert_eq!(value(arm, "kernel memory").is_some(), !is_machine, "{arm}: {report:#}");
    }
    let guest = value("vmm", "of that: guest").expect("guest");
    assert!((10.0..200.0).contains(&guest), "{guest}");
    let beside = value("vmm", "of that: monitor").expect("monitor");
    assert!(beside < 64.0, "{beside}");
    let density = ["density", "--count", "3"];
    let report = bench(&world, &[&density[..], &common[..], &["vmm", "busybox"]].concat());
    let more = figure(&report, "vmm", "one more, of all processes").expect("slope");
    assert!((10.0..250.0).contains(&more), "{more}");
    world.assert_nothing_left();
    assert_eq!(traces(), before);
}

#[test]
fn one_probe_measures_within_containers_and_machines() {
    let world = World::new();
    let before = traces();
    let words = ["--arms", ARMS, "--runs", "1", "--warm-ups", "0", "--format", "json", "busybox"];
    let cpu = bench(&world, &[&["cpu"], &words[..]].concat());
    connect_host();
    let io =
        bench(&world, &[&["io", "--listen", "192.0.2.1", "--timeout", "200"], &words[..]].concat());
    for begin in ["TCP stream to its host", "byte there and back by TCP to its host"] {
        assert!(figure(&io, "vmm", begin).expect(begin) > 0.0, "{begin}");
        assert_eq!(figure(&io, "runc", begin), None, "{begin}");
    }
    for arm in ARMS.split(',') {
        for begin in
            ["arithmetic", "hash", "copy", "4 MiB of zeros", "getpid", "read of", "byte to"]
        {
            assert!(figure(&cpu, arm, begin).expect(begin) > 0.0, "{arm}: {begin}");
        }
        for begin in ["first touch", "process made", "page mapped"] {
            assert!(figure(&cpu, arm, begin).expect(begin) > 0.0, "{arm}: {begin}");
        }
        for begin in
            ["file written", "file read", "4 KiB written", "4 KiB read", "TCP", "byte there"]
        {
            assert!(figure(&io, arm, begin).expect(begin) > 0.0, "{arm}: {begin}");
        }
    }
    world.assert_nothing_left();
    assert_eq!(traces(), before);
}
