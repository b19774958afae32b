//! What numbers of this host depend on, noted down beside them.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::virtualisation::Virtualisation;

/// The host, as far as it says. What it does not say is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The name of the processor.
    pub cpu: Option<String>,
    /// How many processors this process may use.
    pub cpus: usize,
    /// Version of the processor's microcode.
    pub microcode: Option<String>,
    /// Release of the kernel.
    pub kernel: Option<String>,
    /// What runs this host.
    pub virtualisation: Virtualisation,
    /// What the host's hypervisor calls itself.
    pub hypervisor: Option<String>,
    /// What `vmm doctor` says about /dev/kvm.
    pub kvm: Option<String>,
    /// Transparent huge pages.
    pub thp: Option<String>,
    /// Whether KVM splits huge pages of guests that execute them.
    pub nx_huge_pages: Option<String>,
    /// Version of control groups: 1 or 2.
    pub cgroup: Option<u8>,
    /// Whether moving processes between control groups is made fast.
    pub favordynmods: Option<bool>,
    /// What sets the clock rate of the processors.
    pub governor: Option<String>,
    /// Threads of one core.
    pub smt: Option<String>,
    /// The clock of the kernel.
    pub clocksource: Option<String>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// How many file systems are mounted.
    pub mounts: usize,
    /// The file system with the unpacked root file systems.
    pub rootfs_filesystem: Option<String>,
    /// Runnable processes, averaged over a minute, before the first run.
    pub load: Option<f64>,
}

/// What `vmm doctor` says about KVM and what is below it.
#[derive(Debug, Clone, PartialEq)]
pub struct Kvm {
    /// Who executes guest kernel code.
    pub mode: String,
    /// What the hypervisor of this host calls itself.
    pub hypervisor: Option<String>,
}

impl Fingerprint {
    /// Looks at this host; `kvm` is what is known about its KVM, `rootfs` where root file systems are.
    pub fn take(kvm: Option<Kvm>, rootfs: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let (mode, hypervisor) = kvm.map(|kvm| (kvm.mode, kvm.hypervisor)).unzip();
        let hypervisor = hypervisor.flatten();
        let virtualisation = Virtualisation::find(&cpuinfo, hypervisor.as_deref(), mode.as_deref());
        Self {
            cpu: value(&cpuinfo, "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            microcode: value(&cpuinfo, "microcode"),
            kernel: line("/proc/sys/kernel/osrelease"),
            virtualisation,
            hypervisor,
            kvm: mode,
            thp: line("/sys/kernel/mm/transparent_hugepage/enabled").map(|text| chosen(&text)),
            nx_huge_pages: line("/sys/module/kvm/parameters/nx_huge_pages"),
            cgroup: cgroup(&mounts),
            favordynmods: favordynmods(&mounts),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            smt: line("/sys/devices/system/cpu/smt/control"),
            clocksource: line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            memory_bytes: memory(),
            mounts: mounts.lines().count(),
            rootfs_filesystem: filesystem(&mounts, rootfs),
            load: load(),
        }
    }
}

/// The average load of the last minute.
pub fn load() -> Option<f64> {
    line("/proc/loadavg")?.split(' ').next()?.parse().ok()
}

/// The first line of a file.
fn line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}

/// What stands behind the first `key` of a list of `key : value` lines.
fn value(text: &str, key: &str) -> Option<String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.filter(|(own, _)| own.trim() == key).map(|(_, value)| value.trim().to_owned()).next()
}

/// The word in brackets, which is the one of all that is chosen.
fn chosen(text: &str) -> String {
    let inner = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or(text, |(word, _)| word).to_owned()
}

/// Mounts as fields: what, where, type, options.
fn fields(mounts: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?, words.next()?))
    })
}

fn cgroup(mounts: &str) -> Option<u8> {
    let types: Vec<_> = fields(mounts).map(|(_, kind, _)| kind).collect();
    match (types.contains(&"cgroup"), types.contains(&"cgroup2")) {
        // Where both are, controllers are those of the first version.
        (true, _) => Some(1),
        (false, true) => Some(2),
        _ => None,
    }
}

fn favordynmods(mounts: &str) -> Option<bool> {
    let (.., options) = fields(mounts).find(|(_, kind, _)| *kind == "cgroup2")?;
    Some(options.split(',').any(|option| option == "favordynmods"))
}

/// The type of the file system that has `path`: that of the longest mount point above it.
fn filesystem(mounts: &str, path: &Path) -> Option<String> {
    let above = fields(mounts).filter(|(at, ..)| path.starts_with(at));
    above.max_by_key(|(at, ..)| at.len()).map(|(_, kind, _)| kind.to_owned())
}

fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 = value(&text, "MemTotal")?.strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "/dev/vda / ext4 rw 0 0\ntmpfs /run tmpfs rw,nosuid 0 0\n\
                          cgroup2 /sys/fs/cgroup cgroup2 rw,favordynmods 0 0\n";

    #[test]
    fn mounts_tell_control_groups_and_file_systems() {
        assert_eq!((cgroup(MOUNTS), favordynmods(MOUNTS)), (Some(2), Some(true)));
        assert_eq!(cgroup("cgroup /c cgroup rw 0 0\ncgroup2 /u cgroup2 rw 0 0"), Some(1));
        assert_eq!(filesystem(MOUNTS, Path::new("/run/x")).as_deref(), Some("tmpfs"));
        assert_eq!(filesystem(MOUNTS, Path::new("/runner")).as_deref(), Some("ext4"));
    }

    #[test]
    fn values_are_found_by_their_whole_key() {
        assert_eq!(value("model\t: 1\nmodel name\t: A B\n", "model name").as_deref(), Some("A B"));
        assert_eq!(chosen("always [madvise] never"), "madvise");
    }

    #[test]
    fn this_host_has_a_kernel_and_a_load() {
        let found = Fingerprint::take(None, Path::new("/"));
        assert!(found.kernel.is_some() && found.load.is_some() && found.cpus > 0, "{found:?}");
    }
}
