//! Control groups: what a container makes of its own, and the host's group that holds it to its processors.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::world::{World, eventually};

/// As systemd does: no process is left in the group that is the container's root.
#[test]
fn process_of_exec_finds_its_place_where_the_container_has_groups_of_its_own() {
    let world = World::new();
    let script = "mkdir /tmp/g && mount -t cgroup2 none /tmp/g && mkdir /tmp/g/init /tmp/g/other &&
        echo 1 > /tmp/g/init/cgroup.procs && echo +memory +pids > /tmp/g/cgroup.subtree_control &&
        echo ready; sleep 1000";
    let line = ["run", "-d", "--network", "none", "--cap-add", "SYS_ADMIN", "-m", "100m"];
    world.ok(&[&line[..], &["--name", "one", "busybox", "sh", "-c", script]].concat());
    eventually("groups are made", || world.ok(&["logs", "one"]).contains("ready"));
    assert_eq!(world.ok(&["exec", "one", "cat", "/proc/self/cgroup"]), "0::/init");
    assert_eq!(world.ok(&["exec", "one", "cat", "/proc/1/cgroup"]), "0::/init");
    assert!(world.ok(&["top", "one"]).contains("sleep 1000"), "{}", world.ok(&["top", "one"]));
    // The limit holds for all groups together.
    let hungry = ["exec", "one", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"];
    assert_eq!(world.run(&hungry).status, 137);
    // Back where everybody begins.
    let script = "echo -memory -pids > /tmp/g/cgroup.subtree_control; echo 1 > /tmp/g/cgroup.procs";
    world.ok(&["exec", "one", "sh", "-c", script]);
    assert_eq!(world.ok(&["exec", "one", "cat", "/proc/self/cgroup"]), "0::/");
}

/// The processor time that `pid` has used, in hundredths of a second (proc(5), stat, utime and stime).
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
    let times = fields.split_whitespace().skip(11).take(2);
    times.map(|time| time.parse::<u64>().expect("ticks")).sum()
}

#[test]
fn busy_container_gets_its_share_of_processors_and_no_more() {
    let world = World::new();
    let line = ["run", "-d", "--network", "none", "--cpus", "0.5", "--name", "one"];
    let script = "while :; do :; done";
    let begun = world.run(&[&line[..], &["busybox", "sh", "-c", script]].concat());
    assert_eq!((begun.status, begun.err()), (0, String::new()));
    let spent = || world.processes().into_iter().map(ticks).sum::<u64>();
    sleep(Duration::from_secs(1));
    let (before, begin) = (spent(), Instant::now());
    sleep(Duration::from_secs(5));
    let hundredths = spent() - before;
    let percent = u128::from(hundredths) * 1000 / begin.elapsed().as_millis();
    // Others want the processors too, so that it may be less; whoever is not held takes all of one.
    assert!((10..=60).contains(&percent), "{percent} % of a processor");
}
