//! What holds for every architecture, and what its own tests share.

// UNSAFETY: the memory of a test guest is handed to KVM.
#![expect(unsafe_code)]

use kvm_bindings::kvm_userspace_memory_region;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::{aarch64, native};
use crate::memory::GuestMemory;

const PAGE: &str = include_str!("../../docs/architectures.md");

type Map = &'static [(u64, u64, &'static str)];
type Lines = &'static [(u32, u32, &'static str)];

/// This architecture, and the one that is looked at on any.
const LAYOUTS: [(&str, Map, Lines); 2] = [
    (std::env::consts::ARCH, native::layout::MAP, native::layout::LINES),
    ("aarch64", aarch64::layout::MAP, aarch64::layout::LINES),
];

/// The rows of the table below `heading` of an architecture's section.
fn rows(architecture: &str, heading: &str) -> Vec<String> {
    let (_, section) = PAGE.split_once(&format!("\n## {architecture}\n")).expect(architecture);
    let section = section.split("\n## ").next().unwrap();
    let (_, table) = section.split_once(&format!("\n### {heading}\n")).expect(heading);
    let lines = table.lines().skip_while(|line| !line.starts_with("|--"));
    lines.skip(1).take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
}

/// Gives `vm` the first region of `mem`, which the caller holds as long as `vm`.
pub(super) fn register(vm: &kvm_ioctls::VmFd, mem: &GuestMemory) {
    let region = mem.iter().next().unwrap();
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: region.start_addr().0,
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY: the memory outlives the VM: the caller, a test, holds both until it ends.
    unsafe { vm.set_user_memory_region(slot) }.unwrap();
}

#[test]
fn page_has_the_memory_maps() {
    for (architecture, map, _) in LAYOUTS {
        let expected: Vec<_> = map
            .iter()
            .map(|(start, size, what)| {
                let end =
                    if *size == 0 { String::new() } else { format!("{:#x}", start + size - 1) };
                format!("| {start:#x} | {end} | {what} |")
            })
            .collect();
        assert_eq!(rows(architecture, "Memory"), expected, "{architecture}");
    }
}

#[test]
fn page_has_the_interrupt_maps() {
    for (architecture, _, lines) in LAYOUTS {
        let expected: Vec<_> = lines
            .iter()
            .map(|(first, count, what)| match count {
                1 => format!("| {first} | {what} |"),
                _ => format!("| {first} to {} | {what} |", first + count - 1),
            })
            .collect();
        assert_eq!(rows(architecture, "Interrupts"), expected, "{architecture}");
    }
}

#[test]
fn page_has_the_interrupts_of_each_vcpu() {
    let own = aarch64::layout::PPIS.iter().map(|(ppi, what)| format!("| {ppi} | {what} |"));
    assert_eq!(rows("aarch64", "Interrupts of each vCPU"), own.collect::<Vec<_>>());
}

#[test]
fn nothing_lies_where_something_else_does() {
    for (architecture, map, lines) in LAYOUTS {
        let last = map.last().unwrap();
        assert_eq!(last.1, 0, "{architecture}: RAM goes on");
        for pair in map.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{architecture}: {pair:x?}");
        }
        for pair in lines.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{architecture}: {pair:?}");
        }
    }
}

#[test]
fn machines_of_all_architectures_are_of_one_size() {
    assert_eq!(native::layout::MAX_CPUS, aarch64::layout::MAX_CPUS);
    assert_eq!(native::layout::MAX_VIRTIO_MMIO, aarch64::layout::MAX_VIRTIO_MMIO);
    assert_eq!(native::layout::MAX_CMDLINE, aarch64::layout::MAX_CMDLINE);
}
