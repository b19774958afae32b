//! Looking at the host, without a judgement.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use rustix::thread::CapabilitySet;
use serde::Serialize;

use super::probe::{KvmMode, probe};
use crate::arch::hypervisor;
use crate::config::Host;

const KVM_PATH: &str = "/dev/kvm";
const TUN_PATH: &str = "/dev/net/tun";

/// Modules that can be behind /dev/kvm.
const KVM_MODULES: [&str; 3] = ["kvm_amd", "kvm_intel", "kvm_pvm"];

/// The kernel's virtual machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kvm {
    /// Whether /dev/kvm exists.
    pub present: bool,
    /// Whether this process may open it for reading and writing.
    pub permitted: bool,
    /// Version of its API, where it could be opened.
    pub api_version: Option<i32>,
    /// Who executes guest kernel code.
    pub mode: KvmState,
    /// Guest kernel instructions per second that the probe's guest made.
    pub instructions_per_second: Option<u64>,
    /// Why the probe's guest did not run.
    pub error: Option<String>,
    /// Loaded module behind /dev/kvm, as far as it can be told.
    pub module: Option<&'static str>,
    /// Vendor of the processor as it names itself.
    pub vendor: Option<String>,
    /// Virtualisation extension of the processor: `svm` or `vmx`.
    pub extension: Option<&'static str>,
    /// Whether this host is a virtual machine itself.
    pub nested: bool,
    /// What the hypervisor of this host calls itself.
    pub hypervisor: Option<String>,
    /// Most virtual CPUs of one machine, where KVM could be asked.
    pub max_cpus: Option<usize>,
}

/// Who executes guest kernel code, if anyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KvmState {
    /// The processor.
    Hardware,
    /// KVM's instruction emulator.
    Software,
    /// Nobody: no guest runs.
    Unavailable,
}

impl Kvm {
    pub(super) fn examine() -> Self {
        let access = Access::of(KVM_PATH);
        let kvm = access.usable.then(kvm_ioctls::Kvm::new).and_then(Result::ok);
        let probed = kvm.is_some().then(probe);
        let cpu = CpuInfo::read();
        let hypervisor = hypervisor();
        let (mode, speed, error) = match probed {
            Some(Ok(probe)) => (KvmState::from(probe.mode), Some(probe.speed), None),
            Some(Err(error)) => (KvmState::Unavailable, None, Some(chain(&error))),
            None => (KvmState::Unavailable, None, access.error),
        };
        Self {
            present: access.present,
            permitted: access.permitted,
            api_version: kvm.as_ref().map(kvm_ioctls::Kvm::get_api_version),
            mode,
            instructions_per_second: speed,
            error,
            module: KVM_MODULES
                .into_iter()
                .find(|name| Path::new("/sys/module").join(name).exists()),
            vendor: cpu.vendor,
            extension: cpu.extension,
            nested: cpu.nested || hypervisor.is_some(),
            hypervisor,
            max_cpus: kvm.as_ref().map(kvm_ioctls::Kvm::get_max_vcpus),
        }
    }
}

/// The error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

impl From<KvmMode> for KvmState {
    fn from(mode: KvmMode) -> Self {
        match mode {
            KvmMode::Hardware => Self::Hardware,
            KvmMode::Software => Self::Software,
        }
    }
}

impl fmt::Display for Kvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.present {
            return write!(f, "no {KVM_PATH}");
        }
        if !self.permitted {
            return write!(f, "{KVM_PATH}, not permitted");
        }
        let mode = match self.mode {
            KvmState::Hardware => "hardware virtualisation",
            KvmState::Software => "guest kernel code is emulated",
            KvmState::Unavailable => "no guest runs",
        };
        write!(f, "{KVM_PATH}, {mode}")?;
        if let Some(version) = self.api_version {
            write!(f, ", API {version}")?;
        }
        for part in [self.module, self.vendor.as_deref()].into_iter().flatten() {
            write!(f, ", {part}")?;
        }
        match self.instructions_per_second {
            Some(speed) => write!(f, ", {} million instructions/s", speed.div_ceil(1_000_000)),
            None => Ok(()),
        }
    }
}

/// The device that makes TAP interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tun {
    /// Whether /dev/net/tun exists.
    pub present: bool,
    /// Whether this process may open it.
    pub permitted: bool,
    /// Whether this process may create interfaces (CAP_NET_ADMIN), and not only use those that
    /// were made for its user.
    pub may_create: bool,
}

impl Tun {
    pub(super) fn examine() -> Self {
        let access = Access::of(TUN_PATH);
        let may_create = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN));
        Self { present: access.present, permitted: access.usable, may_create }
    }
}

impl fmt::Display for Tun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.present, self.permitted, self.may_create) {
            (false, ..) => write!(f, "no {TUN_PATH}"),
            (_, false, _) => write!(f, "{TUN_PATH}, not usable"),
            (.., true) => write!(f, "{TUN_PATH}, may create interfaces"),
            _ => write!(f, "{TUN_PATH}, only interfaces made for this user"),
        }
    }
}

/// The program behind user networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Passt {
    /// Where it is, if it is installed.
    pub path: Option<PathBuf>,
}

impl Passt {
    pub(super) fn examine() -> Self {
        Self { path: find_program("passt", &std::env::var_os("PATH").unwrap_or_default()) }
    }
}

/// The first program `name` in the directories of `path`.
fn find_program(name: &str, path: &OsStr) -> Option<PathBuf> {
    let programs = std::env::split_paths(path).map(|directory| directory.join(name));
    let mut runnable =
        programs.filter(|program| rustix::fs::access(program, rustix::fs::Access::EXEC_OK).is_ok());
    runnable.find(|program| program.is_file())
}

impl fmt::Display for Passt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}", path.display()),
            None => write!(f, "not installed"),
        }
    }
}

/// Memory of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All of it in MiB.
    pub total_mib: u64,
    /// What can be used without swapping in MiB.
    pub available_mib: u64,
}

impl Memory {
    pub(super) fn examine() -> Self {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total_mib = Host::read().memory.bytes() >> 20;
        Self { total_mib, available_mib: available_kib(&text).map_or(total_mib, |kib| kib >> 10) }
    }
}

/// The line `MemAvailable:   123 kB`.
fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB available of {} MiB", self.available_mib, self.total_mib)
    }
}

/// Limits of this process; absent where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Open files (RLIMIT_NOFILE).
    pub open_files: Option<u64>,
    /// Locked memory in bytes (RLIMIT_MEMLOCK).
    pub locked_memory: Option<u64>,
    /// Address space in bytes (RLIMIT_AS).
    pub address_space: Option<u64>,
    /// Threads and processes of the user (RLIMIT_NPROC).
    pub processes: Option<u64>,
}

impl Limits {
    pub(super) fn examine() -> Self {
        Self {
            open_files: getrlimit(Resource::Nofile).current,
            locked_memory: getrlimit(Resource::Memlock).current,
            address_space: getrlimit(Resource::As).current,
            processes: getrlimit(Resource::Nproc).current,
        }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |limit: Option<u64>| limit.map_or("any".to_owned(), |limit| limit.to_string());
        let mib =
            |limit: Option<u64>| limit.map_or("any".to_owned(), |b| format!("{} MiB", b >> 20));
        write!(
            f,
            "{} open files, {} processes, {} of locked memory, {} of address space",
            shown(self.open_files),
            shown(self.processes),
            mib(self.locked_memory),
            mib(self.address_space)
        )
    }
}

/// What opening a device for reading and writing says.
struct Access {
    present: bool,
    permitted: bool,
    usable: bool,
    error: Option<String>,
}

impl Access {
    fn of(path: &str) -> Self {
        let opened: std::io::Result<File> = OpenOptions::new().read(true).write(true).open(path);
        let kind = opened.as_ref().err().map(std::io::Error::kind);
        Self {
            present: kind != Some(ErrorKind::NotFound),
            permitted: !matches!(kind, Some(ErrorKind::PermissionDenied | ErrorKind::NotFound)),
            usable: opened.is_ok(),
            error: opened.err().map(|error| format!("open {path}: {error}")),
        }
    }
}

/// What /proc/cpuinfo says of the first processor.
#[derive(Debug, Default, PartialEq, Eq)]
struct CpuInfo {
    vendor: Option<String>,
    extension: Option<&'static str>,
    nested: bool,
}

impl CpuInfo {
    fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .find_map(|(name, value)| (name.trim() == key).then(|| value.trim()))
        };
        let has = |flag: &str| {
            value("flags").is_some_and(|flags| flags.split_whitespace().any(|word| word == flag))
        };
        Self {
            vendor: value("vendor_id")
                .or_else(|| implementer(value("CPU implementer")?))
                .map(str::to_owned),
            extension: ["svm", "vmx"].into_iter().find(|flag| has(flag)),
            nested: has("hypervisor"),
        }
    }
}

/// Names of the numbers that are in Arm's `MIDR_EL1` for its implementer.
fn implementer(number: &str) -> Option<&'static str> {
    const NAMES: [(&str, &str); 8] = [
        ("0x41", "Arm"),
        ("0x46", "Fujitsu"),
        ("0x48", "HiSilicon"),
        ("0x4e", "NVIDIA"),
        ("0x50", "Applied Micro"),
        ("0x51", "Qualcomm"),
        ("0x61", "Apple"),
        ("0xc0", "Ampere"),
    ];
    NAMES.iter().find(|(own, _)| *own == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_tells_vendor_extension_and_nesting() {
        let text = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu svm hypervisor\n\n";
        let info = CpuInfo::parse(text);
        assert_eq!(info.vendor.as_deref(), Some("AuthenticAMD"));
        assert_eq!((info.extension, info.nested), (Some("svm"), true));
        assert_eq!(CpuInfo::parse("flags : svm_lock\n").extension, None);
        assert_eq!(CpuInfo::parse(""), CpuInfo::default());
        let info = CpuInfo::parse("processor\t: 0\nCPU implementer\t: 0x41\n");
        assert_eq!(info.vendor.as_deref(), Some("Arm"));
    }

    #[test]
    fn meminfo_tells_available_memory() {
        assert_eq!(available_kib("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2048));
        assert_eq!(available_kib("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn missing_device_is_neither_present_nor_permitted() {
        let access = Access::of("/dev/no-such-device");
        assert!(!access.present && !access.permitted && !access.usable);
        assert!(access.error.is_some());
    }

    #[test]
    fn program_is_the_first_that_can_be_run() {
        let dirs = [(); 3].map(|()| tempfile::tempdir().expect("temporary directory"));
        let program = |index: usize| dirs[index].path().join("passt");
        std::fs::write(program(0), "").expect("write");
        std::fs::create_dir(program(1)).expect("directory");
        let path = std::env::join_paths(dirs.iter().map(tempfile::TempDir::path)).expect("path");
        assert_eq!(find_program("passt", &path), None);
        std::os::unix::fs::symlink("/bin/true", program(2)).expect("link");
        assert_eq!(find_program("passt", &path), Some(program(2)));
        assert_eq!(find_program("passt", OsStr::new("")), None);
    }
}
