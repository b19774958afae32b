//! What a running machine tells, and what can be changed in it: metrics, limits, signals.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use support::driver::place;
use support::ring::Ring;
use support::script::{Script, Width};
use support::subject::{Everything, RING, RNG};
use support::vmm::{Running, SOON, Vmm};

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn wait_for_lines(path: &Path, count: usize) -> Vec<Value> {
    let asked = Instant::now();
    while lines(path).len() < count {
        assert!(asked.elapsed() < SOON, "{count} lines were not written");
        std::thread::sleep(Duration::from_millis(5));
    }
    lines(path)
}

#[test]
fn metrics_are_written_when_asked_for_and_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metrics");
    let mut script = Script::new();
    RNG.works(&mut script);
    script.value(Width::B1, 0);
    let results = script.results();
    let everything = Everything::new();
    let vmm = everything.vmm(&script.then_idle_after_flush()).arg("--metrics").arg(&path);
    let mut machine = vmm.spawn();
    machine.wait_for_output(results);
    machine.signal(Signal::USR1);
    let seen = wait_for_lines(&path, 1);
    assert_eq!(seen.len(), 1);
    let number = |line: usize, pointer: &str| -> u64 {
        let lines = lines(&path);
        let value = lines[line].pointer(pointer).unwrap_or_else(|| panic!("{pointer}: {lines:?}"));
        value.as_u64().unwrap()
    };
    assert!(number(0, "/vcpus/exits") > 0);
    assert!(number(0, "/devices/rng/kicks") >= 1);
    assert_eq!(number(0, "/devices/rng/breakdowns"), 0);
    assert_eq!(number(0, "/devices/net0/tx_frames"), 0);
    assert_eq!(number(0, "/devices/disk0/throttled"), 0);
    machine.terminate();
    assert_eq!(lines(&path).len(), 2, "one more at the end");
    assert!(number(1, "/uptime_ms") >= number(0, "/uptime_ms"));
}

#[test]
fn metrics_file_that_cannot_be_is_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing").join("metrics");
    for path in [directory.path(), &missing] {
        let end = Vmm::with_guest("null").arg("--metrics").arg(path).run().expect(3);
        let line = end.expect_one_line_error();
        assert!(line.contains("metrics") && line.contains(path.to_str().unwrap()), "{line}");
    }
}

/// A machine whose guest asks for entropy eight times, of which it gets one a second.
fn limited(everything: &Everything, config: &Path) -> Running {
    fs::write(config, "[[limit]]\ndevice = \"rng\"\nops = 1\n").unwrap();
    let ring = Ring::at(RING, 8);
    let mut script = Script::new();
    place(&mut script, &ring.contents().descriptors(0, &RNG.request()).available(&[0; 8]));
    RNG.start(&mut script, 0, &ring);
    RNG.kick(&mut script);
    RNG.device.await_used(&mut script, &ring, 2);
    script.value(Width::B1, 1);
    script.flush();
    RNG.device.await_used(&mut script, &ring, 8);
    let vmm = everything.vmm(&script.then_reset()).arg("--log-level").arg("info");
    let mut machine = vmm.arg("--config").arg(config).spawn();
    machine.wait_for_output(1);
    machine
}

#[test]
fn limit_is_lifted_when_the_configuration_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("vm.toml");
    let everything = Everything::new();
    let machine = limited(&everything, &config);
    fs::write(&config, "cpus = 2\n").unwrap();
    let lifted = Instant::now();
    machine.signal(Signal::USR2);
    let end = machine.finish().expect(0);
    assert!(lifted.elapsed() < Duration::from_secs(4), "six more would take six seconds");
    let said = &end.stderr;
    assert!(said.contains("cpus cannot change while the machine runs"), "{said}");
    assert!(said.contains("configuration read again"), "{said}");
}

#[test]
fn configuration_that_became_unusable_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("vm.toml");
    let everything = Everything::new();
    let mut machine = limited(&everything, &config);
    fs::write(&config, "[[limit]]\ndevice = \"rng\"\nops = 0\n").unwrap();
    machine.signal(Signal::USR2);
    let asked = Instant::now();
    while !machine.stderr().contains("stays as it is: a number in the limit on rng is 0") {
        assert!(asked.elapsed() < SOON, "{}", machine.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(machine.is_alive());
    machine.terminate();
}
