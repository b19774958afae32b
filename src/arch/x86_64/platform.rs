//! The devices that every x86_64 machine has, and what its kernels are told of them.

use super::layout;
use crate::arch::{ContainerMachine, KernelParameters, Location, PlatformDevice, Space};

/// The first serial port.
pub const SERIAL: Location = ports(layout::SERIAL_PORT, layout::SERIAL_PORT_COUNT as u64);

/// The registers by which a guest ends.
pub const PLATFORM: &[(PlatformDevice, Location)] = &[
    // The sleep status register follows that of sleep control.
    (
        PlatformDevice::PowerOffRegister(layout::ACPI_POWER_OFF),
        ports(layout::ACPI_SLEEP_CONTROL_PORT, 2),
    ),
    (PlatformDevice::ResetRegister(layout::ACPI_RESET), ports(layout::ACPI_RESET_PORT, 1)),
    (PlatformDevice::KeyboardController, ports(layout::I8042_DATA_PORT, layout::I8042_PORT_COUNT)),
    (PlatformDevice::PanicNotifier, ports(layout::PVPANIC_PORT, 1)),
];

/// Where early messages go: what a kernel says before it has found its console is said all the same.
const EARLY: &str = "earlycon=uart8250,io,0x3f8";

/// What the default command line says.
pub const KERNEL_PARAMETERS: KernelParameters = KernelParameters {
    serial_console: &["console=ttyS0"],
    virtio_console: &[EARLY, "console=hvc0"],
    without_acpi: &["acpi=off"],
    last: &[],
};

/// The machine of a container.
pub const CONTAINER_MACHINE: ContainerMachine = ContainerMachine {
    // At its other entry (PVH) Linux looks for a Xen that might be there in all 256 places: an exit for each.
    boot_protocol: Some("linux64"),
    kernel_parameters: &[EARLY],
    discovery: &["ACPI"],
};

const fn ports(base: u16, size: u64) -> Location {
    Location { space: Space::Ports, base: base as u64, size }
}

/// The interrupt line of the power button, on which an edge is a press. Without ACPI there is none.
pub fn power_button(acpi: bool) -> Option<u32> {
    acpi.then_some(layout::POWER_BUTTON_GSI)
}

/// What the hypervisor of this host calls itself, if there is one that does (CPUID leaf 0x40000000).
pub fn hypervisor() -> Option<String> {
    /// The bit of leaf 1 that no processor sets.
    const HYPERVISOR: u32 = 1 << 31;
    if std::arch::x86_64::__cpuid(1).ecx & HYPERVISOR == 0 {
        return None;
    }
    let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
    let bytes: Vec<u8> =
        [leaf.ebx, leaf.ecx, leaf.edx].iter().flat_map(|r| r.to_le_bytes()).collect();
    let name = String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
    (!name.is_empty()).then_some(name)
}
