//! The DSDT: the devices of the machine in AML.
//!
//! Every interrupt is edge triggered and active high: KVM's irqfd raises a line and lowers it at once,
//! which a level-triggered line without a resample eventfd would lose.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Method, Name, Notify, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::super::memory_map::low32;
use super::layout;
use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::arch::{BootData, Placement};

/// Length of a table header in bytes.
const HEADER_SIZE: u32 = 36;
/// With revision 2, AML integers have 64 bits.
const REVISION: u8 = 2;
/// Notification value of a button press (ACPI 6.5, section 5.6.6).
const BUTTON_PRESSED: u8 = 0x80;

/// The table.
pub(super) fn build(data: &BootData<'_>) -> Sdt {
    let mut devices = power_button();
    devices.extend(panic_device());
    if data.serial {
        devices.extend(serial());
    }
    for (index, placement) in (0u8..).zip(data.virtio_mmio) {
        devices.extend(virtio(index, placement));
    }
    let mut dsdt = Sdt::new(*b"DSDT", HEADER_SIZE, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&bytes(&soft_off()));
    dsdt.append_slice(&Scope::raw(Path::new("\\_SB_"), devices));
    dsdt
}

/// `\_S5`: the value of `SLP_TYP` that powers the machine off.
fn soft_off() -> Name {
    let kind = layout::ACPI_S5_TYPE;
    name("\\_S5_", &Package::new(vec![&kind, &kind, &0u8, &0u8]))
}

/// A control-method power button that is pressed by an interrupt at the generic event device
/// (ACPI 6.5, sections 4.8.2.2.1.2 and 5.6.9).
fn power_button() -> Vec<u8> {
    let mut aml = device("PWRB", &[&name("_HID", &EISAName::new("PNP0C0C")), &name("_UID", &0u8)]);
    let button = Path::new("\\_SB_.PWRB");
    let notify = Notify::new(&button, &BUTTON_PRESSED);
    aml.extend(device(
        "GED_",
        &[
            &name("_HID", &"ACPI0013"),
            &name("_UID", &0u8),
            &name("_CRS", &ResourceTemplate::new(vec![&line(layout::POWER_BUTTON_GSI)])),
            &Method::new(Path::new("_EVT"), 1, true, vec![&notify]),
        ],
    ));
    aml
}

/// The panic notification port, as QEMU names it (QEMU: docs/specs/pvpanic.rst).
fn panic_device() -> Vec<u8> {
    let port = IO::new(layout::PVPANIC_PORT, layout::PVPANIC_PORT, 1, 1);
    let resources = ResourceTemplate::new(vec![&port]);
    device("PEVT", &[&name("_HID", &"QEMU0001"), &name("_CRS", &resources)])
}

/// COM1.
fn serial() -> Vec<u8> {
    let ports = IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, layout::SERIAL_PORT_COUNT);
    let line = line(layout::SERIAL_GSI);
    let resources = ResourceTemplate::new(vec![&ports, &line]);
    device(
        "COM1",
        &[&name("_HID", &EISAName::new("PNP0501")), &name("_UID", &0u8), &name("_CRS", &resources)],
    )
}

/// A virtio-mmio device (Linux: drivers/virtio/virtio_mmio.c, `virtio_mmio_acpi_match`).
fn virtio(index: u8, placement: &Placement) -> Vec<u8> {
    let window = Memory32Fixed::new(true, low32(placement.base), low32(placement.size));
    let line = line(placement.gsi);
    let resources = ResourceTemplate::new(vec![&window, &line]);
    device(
        &format!("V{index:03}"),
        &[&name("_HID", &"LNRO0005"), &name("_UID", &index), &name("_CRS", &resources)],
    )
}

fn device(path: &str, children: &[&dyn Aml]) -> Vec<u8> {
    bytes(&Device::new(Path::new(path), children.to_vec()))
}

fn name(path: &str, value: &dyn Aml) -> Name {
    Name::new(Path::new(path), value)
}

/// An interrupt line of its own for a device.
fn line(gsi: u32) -> Interrupt {
    let (consumer, edge_triggered, active_low, shared) = (true, true, false, false);
    Interrupt::new(consumer, edge_triggered, active_low, shared, gsi)
}

fn bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}
