//! What runc has no notion of: rules of docker's for images, and flags about the machine.

use std::fs;

use super::world::{Ran, World};

fn run(world: &World, args: &[&str]) -> Ran {
    world.run(&[&["run", "--rm", "--network", "none"], args].concat())
}

fn printed(world: &World, args: &[&str]) -> String {
    run(world, args).success().trim_end().to_owned()
}

/// The image says `CMD sh` and no entry point.
#[test]
fn command_and_entry_point_follow_dockers_rules() {
    let world = World::new();
    assert_eq!(printed(&world, &["busybox", "echo", "-n", "--rm"]), "--rm");
    assert_eq!(printed(&world, &["--entrypoint", "echo", "busybox"]), "");
    assert_eq!(printed(&world, &["--entrypoint", "echo", "busybox", "a", "b"]), "a b");
    assert_eq!(printed(&world, &["--entrypoint", "", "busybox", "echo", "x"]), "x");
    let none = run(&world, &["--entrypoint", "", "busybox"]);
    assert_eq!(none.status, 125, "{}", none.err());
    assert!(none.err().contains("no command"), "{}", none.err());
    // Without a command it is the image's: a shell, here without input.
    assert_eq!(printed(&world, &["busybox"]), "");
    assert_eq!(printed(&world, &["-i", "busybox", "cat"]), "");
}

#[test]
fn init_reaps_orphans_passes_signals_on_and_ends_as_the_program() {
    let world = World::new();
    let script = "cat /proc/1/cmdline | tr '\\0' ' '; echo $$; (sleep 0.1 &); sleep 0.5; \
                  grep -l 'State:.Z' /proc/[0-9]*/status; exit 12";
    let ran = run(&world, &["--init", "busybox", "sh", "-c", script]);
    assert_eq!(ran.status, 12, "{}", ran.err());
    let text = ran.out();
    assert!(text.trim_end().ends_with(" 2") || text.trim_end().ends_with("\n2"), "{text}");
    assert!(!text.contains("/proc/"), "{text}");
    let killed = run(&world, &["--init", "busybox", "sh", "-c", "kill -TERM 1; sleep 100"]);
    assert_eq!(killed.status, 143, "{}", killed.err());
}

#[test]
fn hosts_and_names_are_as_asked_for() {
    let world = World::new();
    let script = "cat /etc/hosts; cat /etc/resolv.conf; hostname; cat /etc/hostname";
    let text = printed(
        &world,
        &[
            "-h",
            "box",
            "--add-host",
            "db:192.0.2.7",
            "--dns",
            "192.0.2.53",
            "busybox",
            "sh",
            "-c",
            script,
        ],
    );
    for line in ["127.0.0.1\tlocalhost", "192.0.2.7\tdb", "box\nbox"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // Without a network no server can be reached.
    assert!(!text.contains("nameserver"), "{text}");
}

#[test]
fn variables_come_from_flags_files_and_the_environment() {
    let world = World::new();
    let file = world.data().join("variables");
    fs::write(&file, "# comment\nA=file\nB=file\n\nFROM_HERE\n").expect("file");
    let mut command = world.vmm(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--env-file",
        file.to_str().expect("text"),
    ]);
    command.args(["-e", "B=flag", "-e", "ALSO_HERE", "-e", "NOT_HERE", "busybox", "sh", "-c"]);
    command.arg("echo $A $B $FROM_HERE $ALSO_HERE ${NOT_HERE-unset}");
    command.env("FROM_HERE", "1").env("ALSO_HERE", "2");
    assert_eq!(super::world::run(&mut command, b"").success(), "file flag 1 2 unset\n");
}

#[test]
fn users_are_names_of_the_image() {
    let world = World::new();
    let unknown = run(&world, &["-u", "nosuch", "busybox", "true"]);
    assert_eq!(unknown.status, 125, "{}", unknown.err());
    assert!(unknown.err().contains("unable to find user nosuch"), "{}", unknown.err());
    let group = run(&world, &["-u", "user:nosuch", "busybox", "true"]);
    assert_eq!(group.status, 125, "{}", group.err());
    let file = run(&world, &["-w", "/etc/passwd", "busybox", "true"]);
    assert!([125, 126, 127].contains(&file.status), "{} {}", file.status, file.err());
}

#[test]
fn processors_are_as_many_as_asked_for() {
    let world = World::new();
    assert_eq!(printed(&world, &["--cpus", "2", "busybox", "nproc"]), "2");
    let part = run(&world, &["--cpus", "1.5", "busybox", "nproc"]);
    assert_eq!((part.status, part.out().trim()), (0, "2"), "{}", part.err());
}

#[test]
fn writable_layer_is_as_large_as_asked_for() {
    let world = World::new();
    let script =
        "dd if=/dev/zero of=/big bs=1M count=64; echo $?; df -k / | tail -n 1 | awk '{print $2}'";
    let text = printed(&world, &["--storage", "32m", "busybox", "sh", "-c", script]);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("1"), "{text}");
    let size: u64 = lines.next().expect("size").parse().expect("number");
    assert!((16 << 10..=32 << 10).contains(&size), "{text}");
}

#[test]
fn volumes_are_refused_in_one_sentence() {
    let world = World::new();
    let refused = run(&world, &["-v", "/a:/b", "busybox", "true"]);
    assert_eq!(refused.status, 125, "{}", refused.err());
    assert_eq!(refused.err().lines().count(), 1, "{}", refused.err());
    assert!(refused.err().contains("vmm exec -i"), "{}", refused.err());
}
