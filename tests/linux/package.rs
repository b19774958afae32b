//! The Debian package, installed, used and removed again.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::containers::World;
use crate::guest::Guest;

/// Where the emulated host has it.
const PACKAGE: &str = "/srv/vmm.deb";

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().expect(program)
}

#[track_caller]
fn ok(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

/// Removes the package, whatever became of the test.
struct Installed;

impl Installed {
    fn new() -> Self {
        // The host leaves pages of packages out, to be small.
        ok("dpkg", &["--path-include=/usr/share/*", "--install", PACKAGE]);
        Self
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = run("dpkg", &["--purge", "vmm"]);
    }
}

#[test]
fn package_is_installed_runs_machines_and_containers_and_leaves_nothing() {
    let name = ok("dpkg-deb", &["--showformat=${Package} ${Architecture}", "--show", PACKAGE]);
    let native = ok("dpkg", &["--print-architecture"]);
    assert_eq!(name, format!("vmm {}", native.trim()));

    let installed = Installed::new();
    assert_eq!(ok("dpkg", &["--verify", "vmm"]), "", "files that differ from the package's");
    let doctor = ok("/usr/bin/vmm", &["doctor"]);
    assert!(doctor.contains("/dev/kvm"), "{doctor}");
    for page in ["man/man1/vmm.1.gz", "man/man1/vmm-run.1.gz", "doc/vmm/README.md"] {
        assert!(Path::new("/usr/share").join(page).is_file(), "{page}");
    }
    // It finds the agent and the kernel that came with it, and nothing else names them.
    let world = World::new();
    let mut command = Command::new("/usr/bin/vmm");
    world.enter(&mut command);
    command.env_remove("VMM_KERNEL").env("HOME", "/nonexistent").env("PATH", "/usr/bin:/bin");
    command.args(["run", "--rm", "--network", "none", "busybox", "uname", "-r"]);
    let output = command.output().expect("vmm");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let release = String::from_utf8(output.stdout).expect("text");
    assert!(release.trim().ends_with("-container"), "{release}");
    // The other kernel is for machines by hand.
    let console = Guest::new(Path::new("/usr/lib/vmm/vmlinux-minimal")).succeed("uname -r");
    assert!(console.contains("-minimal"), "{console}");

    let files = ok("dpkg", &["--listfiles", "vmm"]);
    drop(installed);
    let is_ours = |path: &&str| path.contains("vmm") && fs::symlink_metadata(path).is_ok();
    let left: Vec<_> = files.lines().filter(is_ours).collect();
    assert!(left.is_empty(), "{left:?}");
}
