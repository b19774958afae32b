//! A container from its start to its removal, as docker's users know it.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::world::{Ran, World, eventually, finish, run, spawn};

const QUIET: [&str; 4] = ["run", "--rm", "--network", "none"];

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn container_in_the_background_is_listed_until_it_is_removed() {
    let world = World::new();
    let id = world.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "one",
        "-l",
        "k=v",
        "busybox",
        "sh",
        "-c",
        "sleep 1000",
    ]);
    assert_eq!(id.len(), 64, "{id}");
    let listed = world.ok(&["ps"]);
    assert!(
        listed.contains(&id[..12]) && listed.contains("one") && listed.contains("Up "),
        "{listed}"
    );
    assert_eq!(world.ok(&["ps", "-q"]), id[..12]);
    let found = json(&world.ok(&["inspect", "one"]));
    assert_eq!(found[0]["id"], Value::String(id.clone()));
    assert_eq!(found[0]["spec"]["labels"]["k"], "v");
    assert_eq!(found[0]["status"]["state"], "running");
    // What runs is not removed by accident.
    let refused = world.run(&["rm", "one"]);
    assert_eq!((refused.status, refused.out()), (1, String::new()));
    assert!(refused.err().contains("stop it first"), "{}", refused.err());
    assert_eq!(world.ok(&["kill", &id[..6]]), id[..6]);
    assert_eq!(world.names(false), [""; 0]);
    assert_eq!(world.names(true), ["one"]);
    assert!(world.ok(&["ps", "-a"]).contains("Exited (137)"), "{}", world.ok(&["ps", "-a"]));
    assert_eq!(world.ok(&["wait", "one"]), "137");
    assert_eq!(world.ok(&["rm", "one"]), "one");
    assert_eq!(world.left(), [""; 0].map(std::path::PathBuf::from));
    let gone = world.run(&["inspect", "one"]);
    assert_eq!(gone.status, 1);
    assert!(gone.err().contains("no such container: one"), "{}", gone.err());
    world.wait_for_quiet();
}

#[test]
fn stop_asks_before_it_kills() {
    let world = World::new();
    world.start("polite", "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done");
    world.start("deaf", "trap '' TERM; echo ready; while :; do sleep 1; done");
    for name in ["polite", "deaf"] {
        eventually("traps are set", || world.ok(&["logs", name]).contains("ready"));
    }
    assert_eq!(world.ok(&["stop", "polite"]), "polite");
    assert_eq!(world.ok(&["wait", "polite"]), "3");
    assert!(world.ok(&["logs", "polite"]).contains("bye"));
    let begin = Instant::now();
    assert_eq!(world.ok(&["stop", "-t", "2", "deaf"]), "deaf");
    assert!(begin.elapsed() >= Duration::from_secs(2));
    assert_eq!(world.ok(&["wait", "deaf"]), "137");
    // To stop what has ended is no error, to kill it is one.
    world.ok(&["stop", "polite"]);
    assert_eq!(world.run(&["kill", "polite"]).status, 1);
}

#[test]
fn stop_signal_is_the_users_choice() {
    let world = World::new();
    let script = "trap 'exit 4' USR1; trap 'exit 5' USR2; echo ready; while :; do sleep 0.1; done";
    for name in ["one", "two"] {
        let line = ["run", "-d", "--network", "none", "--name", name, "--stop-signal", "USR1"];
        let rest = ["--stop-timeout", "30", "busybox", "sh", "-c", script];
        world.ok(&[&line[..], &rest].concat());
        eventually("the traps are set", || world.ok(&["logs", name]).contains("ready"));
    }
    world.ok(&["stop", "one"]);
    world.ok(&["stop", "-s", "SIGUSR2", "two"]);
    assert_eq!(world.ok(&["wait", "one", "two"]), "4\n5");
}

#[test]
fn wait_waits_and_prints_the_exit_status() {
    let world = World::new();
    world.start("short", "sleep 1; exit 23");
    let waiting = spawn(&mut world.vmm(&["wait", "short"]), Stdio::null());
    assert_eq!(finish(waiting).success(), "23\n");
}

#[test]
fn two_containers_live_side_by_side_and_names_are_given_once() {
    let world = World::new();
    world.start("first", "echo from first; touch /first; sleep 1000");
    world.start("second", "echo from second; touch /second; sleep 1000");
    assert_eq!(world.names(false), ["second", "first"]);
    for name in ["first", "second"] {
        assert_eq!(world.ok(&["logs", name]), format!("from {name}"));
        assert_eq!(
            world.ok(&["exec", name, "sh", "-c", "ls -d /first /second 2> /dev/null; true"]),
            format!("/{name}")
        );
    }
    let taken = world.run(&[&QUIET[..], &["--name", "first", "busybox", "true"]].concat());
    assert_eq!(taken.status, 125, "{}", taken.err());
    assert!(taken.err().contains("the name first is taken"), "{}", taken.err());
    // Both at once, and by parts of their identifiers.
    assert_eq!(world.ok(&["rm", "-f", "first", "second"]), "first\nsecond");
    assert_eq!(world.left().len(), 0, "{:?}", world.left());
    world.wait_for_quiet();
}

#[test]
fn removed_with_its_end_leaves_nothing() {
    let world = World::new();
    let cidfile = world.data().join("cid");
    let cidfile = cidfile.to_str().expect("text");
    let line = ["--cidfile", cidfile, "busybox", "sh", "-c", "echo x > /x; exit 5"];
    let line = [&QUIET[..], &line].concat();
    let ran = world.run(&line);
    assert_eq!((ran.status, ran.out(), ran.err()), (5, String::new(), String::new()));
    assert_eq!(world.left().len(), 0, "{:?}", world.left());
    assert_eq!(world.names(true), [""; 0]);
    assert_eq!(fs::read_to_string(cidfile).expect("identifier").len(), 64);
    // The file is not another container's.
    let again = world.run(&line);
    assert_eq!(again.status, 125, "{}", again.err());
    assert!(again.err().contains(cidfile), "{}", again.err());
    world.wait_for_quiet();
}

#[test]
fn usage_and_processes_are_told() {
    let world = World::new();
    world.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "one",
        "-m",
        "100m",
        "busybox",
        "sh",
        "-c",
        "sleep 1000 & while :; do :; done",
    ]);
    let stats = json(&world.ok(&["stats", "--no-stream", "--format", "json", "one"]));
    let number = |name: &str| stats[0][name].as_u64().unwrap_or_else(|| panic!("{name}: {stats}"));
    assert_eq!(number("memory_limit_bytes"), 100 << 20);
    assert!(number("memory_bytes") < 50 << 20, "{stats}");
    assert!(number("machine_memory_bytes") > 140 << 20, "{stats}");
    assert!(number("host_memory_bytes") > 1 << 20, "{stats}");
    assert!(number("cpu_percent_hundredths") > 1000, "{stats}");
    assert_eq!(stats[0]["stats"]["pids"], 2);
    let table = world.ok(&["stats", "--no-stream"]);
    assert!(table.contains("100.0MiB") && table.contains("one"), "{table}");
    let top = world.ok(&["top", "one"]);
    assert!(top.contains("sleep 1000") && top.lines().count() == 3, "{top}");
    world.ok(&["kill", "one"]);
    assert_eq!(world.run(&["top", "one"]).status, 125);
}

/// The limit is what the container may use: the guest's kernel and the agent take theirs beside it.
#[test]
fn memory_limit_is_the_containers_own() {
    let world = World::new();
    let half = world.run(
        &[
            &QUIET[..],
            &["-m", "100m", "busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=90M", "count=1"],
        ]
        .concat(),
    );
    assert_eq!(half.status, 0, "{}", half.err());
    world.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "big",
        "-m",
        "64m",
        "busybox",
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=90M",
        "count=1",
    ]);
    assert_eq!(world.ok(&["wait", "big"]), "137");
    assert_eq!(json(&world.ok(&["inspect", "big"]))[0]["status"]["oom"], true);
}

#[test]
fn client_that_is_killed_leaves_the_container_running() {
    let world = World::new();
    let mut client = world.run_until_ready("one");
    client.kill().expect("kill");
    client.wait().expect("wait");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(world.ok(&["exec", "one", "echo", "alive"]), "alive");
    world.ok(&["rm", "-f", "one"]);
    world.wait_for_quiet();
}

/// L1: what is made for a container goes with it.
#[test]
fn thirty_containers_leave_no_file_process_or_descriptor_behind() {
    let world = World::new();
    let count =
        |command: &str| run(std::process::Command::new("sh").args(["-c", command]), b"").success();
    let state = || {
        let files =
            format!("find {} /run /tmp /dev/shm -path '*/w*' | wc -l", world.data().display());
        [
            files.as_str(),
            "cat /proc/sys/fs/file-nr | cut -f1",
            "ls -d /proc/[0-9]* | wc -l",
            "wc -l < /proc/mounts",
            "find /sys/fs/cgroup -type d | wc -l",
        ]
        .map(|command| count(command).trim().parse::<i64>().expect("number"))
    };
    let cycle = |number: u32| {
        let code = number.to_string();
        let ran: Ran =
            world.run(&[&QUIET[..], &["busybox", "sh", "-c", "exit $0", &code]].concat());
        assert_eq!(ran.status, i32::try_from(number).expect("small"), "{}", ran.err());
    };
    cycle(1);
    world.wait_for_quiet();
    let before = state();
    (1..=30).for_each(cycle);
    world.wait_for_quiet();
    let after = state();
    // The kernel counts open files and its own threads roughly.
    for (at, slack) in [(0, 0), (1, 200), (2, 10), (3, 0), (4, 0)] {
        assert!(after[at] - before[at] <= slack, "{before:?} {after:?}");
    }
}
