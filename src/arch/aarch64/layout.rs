//! The physical address space and interrupt lines of an aarch64 guest.
//!
//! ```text
//! 0x0000_0000  1 GiB    nothing
//! 0x4000_0000  1 GiB    devices
//!   0x4000_0000           serial port
//!   0x4000_1000           real-time clock
//!   0x4000_2000           panic notification
//!   0x4100_0000           GIC: distributor, CPU interface (GICv2), ITS and redistributors (GICv3)
//!   0x5000_0000           virtio-mmio windows, 4 KiB each
//! 0x8000_0000           RAM: kernel, device tree, then free, initrd at the top
//! ```
//!
//! Interrupt lines are counted as KVM's irqfd does: line 0 is the first shared peripheral interrupt,
//! SPI 0, which the GIC knows as 32.

/// Most vCPUs a guest can have, with a GICv3; a GICv2 has room for 8 (Arm IHI 0048B, 1.2).
pub const MAX_CPUS: u8 = 64;

/// The serial port.
pub const SERIAL_BASE: u64 = 0x4000_0000;
/// Length of its registers in bytes.
pub const SERIAL_SIZE: u64 = 8;
/// Its interrupt line.
pub const SERIAL_GSI: u32 = 0;

/// The real-time clock.
pub const RTC_BASE: u64 = 0x4000_1000;
/// Length of its registers in bytes.
pub const RTC_SIZE: u64 = 0x1000;

/// Panic notification (QEMU's pvpanic interface): one register.
pub const PVPANIC_BASE: u64 = 0x4000_2000;
/// Its length in bytes.
pub const PVPANIC_SIZE: u64 = 2;

/// Distributor of the interrupt controller.
pub const GIC_DISTRIBUTOR_BASE: u64 = 0x4100_0000;
/// Length of a GICv3's distributor in bytes.
pub const GICV3_DISTRIBUTOR_SIZE: u64 = 0x1_0000;
/// Length of a GICv2's distributor in bytes.
pub const GICV2_DISTRIBUTOR_SIZE: u64 = 0x1000;
/// CPU interface of a GICv2.
pub const GICV2_CPU_BASE: u64 = 0x4101_0000;
/// Its length in bytes.
pub const GICV2_CPU_SIZE: u64 = 0x2000;
/// Interrupt translation service of a GICv3.
pub const ITS_BASE: u64 = 0x4102_0000;
/// Its length in bytes.
pub const ITS_SIZE: u64 = 0x2_0000;
/// Redistributors of a GICv3, one behind the other.
pub const REDISTRIBUTOR_BASE: u64 = 0x4110_0000;
/// Length of each in bytes.
pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
/// Interrupts that the controller knows, the 32 that each vCPU has to itself included.
pub const INTERRUPTS: u32 = 64;

/// Where the controller's private peripheral interrupts (PPIs) begin: each vCPU has its own.
pub const FIRST_PPI: u32 = 16;
/// PPI of the performance counters (Arm DEN0094, "PPI assignments"), counted from [`FIRST_PPI`].
pub const PMU_PPI: u32 = 7;
/// PPIs of the timers, by the mode they serve: secure, non-secure, virtual, hypervisor.
pub const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];

/// First virtio-mmio window.
pub const VIRTIO_MMIO_BASE: u64 = 0x5000_0000;
/// Size of one virtio-mmio window in bytes.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// First interrupt line of the virtio-mmio devices.
pub const VIRTIO_MMIO_FIRST_GSI: u32 = 1;
/// Most virtio-mmio devices: each has its own line, because KVM's irqfd pulses an edge and edges do
/// not share.
pub const MAX_VIRTIO_MMIO: usize = 18;

/// First address of RAM, all of which is one piece.
pub const RAM_START: u64 = 0x8000_0000;

/// Longest kernel command line in bytes, without the final NUL (Linux: `COMMAND_LINE_SIZE` - 1).
pub const MAX_CMDLINE: usize = 2047;

/// The device tree lies in a piece of memory of this size and alignment of its own, because kernels map
/// it that way, and may not be larger (Linux: arm64/booting.rst, 2).
pub const DEVICE_TREE_SIZE: u64 = 0x20_0000;

/// A kernel maps its initrd together with itself, in no more than this, from the 1 GiB on in which it lies
/// (Linux: arm64/booting.rst, 4).
pub const INITRD_WINDOW: u64 = 32 << 30;

/// The parts of the address space, in order: first address, length and what it is. RAM goes on from the
/// last on.
#[cfg(test)]
pub(in crate::arch) const MAP: &[(u64, u64, &str)] = &[
    (SERIAL_BASE, SERIAL_SIZE, "serial port (8250)"),
    (RTC_BASE, RTC_SIZE, "real-time clock (PL031)"),
    (PVPANIC_BASE, PVPANIC_SIZE, "panic notification"),
    (GIC_DISTRIBUTOR_BASE, GICV3_DISTRIBUTOR_SIZE, "GIC distributor (GICv2: 4 KiB)"),
    (GICV2_CPU_BASE, GICV2_CPU_SIZE, "GICv2 CPU interface"),
    (ITS_BASE, ITS_SIZE, "GICv3 interrupt translation service"),
    (
        REDISTRIBUTOR_BASE,
        MAX_CPUS as u64 * REDISTRIBUTOR_SIZE,
        "GICv3 redistributors, 128 KiB for each vCPU",
    ),
    (
        VIRTIO_MMIO_BASE,
        MAX_VIRTIO_MMIO as u64 * VIRTIO_MMIO_SIZE,
        "virtio-mmio windows of 4 KiB each",
    ),
    (RAM_START, 0, "RAM: kernel, device tree, then free, initrd at the top"),
];

/// The interrupt lines, in order: first, how many, and whose they are.
#[cfg(test)]
pub(in crate::arch) const LINES: &[(u32, u32, &str)] = &[
    (SERIAL_GSI, 1, "serial port"),
    (VIRTIO_MMIO_FIRST_GSI, MAX_VIRTIO_MMIO as u32, "virtio-mmio devices, a line each"),
];

/// The interrupts of each vCPU, in order, and whose they are.
#[cfg(test)]
pub(in crate::arch) const PPIS: &[(u32, &str)] = &[
    (PMU_PPI, "performance counters (`--cpu-features pmu`)"),
    (TIMER_PPIS[3], "timer of a hypervisor"),
    (TIMER_PPIS[2], "virtual timer"),
    (TIMER_PPIS[0], "secure timer"),
    (TIMER_PPIS[1], "non-secure timer"),
];
