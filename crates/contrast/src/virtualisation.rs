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
    /// Finds it in /proc/cpuinfo, the processor's own word and whether KVM is a program; and what the hypervisor
    /// calls itself.
    pub(crate) fn find(cpuinfo: &str, software: bool) -> (Self, Option<String>) {
        let has = |flag: &str| {
            let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
            flags.is_some_and(|flags| flags.split_whitespace().any(|own| own == flag))
        };
        let hypervisor = has("hypervisor").then(hypervisor).flatten();
        let kind = match (has("hypervisor"), hypervisor.as_deref()) {
            (_, Some(EMULATOR)) => Self::Emulated,
            _ if software => Self::SoftwareVirtualised,
            (false, _) => Self::Hardware,
            (true, _) if has("vmx") || has("svm") => Self::Nested,
            (true, _) => Self::Virtual,
        };
        (kind, hypervisor)
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

/// The name in CPUID leaf 0x40000000, which hypervisors use.
#[cfg(target_arch = "x86_64")]
fn hypervisor() -> Option<String> {
    let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
    let bytes: Vec<u8> =
        [leaf.ebx, leaf.ecx, leaf.edx].iter().flat_map(|r| r.to_le_bytes()).collect();
    let name = String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
    (!name.is_empty()).then_some(name)
}

/// Other processors have no such place.
#[cfg(not(target_arch = "x86_64"))]
fn hypervisor() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_apart() {
        let find =
            |flags: &str, software| Virtualisation::find(&format!("flags : {flags}"), software).0;
        assert_eq!(find("fpu vmx", false), Virtualisation::Hardware);
        assert_eq!(find("fpu hypervisorx", true), Virtualisation::SoftwareVirtualised);
        assert!(Virtualisation::Emulated.caveat().unwrap().contains("emulated"));
        assert_eq!(Virtualisation::Nested.caveat(), None);
    }
}
