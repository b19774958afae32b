//! The start information of the 64-bit Linux protocol: `boot_params`, called the zero page, and the
//! descriptor and page tables the protocol wants (Linux: Documentation/arch/x86/boot.rst and
//! zero-page.rst).

use linux_loader::loader::bootparam::{self, boot_e820_entry, boot_params};
use vm_memory::ByteValued;

use super::boot_data::{BootDataError, write_bytes};
use super::layout;
use super::loader::SETUP_HEADER_OFFSET;
use super::memory_map::{low32, memory_map};
use super::page_tables;
use crate::arch::BootData;
use crate::arch::boot::seed;
use crate::memory::GuestMemory;

const BOOT_FLAG: u16 = 0xaa55;
/// `HdrS`, little endian.
const HEADER_MAGIC: u32 = 0x5372_6448;
/// The protocol version we speak when the kernel does not name one: 2.15.
const PROTOCOL_VERSION: u16 = 0x020f;
/// A boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
/// The kernel code lies at 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// Length of the random seed in bytes.
const SEED_SIZE: usize = 32;
/// Length of the header of a `setup_data` record: next, type and length.
const SETUP_DATA_HEADER_SIZE: usize = 16;

/// Writes the zero page and what it points to, and returns its address.
pub(super) fn write(
    mem: &GuestMemory,
    data: &BootData<'_>,
    rsdp: Option<u64>,
) -> Result<u64, BootDataError> {
    let mut params = boot_params::default();
    set_header(&mut params, data);
    params.acpi_rsdp_addr = rsdp.unwrap_or(0);
    for (slot, entry) in params.e820_table.iter_mut().zip(memory_map(mem)) {
        *slot = boot_e820_entry { addr: entry.start, size: entry.size, r#type: entry.kind as u32 };
        params.e820_entries += 1;
    }
    write_seed(mem)?;
    page_tables::write(mem)?;
    write_bytes(mem, "boot_params", layout::ZERO_PAGE, params.as_slice())?;
    Ok(layout::ZERO_PAGE)
}

fn set_header(params: &mut boot_params, data: &BootData<'_>) {
    let from_kernel = data.kernel.setup_header();
    if from_kernel.is_empty() {
        params.hdr.boot_flag = BOOT_FLAG;
        params.hdr.header = HEADER_MAGIC;
        params.hdr.version = PROTOCOL_VERSION;
        params.hdr.loadflags = LOADED_HIGH;
    }
    let zero_page = params.as_mut_slice();
    for (slot, byte) in zero_page.iter_mut().skip(SETUP_HEADER_OFFSET).zip(from_kernel) {
        *slot = *byte;
    }
    let header = &mut params.hdr;
    header.type_of_loader = LOADER_UNDEFINED;
    header.cmd_line_ptr = low32(layout::CMDLINE);
    header.setup_data = layout::SETUP_DATA;
    if let Some(initrd) = data.initrd {
        header.ramdisk_image = low32(initrd.address);
        header.ramdisk_size = low32(initrd.size);
    }
}

/// Writes a record with fresh random bytes, so that the guest's random numbers are good from the start
/// even when its processor cannot make any.
fn write_seed(mem: &GuestMemory) -> Result<(), BootDataError> {
    let mut record = Vec::with_capacity(SETUP_DATA_HEADER_SIZE + SEED_SIZE);
    record.extend_from_slice(&0u64.to_le_bytes());
    record.extend_from_slice(&bootparam::SETUP_RNG_SEED.to_le_bytes());
    record.extend_from_slice(&(SEED_SIZE as u32).to_le_bytes());
    record.extend_from_slice(&seed::<SEED_SIZE>()?);
    write_bytes(mem, "the random seed", layout::SETUP_DATA, &record)
}
