//! Many containers after each other, and several commands at one container.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::support::process;
use super::world::{World, eventually, finish};

/// What this host counts, roughly where others use it as well.
fn counts() -> [i64; 4] {
    [
        "find /tmp /run /dev/shm | wc -l",
        "cut -f1 /proc/sys/fs/file-nr",
        "wc -l < /proc/mounts",
        "find /sys/fs/cgroup -type d -path '*/vmm/*' | wc -l",
    ]
    .map(|script| {
        let output = Command::new("sh").args(["-c", script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    })
}

/// L1.
#[test]
fn hundred_containers_leave_nothing_behind() {
    let world = World::new();
    let cycle = |number: usize| {
        let code = number.to_string();
        let kept = ["--name", "kept"];
        let flags: &[&str] = match number % 4 {
            0 => &kept,
            1 => &["--rm", "--cpus", "0.5"],
            _ => &["--rm"],
        };
        let ran = world.run(&World::line(flags, &["exit", &code]));
        assert_eq!(ran.status, i32::try_from(number).unwrap(), "{ran:?}");
        if number.is_multiple_of(4) {
            world.ok(&["rm", "kept"]);
        }
    };
    cycle(1);
    world.assert_clean();
    let own = world.path("");
    let files = || {
        let output = Command::new("find").arg(&own).output().unwrap();
        output.stdout.iter().filter(|byte| **byte == b'\n').count()
    };
    let (before, mounts) = (files(), counts());
    (1..=100).for_each(cycle);
    world.assert_clean();
    assert_eq!(files(), before);
    let now = counts();
    // Other tests run beside this one.
    for (at, slack) in [(0, 300), (1, 3000), (2, 5), (3, 2)] {
        assert!(now[at] - mounts[at] < slack, "{mounts:?} {now:?}");
    }
}

/// L6: to remove what is being stopped ends it at once, and the stop is content.
#[test]
fn container_removed_while_it_is_stopped_is_gone_for_both() {
    let world = World::new();
    world.start("one", &["--stop-timeout", "50"], &["deaf"]);
    let keeper = world.process_of("keep");
    // It may yet have the connection of the command that asked for it.
    let settled = |_| {
        std::thread::sleep(Duration::from_millis(10));
        process::open_files(keeper)
    };
    let before = (0..20).map(settled).min().unwrap();
    let stopping = world.vmm(&["stop", "one"]).spawn().unwrap();
    eventually("stop is connected", || process::open_files(keeper) > before);
    assert_eq!(world.ok(&["rm", "-f", "one"]), "one");
    let stopped = finish(stopping);
    assert!([0, 1].contains(&stopped.status), "{stopped:?}");
    world.assert_clean();
}

/// L6: of two who remove one container, one does it at least, and neither is stuck.
#[test]
fn container_removed_twice_at_once_is_removed() {
    let world = World::new();
    for what in ["deaf", "exit"] {
        world.start("one", &[], &[what]);
        let both = [(); 2].map(|()| world.vmm(&["rm", "-f", "one"]).spawn().unwrap()).map(finish);
        for ran in &both {
            let is_gone = ran.status == 1 && ran.err.contains("no such container");
            assert!(ran.status == 0 || is_gone, "{both:?}");
        }
        assert!(both.iter().any(|ran| ran.status == 0), "{both:?}");
        world.assert_clean();
    }
    assert_eq!(world.left(), Vec::<PathBuf>::new());
}

/// L6, A9: what is not there, and names that are none, are one clear line of every command.
#[test]
fn unknown_containers_are_one_clear_line() {
    let world = World::new();
    let long = "a".repeat(65);
    let names =
        ["nosuch", "../x", "../../etc", ".", "/", "-", "a b", "\u{e9}", "\u{1b}[2J", &long, ""];
    for name in names {
        for command in [
            &["rm", "-f", "--"][..],
            &["stop", "--"],
            &["kill", "--"],
            &["wait", "--"],
            &["inspect", "--"],
            &["logs", "--"],
            &["attach", "--"],
            &["top", "--"],
        ] {
            let ran = world.run(&[command, &[name]].concat());
            assert!([1, 125].contains(&ran.status), "{command:?} {name:?}: {ran:?}");
            assert!(
                ran.err.starts_with("vmm: ") && ran.err.contains("no such container"),
                "{ran:?}"
            );
            assert_eq!(
                (ran.err.lines().count(), ran.err.contains('\u{1b}')),
                (1, false),
                "{ran:?}"
            );
        }
        let ran = world.run(&["exec", name, "true"]);
        assert!(ran.status == 125 && ran.err.starts_with("vmm: "), "{name:?}: {ran:?}");
    }
    // Nothing is called so either.
    for name in names.iter().filter(|name| **name != "nosuch") {
        let flag = format!("--name={name}");
        let ran = world.run(&World::line(&["--rm", &flag], &["exit"]));
        assert_eq!(ran.status, 125, "{name:?}: {ran:?}");
        assert!(!ran.err.contains('\u{1b}'), "{ran:?}");
    }
    let removed = world.run(&["rm", "-rf", "app"]);
    assert_eq!(removed.status, 125, "{removed:?}");
    world.assert_clean();
}
