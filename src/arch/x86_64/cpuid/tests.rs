use super::*;

fn leaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = registers;
    kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
}

/// What a KVM might support: everything we look at, all bits set.
fn supported(vendor: &[u8; 4]) -> Vec<kvm_cpuid_entry2> {
    let all = [u32::MAX; 4];
    let mut leaves = vec![
        leaf(0x0, 0, [0x1f, u32::from_le_bytes(*vendor), 0, 0]),
        leaf(0x4, 0, [0xfc00_0121, 0, 0, 0]),
        leaf(0x4, 1, [0xfc00_4143, 0, 0, 0]),
        leaf(0x4, 2, [0xfc00_4163, 0, 0, 0]),
        leaf(0x4, 3, [0, 0, 0, 0]),
        leaf(0x4000_0000, 0, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        leaf(0x8000_001d, 3, [0x0000_4163, 0, 0, 0]),
    ];
    let rest = [
        0x1,
        0x7,
        0xa,
        0xb,
        0x12,
        0x14,
        0x15,
        0x1f,
        0x8000_0001,
        0x8000_0008,
        0x8000_000a,
        0x8000_001e,
        0x8000_001f,
        0x8000_0022,
        0x8000_0026,
    ];
    leaves.extend(rest.map(|function| leaf(function, 0, all)));
    leaves
}

fn cpu(index: u8, count: u8) -> GuestCpu {
    GuestCpu { index, count, tsc_khz: Some(2_600_000), tsc_deadline: true }
}

fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    let mut found = leaves.iter().filter(|leaf| leaf.function == function && leaf.index == index);
    let leaf = found.next().unwrap_or_else(|| panic!("no leaf {function:#x}.{index}"));
    assert!(found.next().is_none(), "leaf {function:#x}.{index} twice");
    *leaf
}

fn registers(leaf: &kvm_cpuid_entry2) -> [u32; 4] {
    [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
}

const INTEL: &[u8; 4] = b"Genu";
const AMD: &[u8; 4] = b"Auth";

/// K12.
#[test]
fn nested_virtualisation_counters_and_enclaves_are_taken_away() {
    for vendor in [INTEL, AMD] {
        let leaves = guest_cpuid(&supported(vendor), &cpu(0, 1));
        let one = find(&leaves, 0x1, 0);
        assert_eq!(one.ecx & (VMX | PERF_CAPABILITIES), 0);
        assert_eq!(find(&leaves, 0x7, 0).ebx & (SGX | PROCESSOR_TRACE), 0);
        assert_eq!(find(&leaves, 0x7, 0).ecx & (WAITPKG | SGX_LAUNCH), 0);
        assert_eq!(find(&leaves, 0x8000_0001, 0).ecx & (SVM | PERF_COUNTERS), 0);
        for function in [0xa, 0x12, 0x14, 0x8000_000a, 0x8000_001f, 0x8000_0022] {
            assert_eq!(registers(&find(&leaves, function, 0)), [0; 4], "{function:#x}");
        }
        assert!(leaves.iter().all(|leaf| leaf.function != 0x8000_0026));
    }
}

#[test]
fn hypervisor_bit_is_set_and_deadline_timer_follows_kvm() {
    let mut host = supported(INTEL);
    host.iter_mut().filter(|leaf| leaf.function == 1).for_each(|leaf| leaf.ecx = 0);
    let with = find(&guest_cpuid(&host, &cpu(0, 1)), 0x1, 0);
    assert_eq!(with.ecx, HYPERVISOR | TSC_DEADLINE);
    let without = GuestCpu { tsc_deadline: false, ..cpu(0, 1) };
    assert_eq!(find(&guest_cpuid(&supported(INTEL), &without), 0x1, 0).ecx & TSC_DEADLINE, 0);
}

#[test]
fn apic_id_is_the_index_in_every_leaf_that_has_one() {
    for (vendor, index) in [(INTEL, 0), (AMD, 0), (INTEL, 5), (AMD, 63)] {
        let leaves = guest_cpuid(&supported(vendor), &cpu(index, 64));
        let id = u32::from(index);
        assert_eq!(find(&leaves, 0x1, 0).ebx >> 24, id);
        for (function, level) in [(0xb, 0), (0xb, 1), (0x1f, 0), (0x1f, 1)] {
            assert_eq!(find(&leaves, function, level).edx, id);
        }
        if vendor == AMD {
            assert_eq!(registers(&find(&leaves, 0x8000_001e, 0)), [id, id, 0, 0]);
        }
    }
}

#[test]
fn topology_leaves_agree_on_the_number_of_cores() {
    // Count, bits of the APIC id, ids that the package spans.
    for (count, bits, span) in [(1, 0, 1), (2, 1, 2), (3, 2, 4), (4, 2, 4), (64, 6, 64)] {
        let leaves = guest_cpuid(&supported(INTEL), &cpu(0, count));
        let one = find(&leaves, 0x1, 0);
        assert_eq!(one.ebx >> 16 & 0xff, span);
        assert_eq!(one.edx >> 28 & 1, u32::from(count > 1));
        let smt = find(&leaves, 0xb, 0);
        assert_eq!([smt.eax, smt.ebx, smt.ecx], [0, 1, 0x100]);
        let core = find(&leaves, 0xb, 1);
        assert_eq!([core.eax, core.ebx, core.ecx], [bits, count.into(), 0x201]);
        assert_eq!(find(&leaves, 0xb, 2).ecx, 2);
        assert_eq!(find(&leaves, 0x4, 0).eax >> 26, span - 1);
        let amd = guest_cpuid(&supported(AMD), &cpu(0, count));
        let size = find(&amd, 0x8000_0008, 0).ecx;
        assert_eq!((size & 0xff, size >> 12 & 0xf), (u32::from(count) - 1, bits));
        assert_eq!(find(&amd, 0x8000_0001, 0).ecx >> 1 & 1, u32::from(count > 1));
    }
}

#[test]
fn cores_share_the_last_level_cache_only() {
    let leaves = guest_cpuid(&supported(INTEL), &cpu(0, 4));
    let sharers = |function, index| (find(&leaves, function, index).eax >> 14 & 0xfff) + 1;
    assert_eq!([sharers(0x4, 0), sharers(0x4, 1), sharers(0x4, 2)], [1, 1, 4]);
    assert_eq!(registers(&find(&leaves, 0x4, 3)), [0; 4]);
    let amd = guest_cpuid(&supported(AMD), &cpu(0, 4));
    assert_eq!((find(&amd, 0x8000_001d, 3).eax >> 14 & 0xfff) + 1, 4);
}

#[test]
fn frequencies_are_stated_when_known() {
    let leaves = guest_cpuid(&supported(INTEL), &cpu(0, 1));
    assert_eq!(find(&leaves, 0x4000_0000, 0).eax, 0x4000_0010);
    assert_eq!(registers(&find(&leaves, 0x4000_0010, 0)), [2_600_000, 1_000_000, 0, 0]);
    let crystal = find(&leaves, 0x15, 0);
    let hz = u64::from(crystal.ecx) * u64::from(crystal.ebx) / u64::from(crystal.eax);
    assert_eq!(hz, 2_600_000_000);
    let amd = guest_cpuid(&supported(AMD), &cpu(0, 1));
    assert!(amd.iter().all(|leaf| leaf.function != 0x15));
    let unknown = guest_cpuid(&supported(INTEL), &GuestCpu { tsc_khz: None, ..cpu(0, 1) });
    assert!(unknown.iter().all(|leaf| ![0x15, 0x4000_0010].contains(&leaf.function)));
}

#[test]
fn leaves_beyond_the_highest_are_not_added() {
    let mut host = supported(INTEL);
    host[0].eax = 0xa;
    let leaves = guest_cpuid(&host, &cpu(0, 2));
    assert!(leaves.iter().all(|leaf| ![0xb, 0x15, 0x1f].contains(&leaf.function)));
}

#[test]
fn empty_list_of_supported_leaves_is_survived() {
    assert!(guest_cpuid(&[], &cpu(0, 1)).is_empty());
}
