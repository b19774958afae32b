//! The tables of the processor that the 64-bit protocol wants to find in memory: segment descriptors and
//! an identity map (Linux: Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use super::boot_data::{BootDataError, write_bytes};
use super::layout::{GDT, PAGE_TABLES};
use crate::memory::GuestMemory;

/// Selector of the code segment: `__BOOT_CS`.
pub(super) const BOOT_CS: u16 = 0x10;
/// Selector of the data segment: `__BOOT_DS`.
pub(super) const BOOT_DS: u16 = 0x18;
/// Number of descriptors.
const GDT_ENTRIES: usize = 4;
/// Offset of the last byte of the descriptor table.
pub(super) const GDT_LIMIT: u16 = (GDT_ENTRIES * 8 - 1) as u16;

/// 4 GiB from 0, present, ring 0; read and execute, 64-bit code (Intel SDM 3A, 3.4.5).
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
/// 4 GiB from 0, present, ring 0; read and write.
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;

const TABLE_SIZE: u64 = 4096;
const ENTRIES: u64 = 512;
const LARGE_PAGE: u64 = 2 << 20;
/// Number of page directories, each of which maps 1 GiB.
const DIRECTORIES: u64 = 4;
/// Present and writable.
const TABLE_ENTRY: u64 = 0b11;
/// Present, writable and a 2 MiB page.
const LARGE_PAGE_ENTRY: u64 = 0b1000_0011;

/// Writes the descriptor table, and page tables that map the first 4 GiB onto themselves: all that the
/// protocol asks for, and the devices in the MMIO gap for programs that bring no page tables.
pub(super) fn write(mem: &GuestMemory) -> Result<(), BootDataError> {
    let gdt: [u64; GDT_ENTRIES] = [0, 0, CODE_DESCRIPTOR, DATA_DESCRIPTOR];
    write_entries(mem, GDT, gdt)?;
    let pointers = PAGE_TABLES + TABLE_SIZE;
    let directories = pointers + TABLE_SIZE;
    write_entries(mem, PAGE_TABLES, [pointers | TABLE_ENTRY])?;
    let tables = (0..DIRECTORIES).map(|index| (directories + index * TABLE_SIZE) | TABLE_ENTRY);
    write_entries(mem, pointers, tables)?;
    let pages = (0..DIRECTORIES * ENTRIES).map(|index| (index * LARGE_PAGE) | LARGE_PAGE_ENTRY);
    write_entries(mem, directories, pages)
}

fn write_entries(
    mem: &GuestMemory,
    address: u64,
    entries: impl IntoIterator<Item = u64>,
) -> Result<(), BootDataError> {
    let bytes: Vec<u8> = entries.into_iter().flat_map(u64::to_le_bytes).collect();
    write_bytes(mem, "the descriptor and page tables", address, &bytes)
}
