//! Topology leaves: one package of single-threaded cores, whose last-level cache they share.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::{GuestCpu, Vendor};

/// Extended topology enumeration.
pub(super) const X2APIC: u32 = 0xb;
/// Extended topology enumeration, second version.
pub(super) const X2APIC_V2: u32 = 0x1f;
/// AMD's extended topology.
pub(super) const AMD_EXTENDED: u32 = 0x8000_0026;

/// Leaf 1, EDX: the package has more than one logical processor.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX: those logical processors are cores.
const CMP_LEGACY: u32 = 1 << 1;
/// The lowest level of cache that cores share.
const SHARED_CACHE_LEVEL: u32 = 3;
/// Level types in the extended topology leaves.
const SMT_LEVEL: u32 = 1;
const CORE_LEVEL: u32 = 2;

impl GuestCpu {
    /// Bits of an APIC id that number the cores of the package.
    fn id_bits(&self) -> u32 {
        u32::from(self.count).next_power_of_two().trailing_zeros()
    }

    /// Number of APIC ids that the package spans.
    fn id_span(&self) -> u32 {
        1 << self.id_bits()
    }
}

/// Replaces the host's topology in `leaf` by that of the guest.
pub(super) fn adjust(leaf: &mut kvm_cpuid_entry2, vendor: Vendor, cpu: &GuestCpu) {
    let id = u32::from(cpu.index);
    match (leaf.function, vendor) {
        (0x1, _) => {
            set_field(&mut leaf.ebx, 24, 8, id);
            set_field(&mut leaf.ebx, 16, 8, cpu.id_span());
            set_field(&mut leaf.edx, HTT.trailing_zeros(), 1, u32::from(cpu.count > 1));
        }
        (0x4, _) if cache_level(leaf) != 0 => {
            set_field(&mut leaf.eax, 26, 6, cpu.id_span() - 1);
            let sharers = cache_sharers(leaf, cpu);
            set_field(&mut leaf.eax, 14, 12, sharers - 1);
        }
        (0x8000_0001, Vendor::Amd) => {
            set_field(&mut leaf.ecx, CMP_LEGACY.trailing_zeros(), 1, u32::from(cpu.count > 1));
        }
        (0x8000_0008, Vendor::Amd) => {
            set_field(&mut leaf.ecx, 0, 8, u32::from(cpu.count) - 1);
            set_field(&mut leaf.ecx, 12, 4, cpu.id_bits());
        }
        (0x8000_001d, Vendor::Amd) if cache_level(leaf) != 0 => {
            let sharers = cache_sharers(leaf, cpu);
            set_field(&mut leaf.eax, 14, 12, sharers - 1);
        }
        (0x8000_001e, Vendor::Amd) => {
            (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (id, id, 0, 0);
        }
        _ => {}
    }
}

/// Adds the extended topology leaves that a processor with leaves up to `highest` has.
pub(super) fn append(leaves: &mut Vec<kvm_cpuid_entry2>, highest: u32, cpu: &GuestCpu) {
    for function in [X2APIC, X2APIC_V2].into_iter().filter(|function| *function <= highest) {
        leaves.push(level(function, 0, SMT_LEVEL, (0, 1), cpu));
        leaves.push(level(function, 1, CORE_LEVEL, (cpu.id_bits(), cpu.count.into()), cpu));
        leaves.push(level(function, 2, 0, (0, 0), cpu));
    }
}

/// Level `index` of an extended topology leaf: its type, and how many bits of the APIC id and how many
/// logical processors are below the next level.
fn level(
    function: u32,
    index: u32,
    kind: u32,
    (shift, processors): (u32, u32),
    cpu: &GuestCpu,
) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: processors,
        ecx: kind << 8 | index,
        edx: cpu.index.into(),
        ..Default::default()
    }
}

/// The level of the cache that `leaf` describes, 0 when it ends the list of caches.
fn cache_level(leaf: &kvm_cpuid_entry2) -> u32 {
    let kind = leaf.eax & 0x1f;
    if kind == 0 { 0 } else { leaf.eax >> 5 & 0b111 }
}

fn cache_sharers(leaf: &kvm_cpuid_entry2, cpu: &GuestCpu) -> u32 {
    if cache_level(leaf) >= SHARED_CACHE_LEVEL { cpu.id_span() } else { 1 }
}

/// Sets `width` bits of `register` from bit `shift` to `value`.
fn set_field(register: &mut u32, shift: u32, width: u32, value: u32) {
    let mask = (1 << width) - 1;
    *register = *register & !(mask << shift) | (value & mask) << shift;
}
