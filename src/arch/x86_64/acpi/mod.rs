//! ACPI tables (ACPI 6.5): RSDP, XSDT, reduced-hardware FADT, MADT and DSDT.
//!
//! Reduced hardware: no PM timer, no SCI, no fixed events and no legacy interrupt controller, so a guest
//! neither probes nor waits for any of them.

mod dsdt;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

use super::boot_data::{BootDataError, write_bytes};
use super::layout;
use crate::arch::BootData;
use crate::memory::GuestMemory;

const OEM_ID: [u8; 6] = *b"VMM   ";
const OEM_TABLE_ID: [u8; 8] = *b"MICROVM ";
const OEM_REVISION: u32 = 1;

/// `IAPC_BOOT_ARCH`: no VGA to probe, no CMOS clock (ACPI 6.5, table 5.11). The keyboard controller's
/// bit is left clear: the one this machine has can only reset, and the reset register does that better.
const BOOT_ARCH: u16 = VGA_NOT_PRESENT | CMOS_RTC_NOT_PRESENT;
const VGA_NOT_PRESENT: u16 = 1 << 2;
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// Writes the tables and returns the address of the RSDP.
pub(super) fn write(mem: &GuestMemory, data: &BootData<'_>) -> Result<u64, BootDataError> {
    let mut tables = Tables { mem, next: layout::ACPI_TABLES + Rsdp::len() as u64 };
    let dsdt = tables.add(&dsdt::build(data))?;
    let fadt = tables.add(&fadt(dsdt))?;
    let madt = tables.add(&madt(data.cpus))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = tables.add(&xsdt)?;
    write_table(mem, layout::ACPI_TABLES, &Rsdp::new(OEM_ID, xsdt))?;
    Ok(layout::ACPI_TABLES)
}

/// Writes tables one after the other.
struct Tables<'a> {
    mem: &'a GuestMemory,
    next: u64,
}

impl Tables<'_> {
    const ALIGNMENT: u64 = 16;

    /// Writes `table` to the next free place and returns its address.
    fn add(&mut self, table: &dyn Aml) -> Result<u64, BootDataError> {
        let address = self.next.next_multiple_of(Self::ALIGNMENT);
        self.next = address + write_table(self.mem, address, table)?;
        Ok(address)
    }
}

/// Writes `table` to `address` and returns its length.
fn write_table(mem: &GuestMemory, address: u64, table: &dyn Aml) -> Result<u64, BootDataError> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    write_bytes(mem, "the ACPI tables", address, &bytes)?;
    Ok(bytes.len() as u64)
}

fn fadt(dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = port(layout::ACPI_RESET_PORT);
    fadt.reset_value = layout::ACPI_RESET;
    fadt.sleep_control_reg = port(layout::ACPI_SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(layout::ACPI_SLEEP_STATUS_PORT);
    fadt.finalize()
}

/// A register of one byte in port space.
fn port(number: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, number.into())
}

/// The processors and the IOAPIC. The flag for a PC/AT interrupt controller stays clear: KVM has one, but
/// nothing is wired to it alone. APIC ids stay below 255, so that plain local APIC entries do for every
/// vCPU, in x2APIC mode too.
fn madt(cpus: u8) -> MADT {
    let lapics = LocalInterruptController::Address(layout::LAPIC_BASE);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, lapics);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(cpus, layout::IOAPIC_BASE, 0));
    madt
}

#[cfg(test)]
mod tests;
