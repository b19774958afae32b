//! Which guest physical addresses are RAM and which belong to devices.

use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::layout;
use crate::arch::Placement;
use crate::memory::GuestMemory;

/// The region of guest RAM of `size` bytes.
///
/// A size beyond the address space is cut off, not an error: what the host's KVM can address bounds it.
pub fn memory_regions(size: u64) -> Vec<(GuestAddress, usize)> {
    let length = size.min(u64::MAX - layout::RAM_START);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length == 0 { Vec::new() } else { vec![(GuestAddress(layout::RAM_START), length)] }
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

/// First address after the RAM; its first when there is none.
pub(super) fn ram_end(mem: &GuestMemory) -> u64 {
    let region = mem.find_region(GuestAddress(layout::RAM_START));
    region.map_or(layout::RAM_START, |region| region.last_addr().raw_value() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_one_region_whatever_its_size() {
        assert!(memory_regions(0).is_empty());
        for size in [64 << 20, 3 << 30, 1 << 40] {
            assert_eq!(memory_regions(size), [(GuestAddress(0x8000_0000), size as usize)]);
        }
        let [(start, length)] = memory_regions(u64::MAX)[..] else { panic!("one region") };
        assert_eq!(start.0 + length as u64, u64::MAX);
    }

    #[test]
    fn virtio_placements_have_a_window_and_a_line_each() {
        let all: Vec<_> = (0..).map_while(virtio_mmio_placement).collect();
        assert_eq!(all.len(), layout::MAX_VIRTIO_MMIO);
        for pair in all.windows(2) {
            assert!(pair[0].base + pair[0].size <= pair[1].base);
            assert!(pair[0].gsi < pair[1].gsi);
        }
        assert!(all[0].gsi > layout::SERIAL_GSI);
        assert!(all[all.len() - 1].gsi + 32 < layout::INTERRUPTS);
        assert_eq!(virtio_mmio_placement(usize::MAX), None);
    }

    #[test]
    fn ram_ends_where_its_region_does() {
        let mem = GuestMemory::from_ranges(&memory_regions(64 << 20)).unwrap();
        assert_eq!(ram_end(&mem), layout::RAM_START + (64 << 20));
        let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 4096)]).unwrap();
        assert_eq!(ram_end(&mem), layout::RAM_START);
    }
}
