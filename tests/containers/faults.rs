//! Hosts that refuse: no descriptors, no room, no writing, any call at any step. Each start ends in one clear
//! line, and nothing is left of it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use super::support::faults::refusing;
use super::support::layout;
use super::world::{Ran, World, eventually, finish};

/// More steps than there are.
const MANY: usize = 1000;
/// Sweeps at once.
const SWEEPS: usize = 3;

/// A start that was refused something said so in one line; or it did without.
#[track_caller]
fn assert_told(ran: &Ran, what: &str) {
    assert!([3, 125].contains(&ran.status), "{what}: {ran:?}");
    if ran.status == 125 {
        assert!(ran.err.lines().any(|line| line.starts_with("vmm: ")), "{what}: {ran:?}");
    }
    assert!(!ran.err.contains("panicked"), "{what}: {ran:?}");
}

/// L3: each step of client, keeper and monitor fails once. The start is told to have failed or goes on without,
/// and the next command finds nothing of it.
#[test]
fn start_refused_any_step_leaves_nothing_behind() {
    let counts: Vec<usize> = thread::scope(|scope| {
        let sweeps = [0, 1, 2].map(|first| scope.spawn(move || sweep(first)));
        sweeps.into_iter().map(|sweep| sweep.join().unwrap()).collect()
    });
    assert!(counts.iter().sum::<usize>() > 60, "{counts:?} steps");
}

/// Every third step from `first` on; how many there were.
fn sweep(first: usize) -> usize {
    let world = World::new();
    for (count, nth) in (1 + first..MANY).step_by(SWEEPS).enumerate() {
        let flags: &[&str] =
            if nth % 2 == 0 { &["--rm", "--name", "one"] } else { &["--name", "one"] };
        let line = World::line(flags, &["exit", "3"]);
        let run = || finish(world.vmm(&line).spawn().unwrap());
        let refused = refusing("vmm", nth, run);
        let what = format!("step {nth}, call {:?}", refused.call);
        assert_told(&refused.value, &what);
        eventually(&what, || world.processes().is_empty());
        if world.ok(&["ps", "-a"]).contains("one") {
            world.ok(&["rm", "one"]);
        }
        assert_eq!(world.left(), Vec::<PathBuf>::new(), "{what}");
        if refused.call.is_none() {
            assert_eq!(refused.value.status, 3, "{what}");
            return count;
        }
    }
    panic!("{MANY} steps are not enough");
}

/// P6: with each number of descriptors, from too few for the client to enough for keeper and monitor.
#[test]
fn container_that_runs_out_of_descriptors_is_one_clear_line() {
    // With fewer the dynamic loader fails, before the command begins.
    const FIRST: u32 = 4;
    const ENOUGH: u32 = 128;
    let world = World::new();
    for (refusals, limit) in (FIRST..ENOUGH).enumerate() {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={limit}")).arg("--").arg(layout::vmm());
        command.args(World::line(&["--rm"], &["exit", "3"]));
        world.enter(&mut command);
        let ran = finish(command.spawn().unwrap());
        assert_told(&ran, &format!("{limit} descriptors"));
        world.assert_clean();
        if ran.status == 3 {
            assert!(refusals > 10, "{limit} descriptors are said to be enough");
            return;
        }
        assert!(ran.err.contains("Too many open files"), "{limit}: {ran:?}");
    }
    panic!("{ENOUGH} descriptors are not enough");
}

/// Runs a script of a shell in which `$D` is a directory of its own file system with the size `size`, that
/// already has the images, and `run` runs a container.
fn with_data_of_size(world: &World, size: &str, script: &str) -> Ran {
    let line = World::line(&[], &[]).join(" ");
    let script = format!(
        "D=$VMM_DATA; mkdir -p $D.small && mount -t tmpfs -o size={size} none $D.small || exit 99
         cp -a --sparse=always $D/. $D.small/ || exit 98
         export VMM_DATA=$D.small D=$D.small; vmm() {{ {vmm} \"$@\"; }}
         run() {{ {vmm} {line} \"$@\"; }}
         {script}",
        vmm = layout::vmm().display(),
        line = line.strip_suffix(" app").unwrap(),
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--", "sh", "-c", &script]);
    world.enter(&mut command);
    finish(command.spawn().unwrap())
}

/// P7: a disk with a little more room each time. A start that does not fit is told with what the host says, and
/// none is left; one that fits ends as it should.
#[test]
fn container_without_room_on_the_disk_is_one_clear_line() {
    let world = World::new();
    let script = "run --rm app exit 3; status=$?; [ -z \"$(vmm ps -aq)\" ] || exit 97
        [ -z \"$(find $D/containers -mindepth 1 -type d)\" ] || exit 96; exit $status";
    let base = 4 * kibibytes(&world);
    let mut told = 0;
    for more in (0..).step_by(16) {
        let ran = with_data_of_size(&world, &format!("{}k", base / 4 + more), script);
        // The images themselves have no room.
        if ran.status == 98 {
            continue;
        }
        assert_told(&ran, &format!("{more} KiB more"));
        if ran.status == 3 {
            assert!(told > 0, "nothing was refused");
            return;
        }
        assert!(ran.err.contains("No space left on device"), "{more}: {ran:?}");
        told += 1;
    }
}

fn kibibytes(world: &World) -> usize {
    let output = Command::new("du").args(["-sk"]).arg(world.path("data")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// P7: the disk fills up under a container that runs. It goes on, its end is told to whoever waits, and what
/// could not be written down is made up for by the first command that can write.
#[test]
fn disk_that_fills_up_ends_no_container() {
    let world = World::new();
    let script = "run -d --name one app polite > /dev/null || exit 90
         dd if=/dev/zero of=$D/fill bs=64k 2> /dev/null
         [ $(df --output=avail $D | tail -1) = 0 ] || exit 91
         vmm ps | grep -q Up || exit 92
         vmm wait one > $PWD/code & sleep 0.3; vmm kill -s TERM one > /dev/null || exit 93
         wait; [ \"$(cat $PWD/code)\" = 143 ] || exit 94
         rm $D/fill; vmm ps -a | grep -q 'Exited (' || exit 95; vmm rm one";
    let filled = with_data_of_size(&world, "64m", script);
    assert_eq!((filled.status, filled.out.as_str()), (0, "one\n"), "{filled:?}");
    world.assert_clean();
}

/// P7.
#[test]
fn disk_that_cannot_be_written_is_one_clear_line_and_harms_nothing() {
    let world = World::new();
    let script =
        "run --name one app exit 5; [ $? = 5 ] || exit 90; vmm wait one > /dev/null; sleep 0.5
         mount -o remount,ro $D || exit 91
         vmm ps -a && exit 92; run --rm app exit 3 && exit 93; vmm rm one && exit 94
         mount -o remount,rw $D || exit 95
         vmm ps -a | grep -q 'Exited (5)' || exit 96; vmm rm one";
    let ran = with_data_of_size(&world, "64m", script);
    assert_eq!((ran.status, ran.out.as_str()), (0, "one\n"), "{ran:?}");
    let said: Vec<_> = ran.err.lines().filter(|line| line.starts_with("vmm: ")).collect();
    assert_eq!(said.len(), 3, "{ran:?}");
    assert!(said.iter().all(|line| line.contains("Read-only file system")), "{ran:?}");
    assert!(fs::read_dir(world.path("run")).unwrap().next().is_none());
    world.assert_clean();
}
