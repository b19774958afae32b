//! Which guest physical addresses are RAM, which are reserved and which belong to devices.

use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::layout;
use crate::arch::Placement;
use crate::memory::GuestMemory;

/// The regions of guest RAM that together hold `size` bytes: from 0 to the MMIO gap, the rest after it.
///
/// A size beyond the address space is cut off, not an error: the configuration bounds it by the host's
/// memory.
pub fn memory_regions(size: u64) -> Vec<(GuestAddress, usize)> {
    let low = size.min(layout::MMIO_GAP_START);
    let high = (size - low).min(u64::MAX - layout::MMIO_GAP_END);
    [(0, low), (layout::MMIO_GAP_END, high)]
        .into_iter()
        .filter(|&(_, length)| length > 0)
        .map(|(start, length)| (GuestAddress(start), usize::try_from(length).unwrap_or(usize::MAX)))
        .collect()
}

/// The window and the interrupt line of the virtio-mmio device number `index`, or `None` when there are
/// no more.
pub fn virtio_mmio_placement(index: usize) -> Option<Placement> {
    let first = Placement {
        base: layout::VIRTIO_MMIO_BASE,
        size: layout::VIRTIO_MMIO_SIZE,
        gsi: layout::VIRTIO_MMIO_FIRST_GSI,
    };
    first.followed_by(index).filter(|_| index < layout::MAX_VIRTIO_MMIO)
}

/// First address after the RAM that starts at 0; 0 when there is none.
pub(super) fn low_ram_end(mem: &GuestMemory) -> u64 {
    mem.find_region(GuestAddress(0)).map_or(0, |region| region.last_addr().raw_value() + 1)
}

/// An address or a size below 4 GiB in the 32 bits that many tables have for it; larger ones, which the
/// layout never makes, saturate.
pub(super) fn low32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A range of guest physical addresses as the guest's firmware memory map lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapEntry {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) kind: MapKind,
}

/// What a range is. The numbers are those of E820 and of the PVH memory map, which agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum MapKind {
    Ram = 1,
    Reserved = 2,
}

/// The memory map that the guest is told: all RAM, less the BIOS area, where its tables are.
pub(super) fn memory_map(mem: &GuestMemory) -> Vec<MapEntry> {
    let low_end = low_ram_end(mem);
    let mut map = vec![
        MapEntry { start: 0, size: layout::LOW_RAM_END, kind: MapKind::Ram },
        MapEntry {
            start: layout::LOW_RAM_END,
            size: layout::KERNEL_START - layout::LOW_RAM_END,
            kind: MapKind::Reserved,
        },
        MapEntry {
            start: layout::KERNEL_START,
            size: low_end.saturating_sub(layout::KERNEL_START),
            kind: MapKind::Ram,
        },
    ];
    let high = mem.iter().filter(|region| region.start_addr().raw_value() >= layout::MMIO_GAP_END);
    map.extend(high.map(|region| MapEntry {
        start: region.start_addr().raw_value(),
        size: region.len(),
        kind: MapKind::Ram,
    }));
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_up_to_the_gap_is_one_region() {
        assert_eq!(memory_regions(32 << 20), [(GuestAddress(0), 32 << 20)]);
        assert_eq!(memory_regions(3 * GIB), [(GuestAddress(0), 3 << 30)]);
    }

    #[test]
    fn memory_beyond_the_gap_continues_at_4_gib() {
        let regions = memory_regions(3 * GIB + 4096);
        assert_eq!(regions, [(GuestAddress(0), 3 << 30), (GuestAddress(4 * GIB), 4096)]);
    }

    #[test]
    fn absurd_memory_sizes_do_not_overflow() {
        assert!(memory_regions(0).is_empty());
        let regions = memory_regions(u64::MAX);
        assert_eq!(regions[1].0.0 + regions[1].1 as u64, u64::MAX);
    }

    #[test]
    fn virtio_placements_do_not_meet_each_other_or_the_isa_devices() {
        let all: Vec<_> = (0..).map_while(virtio_mmio_placement).collect();
        assert_eq!(all.len(), layout::MAX_VIRTIO_MMIO);
        for pair in all.windows(2) {
            assert!(pair[0].base + pair[0].size <= pair[1].base);
            assert!(pair[0].gsi < pair[1].gsi);
        }
        assert!(all[0].gsi > layout::SERIAL_GSI);
        assert!(all[all.len() - 1].gsi < layout::POWER_BUTTON_GSI);
        assert!(all[all.len() - 1].base < u64::from(layout::IOAPIC_BASE));
        assert_eq!(virtio_mmio_placement(usize::MAX), None);
    }

    #[test]
    fn memory_map_covers_ram_in_order_without_the_bios_area() {
        let mem = GuestMemory::from_ranges(&memory_regions(64 << 20)).unwrap();
        let map = memory_map(&mem);
        let ram: u64 = map.iter().filter(|e| e.kind == MapKind::Ram).map(|e| e.size).sum();
        assert_eq!(ram, (64 << 20) - (layout::KERNEL_START - layout::LOW_RAM_END));
        for pair in map.windows(2) {
            assert!(pair[0].start + pair[0].size <= pair[1].start);
        }
        for table in [layout::ACPI_TABLES, layout::MP_TABLE] {
            let entry = map.iter().find(|e| (e.start..e.start + e.size).contains(&table));
            assert_eq!(entry.map(|e| e.kind), Some(MapKind::Reserved));
        }
    }
}
