//! The devices that every aarch64 machine has, and what its kernels are told of them.

use super::layout;
use crate::arch::{ContainerMachine, KernelParameters, Location, PlatformDevice, Space};

/// The serial port.
pub const SERIAL: Location = memory(layout::SERIAL_BASE, layout::SERIAL_SIZE);

/// The other devices. Power off and reset are calls that KVM answers (PSCI).
pub const PLATFORM: &[(PlatformDevice, Location)] = &[
    (PlatformDevice::RealTimeClock, memory(layout::RTC_BASE, layout::RTC_SIZE)),
    (PlatformDevice::PanicNotifier, memory(layout::PVPANIC_BASE, layout::PVPANIC_SIZE)),
];

/// Where early messages go: kernels find the serial port late, and one that fails before can be explained
/// all the same.
const EARLY: &str = "earlycon=uart8250,mmio,0x40000000";

/// What the default command line says.
pub const KERNEL_PARAMETERS: KernelParameters = KernelParameters {
    serial_console: &["console=ttyS0"],
    virtio_console: &["console=hvc0"],
    without_acpi: &[],
    last: &[EARLY],
};

/// The machine of a container: there is one way into a kernel, which finds its devices in the device tree.
pub const CONTAINER_MACHINE: ContainerMachine =
    ContainerMachine { boot_protocol: None, kernel_parameters: &[], discovery: &[] };

const fn memory(base: u64, size: u64) -> Location {
    Location { space: Space::Memory, base, size }
}

/// The interrupt line of the power button: there is none.
pub fn power_button(_acpi: bool) -> Option<u32> {
    None
}

/// What the hypervisor of this host calls itself, where that describes the host by the device tree that
/// virtual machines have.
pub fn hypervisor() -> Option<String> {
    const VIRTUAL: &str = "linux,dummy-virt";
    let compatible = std::fs::read_to_string("/sys/firmware/devicetree/base/compatible").ok()?;
    compatible.split('\0').any(|name| name == VIRTUAL).then(|| VIRTUAL.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_messages_go_to_the_serial_port() {
        assert_eq!(
            KERNEL_PARAMETERS.last.concat(),
            format!("earlycon=uart8250,mmio,{:#x}", layout::SERIAL_BASE)
        );
    }
}
