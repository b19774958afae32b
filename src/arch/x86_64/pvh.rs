//! The start information of the PVH protocol (Xen: docs/misc/pvh.pandoc, and
//! include/public/arch-x86/hvm/start_info.h).

use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::ByteValued;

use super::boot_data::{BootDataError, write_bytes};
use super::layout;
use super::memory_map::memory_map;
use crate::arch::BootData;
use crate::memory::GuestMemory;

/// Where the list of modules begins.
const MODULES: u64 = layout::PVH_START_INFO + 0x40;
/// Where the memory map begins.
const MEMORY_MAP: u64 = layout::PVH_START_INFO + 0x80;

/// Writes `hvm_start_info` and what it points to, and returns its address.
pub(super) fn write(
    mem: &GuestMemory,
    data: &BootData<'_>,
    rsdp: Option<u64>,
) -> Result<u64, BootDataError> {
    let mut info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: rsdp.unwrap_or(0),
        memmap_paddr: MEMORY_MAP,
        ..Default::default()
    };
    if let Some(initrd) = data.initrd {
        let module =
            hvm_modlist_entry { paddr: initrd.address, size: initrd.size, ..Default::default() };
        info.nr_modules = 1;
        info.modlist_paddr = MODULES;
        write_bytes(mem, "the PVH module list", MODULES, module.as_slice())?;
    }
    let mut address = MEMORY_MAP;
    for entry in memory_map(mem) {
        let entry = hvm_memmap_table_entry {
            addr: entry.start,
            size: entry.size,
            type_: entry.kind as u32,
            reserved: 0,
        };
        write_bytes(mem, "the PVH memory map", address, entry.as_slice())?;
        address += size_of_val(&entry) as u64;
        info.memmap_entries += 1;
    }
    write_bytes(mem, "hvm_start_info", layout::PVH_START_INFO, info.as_slice())?;
    Ok(layout::PVH_START_INFO)
}
