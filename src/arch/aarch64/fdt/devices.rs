//! Firmware calls, timers, the interrupt controller and devices.

use vm_fdt::{Error, FdtWriter};

use super::{CLOCK, GIC, ITS, InterruptController, layout};
use crate::arch::Placement;

/// The first cell of an interrupt: one shared by all vCPUs, or one that each has (bindings:
/// interrupt-controller/arm,gic-v3.yaml).
const SHARED: u32 = 0;
const PRIVATE: u32 = 1;
/// The last cell: how the line is driven.
const RISING_EDGE: u32 = 1;
const HIGH_LEVEL: u32 = 4;

/// Power off, reset, and starting processors, by calls to KVM (bindings: arm/psci.yaml).
pub(super) fn write_psci(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("psci")?;
    let versions = ["arm,psci-1.0", "arm,psci-0.2"].map(str::to_owned);
    fdt.property_string_list("compatible", versions.into())?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)
}

/// The timers of a processor: secure, non-secure, virtual and that of a hypervisor (bindings:
/// timer/arm,arch_timer.yaml).
pub(super) fn write_timer(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    let lines = layout::TIMER_PPIS.map(|line| [PRIVATE, line, HIGH_LEVEL]);
    fdt.property_array_u32("interrupts", lines.as_flattened())?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

/// Bindings: arm/pmu.yaml.
pub(super) fn write_performance_counters(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("pmu")?;
    fdt.property_string("compatible", "arm,armv8-pmuv3")?;
    fdt.property_array_u32("interrupts", &[PRIVATE, layout::PMU_PPI, HIGH_LEVEL])?;
    fdt.end_node(node)
}

pub(super) fn write_gic(
    fdt: &mut FdtWriter,
    controller: InterruptController,
    cpus: u8,
) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("intc@{:x}", layout::GIC_DISTRIBUTOR_BASE))?;
    fdt.property_phandle(GIC)?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_null("interrupt-controller")?;
    match controller {
        InterruptController::V2 => {
            fdt.property_string("compatible", "arm,gic-400")?;
            let distributor = [layout::GIC_DISTRIBUTOR_BASE, layout::GICV2_DISTRIBUTOR_SIZE];
            let cpu = [layout::GICV2_CPU_BASE, layout::GICV2_CPU_SIZE];
            fdt.property_array_u64("reg", [distributor, cpu].as_flattened())?;
        }
        InterruptController::V3 { its } => {
            fdt.property_string("compatible", "arm,gic-v3")?;
            let distributor = [layout::GIC_DISTRIBUTOR_BASE, layout::GICV3_DISTRIBUTOR_SIZE];
            let size = layout::REDISTRIBUTOR_SIZE.saturating_mul(cpus.into());
            let redistributors = [layout::REDISTRIBUTOR_BASE, size];
            fdt.property_array_u64("reg", [distributor, redistributors].as_flattened())?;
            if its {
                write_its(fdt)?;
            }
        }
    }
    fdt.end_node(node)
}

fn write_its(fdt: &mut FdtWriter) -> Result<(), Error> {
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let node = fdt.begin_node(&format!("msi-controller@{:x}", layout::ITS_BASE))?;
    fdt.property_string("compatible", "arm,gic-v3-its")?;
    fdt.property_null("msi-controller")?;
    fdt.property_u32("#msi-cells", 1)?;
    fdt.property_array_u64("reg", &[layout::ITS_BASE, layout::ITS_SIZE])?;
    fdt.property_phandle(ITS)?;
    fdt.end_node(node)
}

/// The devices that every machine has; `serial`: the serial port too.
pub(super) fn write_platform(fdt: &mut FdtWriter, serial: bool) -> Result<(), Error> {
    if serial {
        write_serial(fdt)?;
    }
    write_clock(fdt)?;
    write_rtc(fdt)?;
    let node = fdt.begin_node(&format!("pvpanic@{:x}", layout::PVPANIC_BASE))?;
    fdt.property_string("compatible", "qemu,pvpanic-mmio")?;
    fdt.property_array_u64("reg", &[layout::PVPANIC_BASE, layout::PVPANIC_SIZE])?;
    fdt.end_node(node)
}

/// The path of the node of the serial port.
pub(super) fn serial_path() -> String {
    format!("/{}", serial_name())
}

fn serial_name() -> String {
    format!("serial@{:x}", layout::SERIAL_BASE)
}

/// Bindings: serial/8250.yaml.
fn write_serial(fdt: &mut FdtWriter) -> Result<(), Error> {
    /// The clock of the port of a PC, in Hz; it sets no speed here.
    const FREQUENCY: u32 = 1_843_200;
    let node = fdt.begin_node(&serial_name())?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &[layout::SERIAL_BASE, layout::SERIAL_SIZE])?;
    fdt.property_u32("clock-frequency", FREQUENCY)?;
    fdt.property_array_u32("interrupts", &[SHARED, layout::SERIAL_GSI, RISING_EDGE])?;
    fdt.end_node(node)
}

/// What the real-time clock's bus runs at, which drivers insist on (bindings: clock/fixed-clock.yaml).
fn write_clock(fdt: &mut FdtWriter) -> Result<(), Error> {
    const FREQUENCY: u32 = 24_000_000;
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", FREQUENCY)?;
    fdt.property_phandle(CLOCK)?;
    fdt.end_node(node)
}

/// Bindings: rtc/arm,pl031.yaml. It gives no alarm, and so has no interrupt.
fn write_rtc(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("rtc@{:x}", layout::RTC_BASE))?;
    let names = ["arm,pl031", "arm,primecell"].map(str::to_owned);
    fdt.property_string_list("compatible", names.into())?;
    fdt.property_array_u64("reg", &[layout::RTC_BASE, layout::RTC_SIZE])?;
    fdt.property_u32("clocks", CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(node)
}

/// Bindings: virtio/mmio.yaml.
pub(super) fn write_virtio(fdt: &mut FdtWriter, place: &Placement) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("virtio_mmio@{:x}", place.base))?;
    fdt.property_string("compatible", "virtio,mmio")?;
    fdt.property_array_u64("reg", &[place.base, place.size])?;
    fdt.property_array_u32("interrupts", &[SHARED, place.gsi, RISING_EDGE])?;
    fdt.property_null("dma-coherent")?;
    fdt.end_node(node)
}
