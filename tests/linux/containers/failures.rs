//! What goes wrong, and how it is told: one message that names the phase, and 125.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::world::{Ran, World, eventually, finish, kernel, run, spawn};
use crate::guest::{self, signal};

const LINE: [&str; 7] = ["run", "--rm", "--network", "none", "busybox", "echo", "started"];

#[track_caller]
fn assert_told(ran: &Ran, words: &[&str]) {
    assert_eq!((ran.status, ran.out()), (125, String::new()), "{}", ran.err());
    for word in words {
        assert!(ran.err().contains(word), "{word}: {}", ran.err());
    }
    assert!(ran.err().starts_with("vmm: "), "{}", ran.err());
}

/// A container on that kernel is told to have failed as soon as it has, and nothing is left of it.
#[track_caller]
fn assert_soon_told(world: &World, kernel: &Path, words: &[&str]) {
    let wrong = run(world.vmm(&LINE).env("VMM_KERNEL", kernel), b"");
    assert_told(&wrong, words);
    assert!(!wrong.err().contains("within"), "it was waited for: {}", wrong.err());
    world.assert_nothing_left();
}

#[test]
fn missing_image_is_told() {
    let world = World::new();
    let missing = world.run(&["run", "--rm", "--pull", "never", "nosuch:tag", "true"]);
    assert_told(&missing, &["nosuch:tag"]);
    assert_eq!(world.left().len(), 0);
}

#[test]
fn missing_kernel_is_told() {
    let world = World::new();
    let missing = run(world.vmm(&LINE).env("VMM_KERNEL", "/no/such/kernel"), b"");
    assert_told(&missing, &["/no/such/kernel"]);
    let empty = world.data().join("empty");
    fs::write(&empty, "").expect("file");
    let wrong = run(world.vmm(&LINE).env("VMM_KERNEL", &empty), b"");
    assert_told(&wrong, &["kernel"]);
    world.assert_nothing_left();
}

/// By what its first bytes say, in one line with both architectures.
#[test]
fn kernel_of_another_architecture_is_told() {
    let world = World::new();
    let mut kernel = vec![0; 4096];
    let own = std::env::consts::ARCH;
    let other = if own == "aarch64" {
        // An ELF file of 64 bits for machine 62.
        kernel[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        kernel[16..20].copy_from_slice(&[2, 0, 62, 0]);
        "an ELF file for x86_64"
    } else {
        kernel[0x38..0x3c].copy_from_slice(b"ARM\x64");
        "an aarch64 Image"
    };
    let path = world.data().join("kernel");
    fs::write(&path, kernel).expect("file");
    let wrong = run(world.vmm(&LINE).env("VMM_KERNEL", &path), b"");
    assert_told(&wrong, &[&format!("{} is {other}, this machine is {own}", path.display())]);
    assert_eq!(world.left().len(), 0);
}

/// The minimal kernel can boot, and says in itself what it cannot.
#[test]
fn what_a_kernel_lacks_for_containers_is_told_before_it_boots() {
    let world = World::new();
    let other = guest::kernel("minimal");
    let wrong = run(world.vmm(&LINE).env("VMM_KERNEL", &other), b"");
    let lacking = ["CONFIG_PID_NS (", "CONFIG_CGROUPS (", "CONFIG_POSIX_MQUEUE ("];
    assert_told(&wrong, &[&lacking[..], &[other.to_str().expect("text"), "hint: "]].concat());
    assert!(!wrong.err().contains("EROFS"), "{}", wrong.err());
    world.assert_nothing_left();
}

/// In a compressed kernel nobody finds what it lacks: the agent does.
#[test]
fn what_a_compressed_kernel_lacks_is_told_with_the_phase() {
    let world = World::new();
    assert_soon_told(&world, &guest::packed_kernel(), &["agent: ", "control groups"]);
}

/// Debian's kernel has all of it, in modules that nothing loads: the agent finds no way to the host.
#[test]
fn kernel_without_a_way_to_the_host_is_told_with_its_last_words() {
    let world = World::new();
    let words =
        ["boot: the guest powered off", "last console lines", "vmm-agent: connect to the host"];
    assert_soon_told(&world, &guest::artifact("kernels/debian/vmlinuz"), &words);
}

#[test]
fn missing_agent_is_told() {
    let world = World::new();
    let elsewhere = world.data().join("vmm");
    let path = run(Command::new("sh").args(["-c", "command -v vmm"]), b"").success();
    fs::copy(path.trim(), &elsewhere).expect("copied");
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o755)).expect("mode");
    let mut command = Command::new(&elsewhere);
    world.enter(&mut command);
    assert_told(&run(command.args(LINE), b""), &["vmm-agent"]);
}

/// V12: a real kernel starts what is no agent at all: the console says what became of it.
#[test]
fn agent_that_is_none_is_told_with_the_phase_and_the_console() {
    let world = World::new();
    let path = run(Command::new("sh").args(["-c", "command -v vmm"]), b"").success();
    let directory = Path::new(path.trim()).parent().expect("a directory");
    let elsewhere = world.data().join("programs");
    fs::create_dir(&elsewhere).expect("directory");
    for (from, to) in [("vmm", "vmm"), ("vmm-image", "vmm-agent")] {
        fs::copy(directory.join(from), elsewhere.join(to)).expect("copied");
    }
    let mut command = Command::new(elsewhere.join("vmm"));
    world.enter(&mut command);
    let ran = run(command.args(LINE), b"");
    assert_told(&ran, &["boot: the machine ended", "Kernel panic"]);
    world.assert_nothing_left();
}

#[test]
fn program_that_cannot_be_run_is_told_and_leaves_nothing() {
    let world = World::new();
    for (program, status) in [("nosuch", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        let ran = world.run(&["run", "--rm", "--network", "none", "busybox", program]);
        assert_eq!((ran.status, ran.err().lines().count()), (status, 1), "{}", ran.err());
        assert!(ran.err().contains(program), "{}", ran.err());
    }
    world.assert_nothing_left();
}

#[test]
fn arguments_that_make_no_sense_are_told_before_anything_starts() {
    let world = World::new();
    for bad in [
        &["run", "--nosuch", "busybox"][..],
        &["run", "-m", "much", "busybox"],
        &["run", "--cap-add", "NOSUCH", "busybox"],
        &["run", "-p", "80:80", "--network", "none", "busybox"],
        &["run", "-it", "busybox"],
        &["run"],
    ] {
        let ran = world.run(bad);
        assert_eq!(ran.status, 125, "{bad:?}: {}", ran.err());
        assert!(!ran.err().is_empty(), "{bad:?}");
    }
    assert_eq!(world.left().len(), 0);
}

/// P1: the machine is killed under a container that runs.
#[test]
fn monitor_that_is_killed_is_told_with_the_phase() {
    let world = World::new();
    let client = world.run_until_ready("one");
    signal(process_of(&world, "monitor"), "KILL");
    let ran = finish(client);
    assert_told(&ran, &["run: "]);
    eventually("it is known to have ended", || world.names(false).is_empty());
    assert!(world.ok(&["ps", "-a"]).contains("Exited (125)"), "{}", world.ok(&["ps", "-a"]));
    world.wait_for_quiet();
}

/// P1: the keeper is killed; the next command finishes its work.
#[test]
fn keeper_that_is_killed_takes_the_machine_with_it() {
    let world = World::new();
    let client = world.run_until_ready("one");
    signal(process_of(&world, "keep"), "KILL");
    assert_told(&finish(client), &["keeper"]);
    world.wait_for_quiet();
    assert_eq!(world.names(false), [""; 0]);
    assert!(world.ok(&["ps", "-a"]).contains("Exited (255)"), "{}", world.ok(&["ps", "-a"]));
    assert_eq!(world.ok(&["wait", "one"]), "255");
    // Its sockets are gone, its log is not.
    assert_eq!(world.left().len(), 1, "{:?}", world.left());
    assert_eq!(world.ok(&["logs", "one"]), "ready");
    world.ok(&["rm", "one"]);
    assert_eq!(world.left().len(), 0, "{:?}", world.left());
}

/// The process of `vmm COMMAND` in this world, once it is there.
pub fn process_of(world: &World, command: &str) -> u32 {
    let wanted = format!("vmm {command} ");
    let find = || {
        let mut found = world.processes().into_iter();
        found.find(|pid| super::world::command_line(*pid).contains(&wanted))
    };
    eventually(&wanted, || find().is_some());
    find().unwrap_or_else(|| panic!("no {wanted}"))
}

/// P1: whenever the command is killed, nothing lives on that `vmm ps` does not show.
#[test]
fn run_killed_at_any_instant_leaves_nothing_alive() {
    let world = World::new();
    assert!(kernel().exists());
    let line = ["run", "--rm", "--network", "none", "busybox", "sleep", "1000"];
    let mut seed = 0x9e37_79b9_u64;
    for round in 0..20 {
        // A little of everything: the first steps take milliseconds, the boot takes seconds.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let limit = if round % 2 == 0 { 60 } else { 2500 };
        let mut client = spawn(&mut world.vmm(&line), Stdio::null());
        std::thread::sleep(std::time::Duration::from_millis((seed >> 33) % limit));
        client.kill().expect("kill");
        client.wait().expect("wait");
    }
    // Those whose start was given up are gone by themselves; those that ran are docker's.
    eventually("starts are given up", || {
        let listed = world.ok(&["ps", "-q"]);
        let alive: Vec<_> = listed.split_whitespace().collect();
        if !alive.is_empty() {
            world.run(&[&["rm", "-f"], &alive[..]].concat());
        }
        alive.is_empty() && world.processes().is_empty()
    });
    assert_eq!(world.names(true), [""; 0]);
    assert_eq!(world.left().len(), 0, "{:?}", world.left());
}

/// P1: the keeper dies at any instant, and the next command finishes its work.
#[test]
fn keeper_killed_at_any_instant_leaves_nothing_alive() {
    let world = World::new();
    let line = ["run", "--rm", "--network", "none", "busybox", "sleep", "1000"];
    for round in 0..6_u64 {
        let client = spawn(&mut world.vmm(&line), Stdio::null());
        let keeper = process_of(&world, "keep");
        std::thread::sleep(std::time::Duration::from_millis(round * round * 50));
        signal(keeper, "KILL");
        let ran = finish(client);
        assert_eq!(ran.status, 125, "{}", ran.err());
    }
    world.wait_for_quiet();
    assert_eq!(world.names(true), [""; 0]);
    assert_eq!(world.left().len(), 0, "{:?}", world.left());
}
