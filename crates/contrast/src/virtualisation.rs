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
    /// Finds it in /proc/cpuinfo, by what the hypervisor calls itself, and by whether KVM is a program.
    pub(crate) fn find(cpuinfo: &str, hypervisor: Option<&str>, software: bool) -> Self {
        let has = |flag: &str| {
            let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
            flags.is_some_and(|flags| flags.split_whitespace().any(|own| own == flag))
        };
        match (has("hypervisor"), hypervisor) {
            (_, Some(EMULATOR)) => Self::Emulated,
            _ if software => Self::SoftwareVirtualised,
            (false, None) => Self::Hardware,
            _ if has("vmx") || has("svm") => Self::Nested,
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

/// What QEMU's emulator calls itself.
const EMULATOR: &str = "TCGTCGTCGTCG";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_apart() {
        let find = |flags: &str, hypervisor, software| {
            Virtualisation::find(&format!("flags : {flags}"), hypervisor, software)
        };
        assert_eq!(find("fpu vmx", None, false), Virtualisation::Hardware);
        assert_eq!(find("fpu hypervisorx", None, true), Virtualisation::SoftwareVirtualised);
        let kvm = Some("KVMKVMKVM");
        assert_eq!(find("fpu hypervisor svm", kvm, false), Virtualisation::Nested);
        assert_eq!(find("fpu hypervisor", None, false), Virtualisation::Virtual);
        assert_eq!(find("", Some("linux,dummy-virt"), false), Virtualisation::Virtual);
        assert_eq!(find("hypervisor svm", Some(EMULATOR), true), Virtualisation::Emulated);
        assert!(Virtualisation::Emulated.caveat().unwrap().contains("emulated"));
        assert_eq!(Virtualisation::Nested.caveat(), None);
    }
}
