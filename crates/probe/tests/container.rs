//! The same program on a host and in a container on it: what differs is the wall.
//!
//! The tests run as root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

const PROBE: &str = env!("CARGO_BIN_EXE_vmm-probe");

/// The runtime, which is another package's program. Who runs tests of several packages at once has built it.
fn runtime() -> PathBuf {
    let path = Path::new(PROBE).with_file_name("vmm-namespaces");
    if std::env::var_os("VMM_PROGRAMS_BUILT").is_some() {
        return path;
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "vmm-contrast", "--bin", "vmm-namespaces"]);
    assert!(cargo.status().unwrap().success());
    path
}

/// An image with nothing but the probe.
fn image() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(PROBE, directory.path().join("probe")).unwrap();
    directory
}

fn parse(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn outside(words: &[&str]) -> Value {
    parse(&Command::new(PROBE).args(words).output().unwrap())
}

fn inside(options: &[&str], words: &[&str]) -> Value {
    let image = image();
    let mut command = Command::new(runtime());
    command.args(options).arg(image.path()).arg("/probe").args(words);
    parse(&command.output().unwrap())
}

#[test]
fn kernel_is_the_hosts_and_everything_else_is_the_containers() {
    let (host, container) = (outside(&["facts"]), inside(&[], &["facts"]));
    let (host, container) = (&host["facts"], &container["facts"]);
    for fact in ["release", "version", "boot_id", "command_line"] {
        assert_eq!(host["kernel"][fact], container["kernel"][fact], "{fact}");
    }
    assert_eq!(container["identity"]["pid"], 1);
    assert_eq!(container["identity"]["hostname"], "box");
    assert_eq!(container["identity"]["control_group"], "/");
    assert_eq!(container["processes"], json!({ "count": 1, "names": ["probe"] }));
    assert_eq!(container["network_interfaces"], json!({ "count": 1, "names": ["lo"] }));
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let namespace = |facts: &Value| facts["identity"]["namespaces"][kind].clone();
        assert_ne!(namespace(host), namespace(container), "{kind}");
    }
    assert_eq!(container["rights"]["effective"].as_array().unwrap().len(), 14);
    assert_eq!(container["rights"]["seccomp"], 2);
    for (name, writable) in container["sysctls"].as_object().unwrap() {
        assert_ne!(writable, "yes", "{name}");
    }
}

#[test]
fn container_has_fewer_calls_and_no_way_out() {
    let words = ["syscalls", "escapes"];
    let (host, container) = (outside(&words), inside(&[], &words));
    let count = |answers: &Value, name: &str| answers["syscalls"]["counts"][name].as_u64().unwrap();
    assert!(count(&container, "refused") >= 60, "{}", container["syscalls"]["counts"]);
    assert!(count(&host, "reachable") > count(&container, "reachable") + 40);
    for call in ["mount", "bpf", "keyctl", "unshare", "io_uring_setup", "init_module"] {
        assert_eq!(container["syscalls"]["calls"][call], json!(["refused", "EPERM"]), "{call}");
    }
    for call in ["read", "clone", "ptrace", "socket", "chroot"] {
        assert_eq!(container["syscalls"]["calls"][call][0], "reachable", "{call}");
    }
    // The capability NET_RAW is docker's, and process 1 is the probe itself.
    let known = ["raw packets", "link packets", "trace process 1"];
    for (name, answer) in container["escapes"].as_object().unwrap() {
        let possible = answer["verdict"] == "possible";
        assert_eq!(possible, known.contains(&name.as_str()), "{name}: {answer}");
    }
}

#[test]
fn limits_are_seen_where_the_host_counts_by_version_2() {
    let container = inside(&["--memory", "67108864", "--pids", "40"], &["facts"]);
    let limits = &container["facts"]["limits"];
    let counted = |controller: &str| {
        let list = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        list.split_whitespace().any(|word| word == controller)
    };
    let expected =
        |controller, value: &str| if counted(controller) { json!(value) } else { Value::Null };
    assert_eq!(limits["memory"]["enforced"], expected("memory", "67108864"));
    assert_eq!(limits["processes"]["enforced"], expected("pids", "40"));
    // What is seen is the host's all the same.
    let host = outside(&["facts"]);
    assert_eq!(limits["memory"]["seen_bytes"], host["facts"]["limits"]["memory"]["seen_bytes"]);
}

#[test]
fn costs_are_measured_in_both() {
    let words = ["cpu", "syscall-latency", "io", "loopback"];
    for answers in [outside(&words), inside(&[], &words)] {
        for word in words {
            for (name, value) in answers[word].as_object().unwrap() {
                assert!(value.as_u64().unwrap() > 0, "{word}, {name}: {answers}");
            }
        }
    }
    assert_eq!(inside(&["--read-only"], &["io"])["io"], Value::Null);
}

#[test]
fn wrong_words_are_refused() {
    for words in [&[][..], &["frob"], &["facts", "frob"]] {
        let output = Command::new(PROBE).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(!String::from_utf8(output.stdout).unwrap().contains('{'));
    }
}
