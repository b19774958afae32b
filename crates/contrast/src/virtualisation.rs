//! What runs this host: hardware, a hypervisor, or an emulator.

use serde::{Deserialize, Serialize};

/// What runs this host, and so what its times are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Virtualisation {
    /// Nothing but hardware.
    Hardware,
    /// A virtual machine whose processor runs guests of its own in hardware.
    Nested,
    /// A virtual machine whose KVM runs guests in software.
    SoftwareVirtualised,
    /// A virtual machine without virtualisation of its own.
    Virtual,
    /// A processor that is a program.
    Emulated,
}

impl Virtualisation {
    /// Finds it in /proc/cpuinfo, by what the hypervisor calls itself, and by who executes guests of KVM, if there
    /// is one: `hardware` or `software`.
    pub(crate) fn find(cpuinfo: &str, hypervisor: Option<&str>, kvm: Option<&str>) -> Self {
        let has = |flag: &str| {
            let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
            flags.is_some_and(|flags| flags.split_whitespace().any(|own| own == flag))
        };
        match (has("hypervisor"), hypervisor) {
            (_, Some(EMULATOR)) => Self::Emulated,
            (_, Some(MACHINE)) if cpuinfo.lines().any(is_emulated_timer) => Self::Emulated,
            _ if kvm == Some("software") => Self::SoftwareVirtualised,
            (false, None) => Self::Hardware,
            _ if has("vmx") || has("svm") || kvm == Some("hardware") => Self::Nested,
            _ => Self::Virtual,
        }
    }

    /// How reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Nested => "nested",
            Self::SoftwareVirtualised => "software-virtualised",
            Self::Virtual => "virtual",
            Self::Emulated => "emulated",
        }
    }

    /// What a title has to say about it; nothing about a host whose times are what they seem.
    pub const fn caveat(self) -> Option<&'static str> {
        match self {
            Self::Hardware | Self::Nested | Self::Virtual => None,
            Self::SoftwareVirtualised => {
                Some("on a software-virtualised KVM: guests are slower than on hardware")
            }
            Self::Emulated => Some("on an emulated host: only ratios mean anything"),
        }
    }
}

/// What QEMU's emulator calls itself on x86_64.
const EMULATOR: &str = "TCGTCGTCGTCG";

/// How device trees name virtual machines of aarch64, whatever executes their instructions.
const MACHINE: &str = "linux,dummy-virt";

/// Whether a line of /proc/cpuinfo tells of the timer that QEMU's emulator has on aarch64: 62.5 MHz, which Linux shows
/// doubled. A processor that executes the machine's instructions itself has a timer of its own.
fn is_emulated_timer(line: &str) -> bool {
    let pair = line.split_once(':').map(|(key, value)| (key.trim(), value.trim()));
    pair == Some(("BogoMIPS", "125.00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_apart() {
        let find = |flags: &str, hypervisor, kvm| {
            Virtualisation::find(&format!("flags : {flags}"), hypervisor, kvm)
        };
        let (hardware, software) = (Some("hardware"), Some("software"));
        assert_eq!(find("fpu vmx", None, hardware), Virtualisation::Hardware);
        assert_eq!(find("fpu hypervisorx", None, software), Virtualisation::SoftwareVirtualised);
        let kvm = Some("KVMKVMKVM");
        assert_eq!(find("fpu hypervisor svm", kvm, None), Virtualisation::Nested);
        assert_eq!(find("fpu hypervisor", None, None), Virtualisation::Virtual);
        assert_eq!(find("hypervisor svm", Some(EMULATOR), software), Virtualisation::Emulated);
        let arm = |mips: &str, hypervisor, kvm| {
            Virtualisation::find(&format!("BogoMIPS\t: {mips}\n"), hypervisor, kvm)
        };
        assert_eq!(arm("125.00", None, hardware), Virtualisation::Hardware);
        assert_eq!(arm("50.00", Some(MACHINE), None), Virtualisation::Virtual);
        assert_eq!(arm("50.00", Some(MACHINE), hardware), Virtualisation::Nested);
        assert_eq!(arm("125.00", Some(MACHINE), hardware), Virtualisation::Emulated);
        assert!(Virtualisation::Emulated.caveat().unwrap().contains("emulated"));
        assert_eq!(Virtualisation::Nested.caveat(), None);
    }
}
