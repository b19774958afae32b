//! Hosts that lack something: every failure is one line, and nothing is left behind.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::script::Script;
use support::subject::Everything;
use support::vmm::{Finished, Vmm};

/// Status of a host that cannot do what was asked.
const HOST: i32 = 3;

/// A shell command that puts `$0` over the path `over`, and then runs its arguments.
fn with_bound(over: &str, source: &Path) -> Vec<String> {
    let script = format!("mount --bind \"$0\" {over} && exec \"$@\"");
    let source = source.display().to_string();
    ["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", &script, &source]
        .map(str::to_owned)
        .into()
}

#[track_caller]
fn expect_host_error(end: &Finished, said: &[&str]) {
    assert_eq!(end.code(), HOST, "{}", end.stderr);
    let line = end.expect_one_line_error();
    for text in said {
        assert!(line.contains(text), "{line}");
    }
    assert!(end.stdout.is_empty());
}

/// P10.
#[test]
fn missing_kvm_is_one_clear_line() {
    let empty = tempfile::tempdir().unwrap();
    let end = Vmm::with_guest("null").by(with_bound("/dev", empty.path())).run();
    expect_host_error(&end, &["/dev/kvm"]);
    assert!(fs::read_dir(empty.path()).unwrap().next().is_none());
}

/// P10.
#[test]
fn forbidden_kvm_is_one_clear_line() {
    let closed = tempfile::NamedTempFile::new().unwrap();
    closed.as_file().set_permissions(fs::Permissions::from_mode(0o000)).unwrap();
    let no_privilege = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];
    let end =
        Vmm::with_guest("null").by(with_bound("/dev/kvm", closed.path())).by(no_privilege).run();
    expect_host_error(&end, &["/dev/kvm", "ermission denied"]);
}

/// P10: something at /dev/kvm that does not speak its API.
#[test]
fn device_that_is_not_kvm_is_one_clear_line() {
    let end = Vmm::with_guest("null").by(with_bound("/dev/kvm", Path::new("/dev/null"))).run();
    expect_host_error(&end, &["/dev/kvm"]);
}

/// P10.
#[test]
fn missing_tun_is_one_clear_line() {
    let empty = tempfile::tempdir().unwrap();
    let end = Vmm::with_guest("null")
        .args(["--net", "tap=vmm0"])
        .by(with_bound("/dev/net", empty.path()))
        .run();
    expect_host_error(&end, &["vmm0", "/dev/net/tun"]);
}

/// P10.
#[test]
fn missing_passt_is_one_clear_line() {
    let no_programs = ["env", "PATH=/no/such/directory"];
    let end = Vmm::with_guest("null").args(["--net", "user"]).by(no_programs).run();
    expect_host_error(&end, &["user network", "passt is not installed", "package"]);
}

/// P6: with each number of descriptors, from too few for the first to enough for the last.
#[test]
fn running_out_of_descriptors_anywhere_is_one_clear_line() {
    // With the standard three alone the dynamic loader fails, before the monitor begins.
    const FIRST: u32 = 4;
    const ENOUGH: u32 = 128;
    let everything = Everything::new();
    let script = Script::new().then_reset();
    for limit in FIRST..ENOUGH {
        let prlimit = ["prlimit".to_owned(), format!("--nofile={limit}"), "--".to_owned()];
        let end = everything.vmm(&script).by(prlimit).run();
        if end.code() == 0 {
            assert_eq!(end.stderr, "");
            assert!(limit > FIRST + 10, "{limit} descriptors are said to be enough");
            return;
        }
        expect_host_error(&end, &["Too many open files"]);
    }
    panic!("{ENOUGH} descriptors are not enough");
}

/// A failure late in the set-up leaves neither the interface nor the lock of the disk, and the
/// same machine starts once there is room.
#[test]
fn failed_start_leaves_nothing_behind() {
    let everything = Everything::new();
    let before = fs::read(everything.disk.path()).unwrap();
    let report =
        "prlimit --nofile=16 -- \"$@\" </dev/null; status=$?; cat /proc/net/dev; exit $status";
    let script = Script::new().then_reset();
    let end = everything.vmm(&script).by(["sh", "-c", report, "sh"]).run();
    assert_eq!(end.code(), HOST, "{}", end.stderr);
    let interfaces = String::from_utf8_lossy(&end.stdout);
    assert!(interfaces.contains("lo:"), "{interfaces}");
    assert!(!interfaces.contains("vmm0:"), "{interfaces}");
    assert_eq!(fs::read(everything.disk.path()).unwrap(), before);
    everything.vmm(&script).run().expect(0);
}
