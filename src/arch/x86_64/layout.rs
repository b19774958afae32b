//! The physical address space, port space and interrupt lines of an x86_64 guest.
//!
//! ```text
//! 0x0000_0000  1 MiB    boot data (below), BIOS area with ACPI or MP tables
//! 0x0010_0000           kernel, then free RAM, initrd at the top of low RAM
//! 0xc000_0000  1 GiB    the MMIO gap: no RAM
//!   0xd000_0000           virtio-mmio windows, 4 KiB each
//!   0xfec0_0000           IOAPIC
//!   0xfee0_0000           local APICs
//!   0xfffb_c000           pages KVM keeps for itself
//! 0x1_0000_0000         RAM beyond 3 GiB
//! ```

/// Most vCPUs a guest can have: APIC ids stay below the 8 bits of the xAPIC and of the MP table.
pub const MAX_CPUS: u8 = 64;

/// First guest physical address that is not low RAM: the start of the MMIO gap.
pub const MMIO_GAP_START: u64 = 0xc000_0000;
/// First guest physical address after the MMIO gap: RAM goes on here.
pub const MMIO_GAP_END: u64 = 0x1_0000_0000;

/// First virtio-mmio window.
pub const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;
/// Size of one virtio-mmio window in bytes.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// First interrupt line of the virtio-mmio devices; the lines below belong to the ISA devices.
pub const VIRTIO_MMIO_FIRST_GSI: u32 = 5;
/// Most virtio-mmio devices: each has its own line, because KVM's irqfd pulses an edge and edges do
/// not share.
pub const MAX_VIRTIO_MMIO: usize = 18;

/// First port of the serial port (COM1).
pub const SERIAL_PORT: u16 = 0x3f8;
/// Number of ports of the serial port.
pub const SERIAL_PORT_COUNT: u8 = 8;
/// Interrupt line of the serial port.
pub const SERIAL_GSI: u32 = 4;

/// Data port of the keyboard controller; the command and status port is at [`I8042_COMMAND_PORT`].
pub const I8042_DATA_PORT: u16 = 0x60;
/// Command and status port of the keyboard controller; command 0xfe resets the machine.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// Number of ports of the keyboard controller, from the data port on.
pub const I8042_PORT_COUNT: u64 = 5;

/// The panic notification port (QEMU's pvpanic interface): one byte wide.
pub const PVPANIC_PORT: u16 = 0x505;

/// ACPI sleep control register, one byte: a write of [`ACPI_POWER_OFF`] powers the machine off
/// (ACPI 6.5 section 4.8.3.7).
pub const ACPI_SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI sleep status register, one byte: reads 0; writes are ignored (ACPI 6.5 section 4.8.3.7).
pub const ACPI_SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI reset register, one byte: a write of [`ACPI_RESET`] resets the machine
/// (ACPI 6.5 section 4.8.3.6).
pub const ACPI_RESET_PORT: u16 = 0x602;
/// `SLP_EN` with the `SLP_TYP` of S5 that the DSDT declares.
pub const ACPI_POWER_OFF: u8 = 1 << 5 | ACPI_S5_TYPE << 2;
/// The value that resets when written to [`ACPI_RESET_PORT`].
pub const ACPI_RESET: u8 = 1;
/// `SLP_TYP` of the S5 sleep state.
pub(super) const ACPI_S5_TYPE: u8 = 5;

/// Interrupt line of the ACPI generic event device: an edge on it is a press of the power button.
pub const POWER_BUTTON_GSI: u32 = 23;

/// Register window of the IOAPIC that KVM emulates.
pub const IOAPIC_BASE: u32 = 0xfec0_0000;
/// Register window of each vCPU's local APIC.
pub const LAPIC_BASE: u32 = 0xfee0_0000;

/// One page KVM uses as identity map on processors that cannot run unpaged guests.
pub(super) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages KVM uses as task state segment on processors that cannot run real mode guests.
pub(super) const KVM_TSS: usize = 0xfffb_d000;

/// Longest kernel command line in bytes, without the final NUL (Linux: `COMMAND_LINE_SIZE` - 1).
pub const MAX_CMDLINE: usize = 2047;

// Boot data. Everything lies below the kernel and outside the BIOS area; a kernel copies what it wants
// to keep.
/// Global descriptor table of the 64-bit protocol.
pub(super) const GDT: u64 = 0x500;
/// `hvm_start_info` of the PVH protocol, followed by its module list and memory map.
pub(super) const PVH_START_INFO: u64 = 0x6000;
/// `boot_params` of the Linux protocol: the zero page.
pub(super) const ZERO_PAGE: u64 = 0x7000;
/// `setup_data` records of the Linux protocol.
pub(super) const SETUP_DATA: u64 = 0x8000;
/// Six pages of page tables of the 64-bit protocol.
pub(super) const PAGE_TABLES: u64 = 0x9000;
/// The top of the stack at entry by the 64-bit protocol; it grows down from here.
pub(super) const STACK_TOP: u64 = 0x1_0000;
/// The kernel command line.
pub(super) const CMDLINE: u64 = 0x2_0000;
/// End of conventional memory: the legacy video area begins here.
pub(super) const LOW_RAM_END: u64 = 0xa_0000;
/// ACPI tables, in the area where kernels also search when nobody tells them.
pub(super) const ACPI_TABLES: u64 = 0xe_0000;
/// MP table, in the area where kernels search.
pub(super) const MP_TABLE: u64 = 0xf_0000;
/// Where a processor goes that restarts through the BIOS: `ffff:0000` in real mode.
pub(super) const BIOS_ENTRY: u64 = 0xf_fff0;
/// First address a kernel may occupy.
pub const KERNEL_START: u64 = 0x10_0000;

/// The parts of the address space, in order: first address, length and what it is. RAM goes on from the
/// last on.
#[cfg(test)]
pub(in crate::arch) const MAP: &[(u64, u64, &str)] = &[
    (0, KERNEL_START, "boot data and BIOS area"),
    (KERNEL_START, MMIO_GAP_START - KERNEL_START, "RAM: kernel, then free, initrd at the top"),
    (
        VIRTIO_MMIO_BASE,
        MAX_VIRTIO_MMIO as u64 * VIRTIO_MMIO_SIZE,
        "virtio-mmio windows of 4 KiB each",
    ),
    (IOAPIC_BASE as u64, 0x1000, "IOAPIC"),
    (LAPIC_BASE as u64, 0x1000, "local APICs"),
    (KVM_IDENTITY_MAP, 0x4000, "pages KVM keeps for itself"),
    (MMIO_GAP_END, 0, "RAM beyond 3 GiB"),
];

/// The interrupt lines, in order: first, how many, and whose they are.
#[cfg(test)]
pub(in crate::arch) const LINES: &[(u32, u32, &str)] = &[
    (SERIAL_GSI, 1, "serial port"),
    (VIRTIO_MMIO_FIRST_GSI, MAX_VIRTIO_MMIO as u32, "virtio-mmio devices, a line each"),
    (POWER_BUTTON_GSI, 1, "power button"),
];
