//! The same container in two languages: flags of `vmm run`, and a bundle for runc and crun with what
//! docker would write into it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::world::run;
use crate::guest::artifact;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// docker's, see capabilities(7).
const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// What is not as usual about a container.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// As the flag has it, and what docker finds in the image for it.
    pub user: Option<(&'static str, u32, u32, &'static [u32])>,
    pub env: &'static [&'static str],
    pub workdir: Option<&'static str>,
    pub cap_drop_all: bool,
    pub cap_add: &'static [&'static str],
    pub read_only: bool,
    pub tmpfs: Option<(&'static str, &'static [&'static str])>,
    /// Name, soft and hard limit.
    pub ulimits: &'static [(&'static str, u64, u64)],
    pub memory_mib: u64,
    pub stdin: bool,
    pub terminal: bool,
}

/// Nothing said.
pub const PLAIN: Options = Options {
    user: None,
    env: &[],
    workdir: None,
    cap_drop_all: false,
    cap_add: &[],
    read_only: false,
    tmpfs: None,
    ulimits: &[],
    memory_mib: 256,
    stdin: false,
    terminal: false,
};

impl Options {
    /// As flags of `vmm run`.
    pub fn flags(&self) -> Vec<String> {
        let mut flags: Vec<String> =
            vec!["-h".into(), "box".into(), "--network".into(), "none".into()];
        let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
        if let Some((user, ..)) = self.user {
            flag("-u", user.to_owned());
        }
        self.env.iter().for_each(|word| flag("-e", (*word).to_owned()));
        if let Some(path) = self.workdir {
            flag("-w", path.to_owned());
        }
        if self.cap_drop_all {
            flag("--cap-drop", "ALL".into());
        }
        self.cap_add.iter().for_each(|name| flag("--cap-add", (*name).to_owned()));
        if let Some((path, options)) = self.tmpfs {
            let words = options.join(",");
            flag("--tmpfs", format!("{path}:{words}").trim_end_matches(':').to_owned());
        }
        for (name, soft, hard) in self.ulimits {
            flag("--ulimit", format!("{name}={soft}:{hard}"));
        }
        flag("-m", format!("{}m", self.memory_mib));
        flags.extend(self.read_only.then(|| "--read-only".to_owned()));
        flags.extend(self.stdin.then(|| "-i".to_owned()));
        flags.extend(self.terminal.then(|| "-t".to_owned()));
        flags
    }
}

/// A bundle: a directory with a root file system of its own and `config.json`.
pub struct Bundle(TempDir);

impl Bundle {
    /// One of the image `busybox`, that runs `command`.
    pub fn new(options: &Options, command: &[&str]) -> Self {
        let bundle = Self(tempfile::tempdir().expect("temporary directory"));
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(unpacked()).arg(bundle.path().join("rootfs"));
        run(&mut copy, b"").success();
        for (name, text) in
            [("hosts", "127.0.0.1\tlocalhost\n"), ("hostname", "box\n"), ("resolv.conf", "")]
        {
            fs::write(bundle.path().join(name), text).expect("file");
        }
        let config = config(options, command, bundle.path());
        fs::write(bundle.path().join("config.json"), config.to_string()).expect("configuration");
        bundle
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// The image's root file system, unpacked by somebody else than us.
fn unpacked() -> PathBuf {
    static UNPACKED: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let into = std::env::temp_dir().join("busybox-bundle");
        let _ = fs::remove_dir_all(&into);
        let mut unpack = Command::new("umoci");
        let image = format!("{}:latest", artifact("images/busybox").display());
        run(unpack.args(["unpack", "--image", &image]).arg(&into), b"").success();
        into.join("rootfs")
    };
    UNPACKED.get_or_init(make).clone()
}

fn config(options: &Options, command: &[&str], bundle: &Path) -> Value {
    let mut env = vec![PATH.to_owned(), "HOSTNAME=box".to_owned()];
    if options.terminal {
        env.push("TERM=xterm".to_owned());
    }
    env.extend(options.env.iter().map(|word| (*word).to_owned()));
    let (_, uid, gid, groups) = options.user.unwrap_or(("", 0, 0, &[]));
    // With the group itself: a program that changes its group is still in that one.
    let groups = [&[gid], groups].concat();
    let known: &[&str] = if options.cap_drop_all { &[] } else { &CAPABILITIES };
    let names = known.iter().chain(options.cap_add).map(|name| format!("CAP_{name}"));
    let all: Vec<String> = names.collect();
    let own = if uid == 0 { all.clone() } else { vec![] };
    let mut limits = vec![
        ("nofile", 1 << 20, 1 << 20),
        ("nproc", u64::MAX, u64::MAX),
        ("core", u64::MAX, u64::MAX),
    ];
    limits.retain(|(name, ..)| options.ulimits.iter().all(|(other, ..)| other != name));
    limits.extend(options.ulimits);
    let limits: Vec<_> = limits.iter().map(|(name, soft, hard)| {
        json!({"type": format!("RLIMIT_{}", name.to_uppercase()), "soft": soft, "hard": hard})
    }).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": options.terminal,
            "user": {"uid": uid, "gid": gid, "additionalGids": groups},
            "args": command,
            "env": env,
            "cwd": options.workdir.unwrap_or("/"),
            "capabilities": {"bounding": all, "permitted": own, "effective": own},
            "rlimits": limits,
            "oomScoreAdj": 0,
        },
        "root": {"path": "rootfs", "readonly": options.read_only},
        "hostname": "box",
        "mounts": mounts(options, bundle),
        "linux": linux(options),
    })
}

fn mounts(options: &Options, bundle: &Path) -> Value {
    let mount = |to: &str, kind: &str, words: &str| {
        let words: Vec<_> = words.split(',').collect();
        json!({"destination": to, "type": kind, "source": kind, "options": words})
    };
    let mut list = vec![
        mount("/proc", "proc", "nosuid,noexec,nodev"),
        mount("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        mount("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
        mount("/sys/fs/cgroup", "cgroup", "ro,nosuid,noexec,nodev"),
        mount("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
        mount("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=67108864"),
    ];
    if let Some((path, words)) = options.tmpfs {
        let words = ["nosuid", "nodev", "noexec"].into_iter().chain(words.iter().copied());
        list.push(mount(path, "tmpfs", &words.collect::<Vec<_>>().join(",")));
    }
    for name in ["hosts", "hostname", "resolv.conf"] {
        let mut file = mount(&format!("/etc/{name}"), "bind", "rbind,rprivate");
        if options.read_only {
            file = mount(&format!("/etc/{name}"), "bind", "rbind,rprivate,ro");
        }
        file["source"] = json!(bundle.join(name));
        list.push(file);
    }
    json!(list)
}

fn linux(options: &Options) -> Value {
    let allow = |kind: &str, major: Option<u32>, minor: Option<u32>, access: &str| {
        let mut rule = json!({"allow": true, "type": kind, "access": access});
        if let Some(major) = major {
            rule["major"] = json!(major);
        }
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rule
    };
    let mut devices = vec![json!({"allow": false, "access": "rwm"})];
    devices.extend([allow("c", None, None, "m"), allow("b", None, None, "m")]);
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        devices.push(allow("c", Some(major), Some(minor), "rwm"));
    }
    devices.push(allow("c", Some(136), None, "rwm"));
    let namespaces =
        ["mount", "network", "uts", "pid", "ipc", "cgroup"].map(|kind| json!({"type": kind}));
    json!({
        "sysctl": {
            "net.ipv4.ip_unprivileged_port_start": "0",
            "net.ipv4.ping_group_range": "0 2147483647",
        },
        "resources": {
            "devices": devices,
            "memory": {"limit": options.memory_mib << 20, "swap": options.memory_mib << 20},
        },
        "namespaces": namespaces,
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
            "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
            "/proc/timer_stats", "/sys/devices/virtual/powercap",
            "/sys/devices/system/cpu/cpu0/thermal_throttle", "/sys/firmware",
        ],
        "readonlyPaths": [
            "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
        ],
    })
}
