//! The CPUID leaves of a guest processor: what KVM offers, less what a guest shall not have, plus this
//! guest's topology and the clock frequencies (Intel SDM 2A, "CPUID"; AMD APM 3, appendix E;
//! Linux: Documentation/virt/kvm/x86/cpuid.rst).

mod topology;

use kvm_bindings::kvm_cpuid_entry2;

/// Which of a guest's processors the leaves are for, and how its clock runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct GuestCpu {
    /// Number of this vCPU, which is its APIC id.
    pub(super) index: u8,
    /// Number of vCPUs.
    pub(super) count: u8,
    /// Frequency of its TSC in kHz, if KVM knows it.
    pub(super) tsc_khz: Option<u32>,
    /// Whether its local APIC timer can wait for a TSC value.
    pub(super) tsc_deadline: bool,
}

/// The base of the leaves that describe the hypervisor.
const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// TSC and APIC timer frequency in kHz, a leaf that hypervisors share.
const HYPERVISOR_TIMING: u32 = 0x4000_0010;
/// The frequency at which KVM's local APIC timer counts.
const APIC_TIMER_HZ: u32 = 1_000_000_000;

/// Leaf 1, ECX.
const VMX: u32 = 1 << 5;
const PERF_CAPABILITIES: u32 = 1 << 15;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 7, EBX.
const SGX: u32 = 1 << 2;
const PROCESSOR_TRACE: u32 = 1 << 25;
/// Leaf 7, ECX.
const WAITPKG: u32 = 1 << 5;
const SGX_LAUNCH: u32 = 1 << 30;
/// Leaf 0x8000_0001, ECX.
const SVM: u32 = 1 << 2;
const PERF_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;

/// The leaves of `cpu`, made from those that KVM supports.
pub(super) fn guest_cpuid(supported: &[kvm_cpuid_entry2], cpu: &GuestCpu) -> Vec<kvm_cpuid_entry2> {
    let vendor = Vendor::of(supported);
    let mut leaves: Vec<_> =
        supported.iter().filter(|leaf| !is_replaced(leaf.function)).copied().collect();
    for leaf in &mut leaves {
        restrict(leaf, cpu);
        topology::adjust(leaf, vendor, cpu);
    }
    let highest = highest_leaf(&leaves);
    topology::append(&mut leaves, highest, cpu);
    if let Some(khz) = cpu.tsc_khz {
        append_frequencies(&mut leaves, vendor, highest, khz);
    }
    leaves
}

/// Who made the processor, as far as leaves differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vendor {
    Intel,
    Amd,
    Other,
}

impl Vendor {
    fn of(leaves: &[kvm_cpuid_entry2]) -> Self {
        let name = leaves.iter().find(|leaf| leaf.function == 0).map(|leaf| leaf.ebx.to_le_bytes());
        match name.as_ref() {
            Some(b"Genu") => Self::Intel,
            Some(b"Auth" | b"Hygo") => Self::Amd,
            _ => Self::Other,
        }
    }
}

/// Leaves that are not taken from KVM: it reports the host's topology there, or nothing.
fn is_replaced(function: u32) -> bool {
    matches!(
        function,
        topology::X2APIC
            | topology::X2APIC_V2
            | topology::AMD_EXTENDED
            | TSC_CRYSTAL
            | HYPERVISOR_TIMING
    )
}

/// The TSC to crystal ratio of Intel processors.
const TSC_CRYSTAL: u32 = 0x15;

/// Takes away nested virtualisation, performance counters, enclaves and idle instructions that would
/// let a guest hold a host processor; sets what every guest of ours has.
fn restrict(leaf: &mut kvm_cpuid_entry2, cpu: &GuestCpu) {
    match leaf.function {
        0x1 => {
            leaf.ecx &= !(VMX | PERF_CAPABILITIES | TSC_DEADLINE);
            leaf.ecx |= HYPERVISOR;
            if cpu.tsc_deadline {
                leaf.ecx |= TSC_DEADLINE;
            }
        }
        0x7 if leaf.index == 0 => {
            leaf.ebx &= !(SGX | PROCESSOR_TRACE);
            leaf.ecx &= !(WAITPKG | SGX_LAUNCH);
        }
        // Performance monitoring, SGX, processor trace.
        0xa | 0x12 | 0x14 => clear(leaf),
        0x8000_0001 => leaf.ecx &= !(SVM | PERF_COUNTERS),
        // SVM, memory encryption, extended performance monitoring.
        0x8000_000a | 0x8000_001f | 0x8000_0022 => clear(leaf),
        _ => {}
    }
}

fn clear(leaf: &mut kvm_cpuid_entry2) {
    (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
}

fn highest_leaf(leaves: &[kvm_cpuid_entry2]) -> u32 {
    leaves.iter().find(|leaf| leaf.function == 0).map_or(0, |leaf| leaf.eax)
}

/// States the frequency of the TSC, so that the guest need not measure it: in the hypervisor leaf, and
/// for Intel processors in theirs. The crystal there is the local APIC timer's clock, as in hardware.
fn append_frequencies(
    leaves: &mut Vec<kvm_cpuid_entry2>,
    vendor: Vendor,
    highest: u32,
    tsc_khz: u32,
) {
    if let Some(base) = leaves.iter_mut().find(|leaf| leaf.function == HYPERVISOR_BASE) {
        base.eax = base.eax.max(HYPERVISOR_TIMING);
        leaves.push(kvm_cpuid_entry2 {
            function: HYPERVISOR_TIMING,
            eax: tsc_khz,
            ebx: APIC_TIMER_HZ / 1000,
            ..Default::default()
        });
    }
    if vendor == Vendor::Intel && highest >= TSC_CRYSTAL {
        leaves.push(kvm_cpuid_entry2 {
            function: TSC_CRYSTAL,
            eax: APIC_TIMER_HZ / 1000,
            ebx: tsc_khz,
            ecx: APIC_TIMER_HZ,
            ..Default::default()
        });
    }
}

#[cfg(test)]
mod tests;
