//! The MP table: processors, IOAPIC and interrupt lines for guests that do without ACPI
//! (Intel MultiProcessor Specification 1.4, chapter 4).

use super::boot_data::{BootDataError, write_bytes};
use super::layout;
use super::memory_map::low32;
use crate::arch::BootData;
use crate::memory::GuestMemory;

/// Specification revision 1.4.
const SPEC_REVISION: u8 = 4;
/// Version that a local APIC and an IOAPIC report.
const LAPIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
const ISA_BUS: u8 = 0;
const ALL_LAPICS: u8 = 0xff;
const POINTER_SIZE: u64 = 16;
const HEADER_SIZE: usize = 44;

/// Entry types (MP specification, table 4-3).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// Interrupt types (MP specification, table 4-11).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// Writes the floating pointer and, behind it, the configuration table.
pub(super) fn write(mem: &GuestMemory, data: &BootData<'_>) -> Result<(), BootDataError> {
    let table = layout::MP_TABLE + POINTER_SIZE;
    write_bytes(mem, "the MP table", layout::MP_TABLE, &pointer(table))?;
    write_bytes(mem, "the MP table", table, &configuration(data))
}

fn pointer(table: u64) -> Vec<u8> {
    let mut bytes = b"_MP_".to_vec();
    bytes.extend_from_slice(&low32(table).to_le_bytes());
    // Length in paragraphs, revision, checksum, five feature bytes: a configuration table follows.
    bytes.extend_from_slice(&[1, SPEC_REVISION, 0, 0, 0, 0, 0, 0]);
    set_checksum(&mut bytes, 10);
    bytes
}

fn configuration(data: &BootData<'_>) -> Vec<u8> {
    let entries = entries(data);
    let length: usize = HEADER_SIZE + entries.iter().map(Vec::len).sum::<usize>();
    let mut bytes = b"PCMP".to_vec();
    bytes.extend_from_slice(&(length as u16).to_le_bytes());
    bytes.extend_from_slice(&[SPEC_REVISION, 0]);
    bytes.extend_from_slice(b"VMM     MICROVM     ");
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&(entries.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&layout::LAPIC_BASE.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend(entries.into_iter().flatten());
    set_checksum(&mut bytes, 7);
    bytes
}

/// The entries, in the order of their types as the specification wants them.
fn entries(data: &BootData<'_>) -> Vec<Vec<u8>> {
    let ioapic = data.cpus;
    let mut entries: Vec<Vec<u8>> = (0..data.cpus).map(processor).collect();
    entries.push([&[BUS, ISA_BUS][..], b"ISA   "].concat());
    let base = layout::IOAPIC_BASE.to_le_bytes();
    entries.push([&[IOAPIC, ioapic, IOAPIC_VERSION, 1][..], &base].concat());
    let serial = data.serial.then_some(layout::SERIAL_GSI);
    let lines = serial.into_iter().chain(data.virtio_mmio.iter().map(|placement| placement.gsi));
    entries.extend(lines.map(|gsi| interrupt(IO_INTERRUPT, INT, gsi as u8, [ioapic, gsi as u8])));
    entries.push(interrupt(LOCAL_INTERRUPT, EXT_INT, 0, [0, 0]));
    entries.push(interrupt(LOCAL_INTERRUPT, NMI, 0, [ALL_LAPICS, 1]));
    entries
}

fn processor(apic_id: u8) -> Vec<u8> {
    const ENABLED: u8 = 1;
    const BOOT_PROCESSOR: u8 = 2;
    /// Family 6; kernels ask CPUID instead.
    const SIGNATURE: u32 = 0x600;
    /// APIC and FPU on chip.
    const FEATURES: u32 = 0x201;
    let flags = if apic_id == 0 { ENABLED | BOOT_PROCESSOR } else { ENABLED };
    let mut bytes = vec![PROCESSOR, apic_id, LAPIC_VERSION, flags];
    bytes.extend_from_slice(&SIGNATURE.to_le_bytes());
    bytes.extend_from_slice(&FEATURES.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

/// An interrupt line of the ISA bus, which is edge triggered and active high by default.
fn interrupt(entry: u8, kind: u8, source: u8, destination: [u8; 2]) -> Vec<u8> {
    let [apic, pin] = destination;
    vec![entry, kind, 0, 0, ISA_BUS, source, apic, pin]
}

/// Sets the byte at `position` so that all bytes add up to 0.
fn set_checksum(bytes: &mut [u8], position: usize) {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(checksum) = bytes.get_mut(position) {
        *checksum = sum.wrapping_neg();
    }
}

#[cfg(test)]
mod tests;
