//! Judging what was found on the host.

use serde::Serialize;

use super::facts::{Kvm, KvmState, Limits, Memory, Passt, Tun};
use super::probe::KvmMode;

/// Something a guest misses on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// The command or the step that helps.
    pub fix: String,
    /// Whether no ordinary guest runs because of it.
    pub blocks: bool,
}

impl Problem {
    fn blocking(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into(), blocks: true }
    }

    fn note(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into(), blocks: false }
    }
}

/// Least available memory worth starting a guest with, in MiB.
const LEAST_MEMORY_MIB: u64 = 64;

/// A machine of many CPUs and disks holds some hundred files open.
const LEAST_OPEN_FILES: u64 = 256;

/// An address space below this leaves no room for an ordinary guest's memory.
const LEAST_ADDRESS_SPACE: u64 = 1 << 30;

/// Everything that is missing: what blocks guests first.
pub(super) fn find(
    kvm: &Kvm,
    tun: &Tun,
    passt: &Passt,
    memory: &Memory,
    limits: &Limits,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    problems.extend(kvm_problem(kvm));
    problems.extend(memory_problem(memory));
    problems.extend(tun_problem(tun));
    problems.extend(passt_problem(passt));
    problems.extend(limit_problems(limits));
    problems
}

fn kvm_problem(kvm: &Kvm) -> Option<Problem> {
    if !kvm.present {
        return Some(absent_kvm(kvm, std::env::consts::ARCH));
    }
    if !kvm.permitted {
        return Some(Problem::blocking(
            "this user may not open /dev/kvm",
            "sudo usermod -aG kvm $USER, then log in again",
        ));
    }
    match kvm.mode {
        KvmState::Hardware => None,
        KvmState::Software => {
            let (what, fix) = KvmMode::Software.explanation()?;
            Some(Problem::blocking(what, fix))
        }
        KvmState::Unavailable => {
            let error = kvm.error.as_deref().unwrap_or("no reason given");
            Some(Problem::blocking(
                format!("no guest runs on /dev/kvm: {error}"),
                "stop other hypervisors (VirtualBox, VMware), and see sudo dmesg | grep -i kvm",
            ))
        }
    }
}

/// Why an `architecture` has no KVM, and how it gets one.
fn absent_kvm(kvm: &Kvm, architecture: &str) -> Problem {
    let what = "there is no /dev/kvm";
    match kvm.extension {
        Some("svm") => Problem::blocking(what, "sudo modprobe kvm_amd"),
        Some("vmx") => Problem::blocking(what, "sudo modprobe kvm_intel"),
        _ if architecture == "aarch64" => Problem::blocking(
            "there is no /dev/kvm: the kernel has no KVM, or was not started at EL2",
            "use a host whose firmware starts the kernel at EL2; `make run` boots inside an emulated machine",
        ),
        _ if kvm.nested => Problem::blocking(
            "there is no /dev/kvm: this machine is a virtual machine without nested virtualisation",
            "enable nested virtualisation on its host; `make run` boots inside an emulated machine",
        ),
        _ => Problem::blocking(
            "there is no /dev/kvm: the processor shows no virtualisation extension",
            "enable SVM or VT-x in the firmware; `make run` boots inside an emulated machine",
        ),
    }
}

fn memory_problem(memory: &Memory) -> Option<Problem> {
    (memory.available_mib < LEAST_MEMORY_MIB).then(|| {
        let what = format!("only {} MiB of memory are available", memory.available_mib);
        Problem::blocking(what, "end other programs, or add memory")
    })
}

fn tun_problem(tun: &Tun) -> Option<Problem> {
    if !tun.present {
        return Some(Problem::note("there is no /dev/net/tun: no --net tap=", "sudo modprobe tun"));
    }
    if !tun.permitted {
        return Some(Problem::note(
            "/dev/net/tun cannot be opened: no --net tap=",
            "sudo chmod 0666 /dev/net/tun, and in a container add --device /dev/net/tun",
        ));
    }
    (!tun.may_create).then(|| {
        Problem::note(
            "this user may not create network interfaces: --net tap= needs one that was made for it",
            "sudo ip tuntap add dev tap0 mode tap user $USER && sudo ip link set tap0 up",
        )
    })
}

fn passt_problem(passt: &Passt) -> Option<Problem> {
    passt.path.is_none().then(|| {
        Problem::note("passt is not installed: no --net user", "sudo apt-get install passt")
    })
}

fn limit_problems(limits: &Limits) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(files) = limits.open_files.filter(|files| *files < LEAST_OPEN_FILES) {
        let what = format!("this process may open {files} files, large machines need more");
        problems.push(Problem::note(what, "ulimit -n 1024"));
    }
    if let Some(bytes) = limits.address_space.filter(|bytes| *bytes < LEAST_ADDRESS_SPACE) {
        let what = format!("the address space is limited to {} MiB", bytes >> 20);
        problems.push(Problem::note(what, "ulimit -v unlimited"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kvm() -> Kvm {
        Kvm {
            present: true,
            permitted: true,
            api_version: Some(12),
            mode: KvmState::Hardware,
            instructions_per_second: Some(1_000_000_000),
            error: None,
            module: Some("kvm_amd"),
            vendor: Some("AuthenticAMD".to_owned()),
            extension: Some("svm"),
            nested: false,
            hypervisor: None,
            max_cpus: Some(1024),
        }
    }

    const TUN: Tun = Tun { present: true, permitted: true, may_create: true };
    const MEMORY: Memory = Memory { total_mib: 8192, available_mib: 4096 };
    const LIMITS: Limits = Limits {
        open_files: Some(1024),
        locked_memory: Some(8 << 20),
        address_space: None,
        processes: None,
    };

    fn passt() -> Passt {
        Passt { path: Some("/usr/bin/passt".into()) }
    }

    fn only(kvm: &Kvm, tun: &Tun, memory: &Memory, limits: &Limits) -> Problem {
        let mut problems = find(kvm, tun, &passt(), memory, limits);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }

    #[test]
    fn complete_host_has_no_problem() {
        assert_eq!(find(&kvm(), &TUN, &passt(), &MEMORY, &LIMITS), []);
    }

    #[test]
    fn missing_passt_is_a_note_with_its_package() {
        let problems = find(&kvm(), &TUN, &Passt { path: None }, &MEMORY, &LIMITS);
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        assert!(!problem.blocks && problem.fix.contains("install passt"), "{problem:?}");
    }

    #[test]
    fn each_way_of_missing_kvm_has_its_own_fix() {
        let absent = Kvm { present: false, permitted: false, ..kvm() };
        let nested = Kvm { extension: None, nested: true, ..absent.clone() };
        let bare = Kvm { nested: false, ..nested.clone() };
        for (architecture, kvm, fix) in [
            ("x86_64", &absent, "modprobe kvm_amd"),
            ("x86_64", &Kvm { extension: Some("vmx"), ..absent.clone() }, "modprobe kvm_intel"),
            ("x86_64", &nested, "nested virtualisation"),
            ("x86_64", &bare, "enable SVM or VT-x in the firmware"),
            ("aarch64", &bare, "EL2"),
        ] {
            let problem = absent_kvm(kvm, architecture);
            assert!(problem.blocks && problem.fix.contains(fix), "{problem:?}");
        }
        assert_eq!(only(&bare, &TUN, &MEMORY, &LIMITS), absent_kvm(&bare, std::env::consts::ARCH));
        let cases = [
            (Kvm { permitted: false, ..kvm() }, "usermod -aG kvm"),
            (Kvm { mode: KvmState::Software, ..kvm() }, "hardware virtualisation"),
            (Kvm { mode: KvmState::Unavailable, ..kvm() }, "dmesg"),
        ];
        for (kvm, fix) in cases {
            let problem = only(&kvm, &TUN, &MEMORY, &LIMITS);
            assert!(problem.blocks && problem.fix.contains(fix), "{problem:?}");
        }
    }

    #[test]
    fn missing_network_and_low_limits_do_not_block_guests() {
        let tuns = [
            Tun { present: false, permitted: false, may_create: true },
            Tun { permitted: false, ..TUN },
            Tun { may_create: false, ..TUN },
        ];
        for tun in tuns {
            assert!(!only(&kvm(), &tun, &MEMORY, &LIMITS).blocks);
        }
        for limits in [
            Limits { open_files: Some(64), ..LIMITS },
            Limits { address_space: Some(512 << 20), ..LIMITS },
        ] {
            assert!(!only(&kvm(), &TUN, &MEMORY, &limits).blocks);
        }
    }

    #[test]
    fn too_little_memory_blocks_guests() {
        let memory = Memory { available_mib: 63, ..MEMORY };
        assert!(only(&kvm(), &TUN, &memory, &LIMITS).blocks);
    }
}
