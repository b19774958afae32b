//! What can be seen from here. What cannot be read is null, or the name of the error that says why.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::process::{Resource, getgid, getpid, getrlimit, getuid};
use rustix::system::uname;
use serde_json::{Value, json};
use vmm_protocol::CAPABILITIES;

use crate::calls::error_name;

/// The most that is read of a file, and the most names that are listed.
const LONGEST: u64 = 64 << 10;
const MOST: usize = 100;

/// The device number of /dev/null, which hides what a container is not to see (`Documentation/admin-guide/devices.txt`).
const NULL: u64 = 1 << 8 | 3;

/// Kernel parameters that would change the host, if it were the host's kernel.
const SYSCTLS: [&str; 10] = [
    "fs/file-max",
    "kernel/core_pattern",
    "kernel/hostname",
    "kernel/modprobe",
    "kernel/panic",
    "kernel/pid_max",
    "kernel/sysrq",
    "net/ipv4/ip_forward",
    "vm/drop_caches",
    "vm/overcommit_memory",
];

/// All facts.
pub(crate) fn all() -> Value {
    let name = uname();
    json!({
        "kernel": {
            "release": name.release().to_string_lossy(),
            "version": name.version().to_string_lossy(),
            "machine": name.machine().to_string_lossy(),
            "boot_id": line("/proc/sys/kernel/random/boot_id"),
            "command_line": line("/proc/cmdline"),
            "uptime_seconds": uptime(),
            "modules": text("/proc/modules").ok().map(|text| text.lines().count()),
            "dmesg": can_open("/dev/kmsg", OFlags::RDONLY),
            "symbol_addresses": symbol_addresses(),
            "clocksource": line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        },
        "identity": {
            "hostname": name.nodename().to_string_lossy(),
            "pid": getpid().as_raw_nonzero().get(),
            "uid": getuid().as_raw(),
            "gid": getgid().as_raw(),
            "user_map": line("/proc/self/uid_map").map(|line| words(&line)),
            "control_group": control_group(),
            "namespaces": namespaces(),
        },
        "processes": processes(),
        "devices": names("/dev"),
        "block_devices": names("/sys/block"),
        "network_interfaces": names("/sys/class/net"),
        "mounts": mounts(),
        "rights": rights(),
        "sysctls": sysctls(),
        "limits": limits(),
    })
}

/// The beginning of a file.
fn text(path: impl AsRef<Path>) -> io::Result<String> {
    let mut bytes = vec![];
    fs::File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The first line of a file.
fn line(path: &str) -> Option<String> {
    text(path).ok()?.lines().next().map(|line| line.trim().to_owned())
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The names in a directory, in order, and how many there are.
fn names(path: &str) -> Value {
    let Ok(entries) = fs::read_dir(path) else { return Value::Null };
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort_unstable();
    let count = names.len();
    names.truncate(MOST);
    json!({ "count": count, "names": names })
}

/// `yes`, `masked` if /dev/null lies over it, or the name of the error. It is opened, and neither read nor written.
pub(crate) fn can_open(path: &str, flags: OFlags) -> String {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match open(path, flags, Mode::empty()) {
        Ok(file) if fstat(&file).is_ok_and(|found| found.st_rdev == NULL) => "masked".into(),
        Ok(_) => "yes".into(),
        Err(error) => error_name(error.raw_os_error()),
    }
}

fn uptime() -> Option<f64> {
    line("/proc/uptime")?.split(' ').next()?.parse().ok()
}

/// Whether the addresses of the kernel's symbols are told: all are zero for those who may not know.
fn symbol_addresses() -> Option<bool> {
    let text = text("/proc/kallsyms").ok()?;
    let addresses =
        text.lines().filter_map(|line| u64::from_str_radix(line.split(' ').next()?, 16).ok());
    Some(addresses.take(MOST).any(|address| address != 0))
}

/// Of version 2.
fn control_group() -> Option<String> {
    text("/proc/self/cgroup")
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("0::").map(str::to_owned))
}

fn namespaces() -> Value {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let link = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).ok();
    let name = |kind: &str| link(kind).map(|path| path.to_string_lossy().into_owned());
    kinds.iter().map(|kind| ((*kind).to_owned(), json!(name(kind)))).collect()
}

/// How many processes are seen, and what some are called.
fn processes() -> Value {
    let Ok(entries) = fs::read_dir("/proc") else { return Value::Null };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    let shown = numbers.iter().take(MOST);
    let names: Vec<String> =
        shown.filter_map(|number| line(&format!("/proc/{number}/comm"))).collect();
    json!({ "count": numbers.len(), "names": names })
}

fn mounts() -> Value {
    let Ok(text) = text("/proc/self/mounts") else { return Value::Null };
    let shown: Vec<Value> = text
        .lines()
        .take(MOST)
        .map(words)
        .map(|words| json!({ "kind": words.get(2), "target": words.get(1), "source": words.first() }))
        .collect();
    json!({ "count": text.lines().count(), "mounts": shown })
}

/// What the kernel says that this process may do.
fn rights() -> Value {
    let status = text("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(value.trim().to_owned())
    };
    let number = |name: &str| field(name)?.parse::<u32>().ok();
    json!({
        "effective": field("CapEff").map(|bits| capabilities(&bits)),
        "bounding": field("CapBnd").map(|bits| capabilities(&bits)),
        "no_new_privileges": number("NoNewPrivs"),
        "seccomp": number("Seccomp"),
        "seccomp_filters": number("Seccomp_filters"),
    })
}

/// Names of the capabilities in a hexadecimal mask; a number for those without.
fn capabilities(mask: &str) -> Vec<String> {
    let mask = u64::from_str_radix(mask, 16).unwrap_or(0);
    let name = |bit: usize| {
        CAPABILITIES.get(bit).map_or_else(|| bit.to_string(), |name| (*name).to_owned())
    };
    (0..64).filter(|bit| mask >> bit & 1 == 1).map(name).collect()
}

/// Which parameters could be written. They are opened and not written.
fn sysctls() -> Value {
    let writable = |name: &&str| can_open(&format!("/proc/sys/{name}"), OFlags::WRONLY);
    SYSCTLS.iter().map(|name| ((*name).to_owned(), json!(writable(name)))).collect()
}

/// What seems to be there, and what may be used of it.
fn limits() -> Value {
    let memory = text("/proc/meminfo").unwrap_or_default();
    let total = memory.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok()
    });
    let processors = text("/proc/cpuinfo")
        .ok()
        .map(|text| text.lines().filter(|line| line.starts_with("processor")).count());
    let group = |name: &str| line(&format!("/sys/fs/cgroup/{name}"));
    let processes = getrlimit(Resource::Nproc).current;
    let files = getrlimit(Resource::Nofile).current;
    json!({
        "memory": { "seen_bytes": total.map(|kib| kib.saturating_mul(1024)), "enforced": group("memory.max") },
        "processes": { "seen": line("/proc/sys/kernel/pid_max"), "enforced": group("pids.max"), "of_user": processes },
        "processors": {
            "seen": processors,
            "usable": std::thread::available_parallelism().ok(),
            "enforced": group("cpu.max"),
        },
        "open_files": files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_those_of_the_kernel() {
        let facts = all();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(facts["kernel"]["release"], release.trim());
        assert_eq!(facts["identity"]["pid"], std::process::id());
        assert!(facts["kernel"]["uptime_seconds"].as_f64().unwrap() > 0.0);
        assert!(facts["processes"]["count"].as_u64().unwrap() > 1);
        assert!(facts["limits"]["memory"]["seen_bytes"].as_u64().unwrap() > 1 << 20);
        assert_eq!(
            facts["limits"]["processors"]["seen"].as_u64().unwrap(),
            u64::try_from(
                fs::read_to_string("/proc/cpuinfo").unwrap().matches("processor\t").count()
            )
            .unwrap()
        );
        assert!(facts["devices"]["names"].as_array().unwrap().contains(&json!("null")));
        assert!(facts["mounts"]["count"].as_u64().unwrap() > 0);
    }

    #[test]
    fn what_is_not_there_is_no_fact() {
        assert_eq!(names("/no/such"), Value::Null);
        assert_eq!(line("/no/such"), None);
        assert_eq!(can_open("/no/such", OFlags::RDONLY), "ENOENT");
        assert_eq!(can_open("/dev/zero", OFlags::WRONLY), "yes");
        assert_eq!(can_open("/dev/null", OFlags::WRONLY), "masked");
    }

    #[test]
    fn capabilities_have_their_names() {
        assert_eq!(capabilities("2001"), ["CHOWN", "NET_RAW"]);
        assert_eq!(capabilities("8000000000000000"), ["63"]);
        assert_eq!(capabilities("x"), Vec::<String>::new());
    }
}
