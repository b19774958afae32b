//! The device tree: what an aarch64 kernel is told about its machine (Devicetree Specification 0.4, and the
//! bindings in Linux: Documentation/devicetree/bindings).

mod cpus;
mod devices;
#[cfg(test)]
mod tests;

use std::ops::Range;

use vm_fdt::{Error, FdtWriter};

use super::caches::Cache;
use super::layout;
use super::loader::LoadedKernel;
use super::memory_map::ram_end;
use crate::arch::boot::{BootDataError, check_cmdline, check_counts, seed, write_bytes};
use crate::arch::{Initrd, Placement};
use crate::memory::GuestMemory;

/// Where and how the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Guest physical address of the first instruction.
    pub(in crate::arch) address: u64,
    /// Guest physical address of the device tree.
    pub(in crate::arch) device_tree: u64,
}

/// The interrupt controller of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptController {
    /// A GICv2.
    V2,
    /// A GICv3.
    V3 {
        /// Whether it translates messages to interrupts.
        its: bool,
    },
}

/// What the device tree tells the guest.
#[derive(Clone, Copy, Debug)]
pub(in crate::arch) struct Machine<'a> {
    pub(in crate::arch) cmdline: &'a str,
    pub(in crate::arch) initrd: Option<Initrd>,
    pub(in crate::arch) interrupt_controller: InterruptController,
    pub(in crate::arch) cpus: u8,
    pub(in crate::arch) caches: &'a [Cache],
    pub(in crate::arch) performance_counters: bool,
    pub(in crate::arch) serial: bool,
    pub(in crate::arch) virtio_mmio: &'a [Placement],
}

/// Writes the device tree to its place behind `kernel`, and says where the guest starts.
pub(in crate::arch) fn write(
    mem: &GuestMemory,
    kernel: &LoadedKernel,
    machine: &Machine<'_>,
) -> Result<Entry, BootDataError> {
    check_counts(
        (machine.cpus, layout::MAX_CPUS),
        (machine.virtio_mmio.len(), layout::MAX_VIRTIO_MMIO),
    )?;
    check_cmdline(machine.cmdline, layout::MAX_CMDLINE)?;
    let seeds = Seeds { random: seed()?, address_space: u64::from_ne_bytes(seed()?) };
    let tree = build(machine, &seeds, layout::RAM_START..ram_end(mem))
        .map_err(BootDataError::DeviceTree)?;
    place(mem, kernel, &tree)
}

/// Writes `tree` behind `kernel`, where a kernel can map it.
fn place(mem: &GuestMemory, kernel: &LoadedKernel, tree: &[u8]) -> Result<Entry, BootDataError> {
    let size = tree.len();
    let limit = usize::try_from(layout::DEVICE_TREE_SIZE).unwrap_or(usize::MAX);
    if size > limit {
        return Err(BootDataError::DeviceTreeTooLarge { size, limit });
    }
    write_bytes(mem, "the device tree", kernel.device_tree(), tree)?;
    Ok(Entry { address: kernel.entry(), device_tree: kernel.device_tree() })
}

/// Random numbers for the guest.
struct Seeds {
    random: [u8; 64],
    /// Where the kernel lies in its virtual address space.
    address_space: u64,
}

/// Names by which nodes refer to each other.
const GIC: u32 = 1;
const ITS: u32 = 2;
const CLOCK: u32 = 3;
/// The first of as many as there are vCPUs, and of as many as there are caches behind those.
const FIRST_CPU: u32 = 0x100;
const FIRST_CACHE: u32 = 0x200;

fn build(machine: &Machine<'_>, seeds: &Seeds, ram: Range<u64>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC)?;
    write_chosen(&mut fdt, machine, seeds)?;
    write_memory(&mut fdt, ram)?;
    cpus::write(&mut fdt, machine.cpus, machine.caches)?;
    devices::write_psci(&mut fdt)?;
    devices::write_timer(&mut fdt)?;
    if machine.performance_counters {
        devices::write_performance_counters(&mut fdt)?;
    }
    devices::write_gic(&mut fdt, machine.interrupt_controller, machine.cpus)?;
    devices::write_platform(&mut fdt, machine.serial)?;
    for placement in machine.virtio_mmio {
        devices::write_virtio(&mut fdt, placement)?;
    }
    fdt.end_node(root)?;
    fdt.finish()
}

fn write_chosen(fdt: &mut FdtWriter, machine: &Machine<'_>, seeds: &Seeds) -> Result<(), Error> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", machine.cmdline)?;
    if machine.serial {
        fdt.property_string("stdout-path", &devices::serial_path())?;
    }
    if let Some(initrd) = machine.initrd {
        fdt.property_u64("linux,initrd-start", initrd.address)?;
        fdt.property_u64("linux,initrd-end", initrd.address.saturating_add(initrd.size))?;
    }
    fdt.property("rng-seed", &seeds.random)?;
    fdt.property_u64("kaslr-seed", seeds.address_space)?;
    fdt.end_node(node)
}

fn write_memory(fdt: &mut FdtWriter, ram: Range<u64>) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("memory@{:x}", ram.start))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[ram.start, ram.end.saturating_sub(ram.start)])?;
    fdt.end_node(node)
}
