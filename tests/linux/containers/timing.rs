//! What containers take of the host's time.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use super::failures::process_of;
use super::world::World;

/// Ticks of processor time in a second (`USER_HZ`).
const HERTZ: u64 = 100;

#[test]
fn steps_of_a_start_make_up_the_whole_of_it() {
    let world = World::new();
    let line = ["run", "--rm", "--timing", "--network", "none", "busybox", "sh", "-c", "exit 3"];
    let ran = world.run(&line);
    assert_eq!(ran.status, 3, "{}", ran.err());
    let said = ran.err();
    let (_, steps) = said.split_once("vmm: timing: ").unwrap_or_else(|| panic!("{said}"));
    let (steps, whole) = steps.trim_end().split_once("; ").expect("steps and their sum");
    let micros = |step: &str, name: &str| -> u64 {
        let time = step.strip_prefix(name).and_then(|rest| rest.trim().strip_suffix(" ms"));
        time.unwrap_or_else(|| panic!("{name}: {said}")).replace('.', "").parse().expect("number")
    };
    let names = ["host set-up", "kernel", "agent", "exec", "run", "teardown"];
    let steps: Vec<_> = steps.split(", ").collect();
    assert_eq!(steps.len(), names.len(), "{said}");
    let sum: u64 = steps.iter().zip(names).map(|(step, name)| micros(step, name)).sum();
    assert_eq!(sum, micros(whole, "whole"), "{said}");
    for (step, name) in steps.iter().zip(names).filter(|(_, name)| *name != "run") {
        assert!(micros(step, name) > 0, "{said}");
    }
}

#[test]
fn container_in_which_nothing_happens_leaves_the_processor_alone() {
    let world = World::new();
    world.start("idle", "sleep 1000");
    let monitor = process_of(&world, "monitor");
    sleep(Duration::from_secs(2));
    let before = processor_time(monitor);
    sleep(Duration::from_secs(4));
    let used = processor_time(monitor) - before;
    assert!(used < HERTZ, "{used} ticks in four seconds");
}

/// Ticks that a process and its guest have used (proc(5): utime and stime).
fn processor_time(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(") ").expect("fields behind the name");
    let fields: Vec<_> = fields.split(' ').collect();
    [11, 12].into_iter().map(|at| fields[at].parse::<u64>().expect("ticks")).sum()
}
