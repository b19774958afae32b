//! Which guest physical addresses are RAM, which are reserved and which belong to devices.

use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::layout;
use crate::arch::Placement;
use crate::memory::GuestMemory;

/// The regions of guest RAM that together hold `size` bytes: from 0 to the MMIO gap, the rest after it.
///
/// A memory size the address space cannot hold is cut off, not an error: the configuration has bounded
/// it by the host's memory long before.
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
    if index >= layout::MAX_VIRTIO_MMIO {
        return None;
    }
    let index = u32::try_from(index).ok()?;
    Some(Placement {
        base: layout::VIRTIO_MMIO_BASE + u64::from(index) * layout::VIRTIO_MMIO_SIZE,
        size: layout::VIRTIO_MMIO_SIZE,
        gsi: layout::VIRTIO_MMIO_FIRST_GSI + index,
    })
}

/// First address after the RAM that starts at 0.
pub(super) fn low_ram_end(mem: &GuestMemory) -> u64 {
    mem.find_region(GuestAddress(0)).map_or(0, |region| region.last_addr().raw_value() + 1)
}
