//! What the processes of a container have from whoever started it: nothing.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use super::support::layout;
use super::world::{World, command_line, finish, signal};

/// `vmm` with these arguments by a shell that leaves it open files, variables, a mask and ignored signals.
fn by_a_careless_shell(world: &World, args: &[&str]) -> Command {
    let script = "trap '' HUP INT QUIT TERM USR1 CHLD; umask 0; exec 7< /etc/passwd 9> careless; \
                  export SECRET=swordfish LD_BIND_NOW=1; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(layout::vmm()).args(args);
    world.enter(&mut command);
    command
}

fn line_of<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).trim()
}

/// J3: the files of a process, none of them the shell's.
#[track_caller]
fn assert_own_files(world: &World, pid: u32) {
    let careless = [PathBuf::from("/etc/passwd"), world.path("careless")];
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let Ok(target) = fs::read_link(fd.unwrap().path()) else { continue };
        assert!(!careless.contains(&target), "{} has {target:?}", command_line(pid));
    }
}

/// J3.
#[test]
fn keeper_and_monitor_have_nothing_of_whoever_started_them() {
    const SIGPIPE_ALONE: u64 = 1 << (13 - 1);
    /// The C library's own: it takes no orders about them.
    const RESERVED: u64 = 3 << (32 - 1);
    let world = World::new();
    let line = World::line(&["-d", "--name", "one"], &["polite"]);
    let ran = finish(by_a_careless_shell(&world, &line).spawn().unwrap());
    assert_eq!(ran.status, 0, "{ran:?}");
    for command in ["keep", "monitor"] {
        let pid = world.process_of(command);
        assert_own_files(&world, pid);
        let place = format!("/proc/{pid}");
        let environment = fs::read_to_string(format!("{place}/environ")).unwrap();
        let names: Vec<_> = environment
            .split_terminator('\0')
            .filter_map(|entry| entry.split('=').next())
            .collect();
        let known =
            |name: &&str| ["PATH", "RUST_BACKTRACE", "VMM_DATA", "VMM_RUNTIME"].contains(name);
        assert!(names.iter().all(known), "{command}: {names:?}");
        let status = fs::read_to_string(format!("{place}/status")).unwrap();
        assert_eq!(line_of(&status, "Umask"), "0077", "{command}");
        let ignored = u64::from_str_radix(line_of(&status, "SigIgn"), 16).unwrap();
        assert_eq!(ignored & !RESERVED, SIGPIPE_ALONE, "{command}: {ignored:x}");
        assert_eq!(u64::from_str_radix(line_of(&status, "SigBlk"), 16).unwrap(), 0, "{command}");
        assert_eq!(fs::read_link(format!("{place}/cwd")).unwrap(), PathBuf::from("/"), "{command}");
    }
    // Neither is in the shell's session, to be hung up with it.
    let session = |pid| rustix::process::getsid(rustix::process::Pid::from_raw(pid));
    let keeper = i32::try_from(world.process_of("keep")).unwrap();
    assert_eq!(session(keeper).unwrap().as_raw_nonzero().get(), keeper);
    world.ok(&["rm", "-f", "one"]);
    world.assert_clean();
}

/// J3: whatever it was started to ignore, a command hears of the end of what it starts.
#[test]
fn command_that_was_started_to_ignore_its_children_waits_for_them() {
    let world = World::new();
    let line = ["pull", "-q", "oci:missing"];
    let ran = finish(by_a_careless_shell(&world, &line).spawn().unwrap());
    assert!(ran.status == 125 && ran.err.contains("oci:missing"), "{ran:?}");
    let ran = finish(
        by_a_careless_shell(&world, &World::line(&["--rm"], &["exit", "4"])).spawn().unwrap(),
    );
    assert_eq!(ran.status, 4, "{ran:?}");
    world.assert_clean();
}

/// J3: who reads a stranger's bytes has none of the files of whoever wants the image, and its part behind walls
/// none of the variables.
#[test]
fn image_reader_has_nothing_of_whoever_started_it() {
    let world = World::new();
    let registry = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/app:1", registry.local_addr().unwrap());
    let client = by_a_careless_shell(&world, &["pull", "-q", &image]).spawn().unwrap();
    let (mut socket, _) = registry.accept().unwrap();
    let _ = socket.read(&mut [0; 64]);
    let found = world.processes_of_pull();
    let part = found[1];
    found.iter().for_each(|pid| assert_own_files(&world, *pid));
    let environment = fs::read_to_string(format!("/proc/{part}/environ")).unwrap();
    assert!(!environment.contains("swordfish") && !environment.contains("LD_"), "{environment}");
    signal(client.id(), "KILL");
    finish(client);
    super::world::eventually("the part ends", || command_line(part).is_empty());
    world.assert_clean();
}
