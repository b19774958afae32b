//! What differs between processor architectures, behind one list of names.
//!
//! This file is the contract: the architecture's own module exports everything named in the `pub use`
//! below, and nothing outside `arch` is compiled for one architecture and not for the other. The functions take plain
//! values (guest memory, KVM file descriptors, [`Placement`]s), never a device or a device manager.
//!
//! The order in which a machine is built with them:
//!
//! 1. [`HostCpu::probe`] once per process;
//! 2. [`memory_regions`], and the memory slots of the VM;
//! 3. [`create_vcpus`], which makes the interrupt controller too, and refuses features of CPUs that are not to be
//!    had ([`CpuError`]`::Feature`): memory slots come first, because
//!    adding one afterwards waits for an SRCU grace period in the kernel, and interrupt lines after it,
//!    because there is nothing to connect them to before;
//! 4. devices: the serial port at [`SERIAL`], those of [`PLATFORM`], and virtio devices at
//!    [`virtio_mmio_placement`];
//! 5. [`load_kernel`], then [`load_initrd`];
//! 6. [`write_boot_data`], which tells the guest what it was given and says where to start;
//! 7. [`configure_vcpu`] for every vCPU.

mod boot;
mod foreign;
mod initrd;
mod kernel;
mod kernel_file;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "aarch64")]
#[path = "aarch64/mod.rs"]
mod native;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64/mod.rs"]
mod native;
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
compile_error!("this architecture is not supported: src/arch has no module for it");

/// Of two groups of items, the one for the architecture that this is built for. For tests beside this library, which
/// differ where machines do.
#[macro_export]
macro_rules! by_architecture {
    (aarch64 { $($on_aarch64:item)* } x86_64 { $($on_x86_64:item)* }) => {
        $(#[cfg(target_arch = "aarch64")] $on_aarch64)*
        $(#[cfg(target_arch = "x86_64")] $on_x86_64)*
    };
}

/// What of another architecture asks nothing of KVM, for its tests, which run on any machine.
#[cfg(all(test, not(target_arch = "aarch64")))]
#[expect(dead_code, unreachable_pub, reason = "it is used, and public, on its own architecture")]
#[path = "aarch64/pure.rs"]
mod aarch64;
#[cfg(all(test, target_arch = "aarch64"))]
use native as aarch64;

use crate::config::CpuFeature;

pub use boot::BootDataError;
pub use initrd::InitrdError;
pub use kernel::KernelError;
pub use native::{
    CONTAINER_MACHINE, CpuError, Entry, HostCpu, InterruptController, KERNEL_PARAMETERS,
    LoadedKernel, PLATFORM, SERIAL, configure_vcpu, create_vcpus, layout, load_initrd, load_kernel,
    memory_regions, power_button, sleeps_forever, virtio_mmio_placement, write_boot_data,
};

pub use native::{
    PROBE_CODE, PROBE_ROUND_LEN, PROBE_ROUNDS, PROBE_START, configure_probe, hypervisor, probe_step,
};

/// Where a memory-mapped device sits: a range of guest physical addresses and an interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// First guest physical address.
    pub base: u64,
    /// Length of the register window in bytes.
    pub size: u64,
    /// The line on the interrupt controller, as `KVM_IRQFD` counts them. Edge triggered.
    pub gsi: u32,
}

impl Placement {
    /// The one that comes `count` windows and lines behind it; `None` if there is none.
    fn followed_by(self, count: usize) -> Option<Self> {
        let count = u32::try_from(count).ok()?;
        let base = self.base.checked_add(u64::from(count).checked_mul(self.size)?)?;
        Some(Self { base, gsi: self.gsi.checked_add(count)?, ..self })
    }
}

/// The two ways in which a vCPU reaches devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// By port instructions, which not every architecture has.
    Ports,
    /// By loads and stores at guest physical addresses.
    Memory,
}

/// Where a device of the platform sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// How it is reached.
    pub space: Space,
    /// First port or address.
    pub base: u64,
    /// Number of ports, or length in bytes.
    pub size: u64,
}

/// A device without an interrupt that every machine of an architecture has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlatformDevice {
    /// A keyboard controller of which nothing but its reset command is there.
    KeyboardController,
    /// A register that powers the machine off when this value is written.
    PowerOffRegister(u8),
    /// A register that resets the machine when this value is written.
    ResetRegister(u8),
    /// Where a kernel says that it panicked.
    PanicNotifier,
    /// A clock that knows the time of day.
    RealTimeClock,
}

/// What kernels of an architecture are told on their default command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelParameters {
    /// To print to the serial port.
    pub serial_console: &'static [&'static str],
    /// To print to the virtio console and, as long as that is not there, to the serial port.
    pub virtio_console: &'static [&'static str],
    /// To do without ACPI, where ACPI is usual.
    pub without_acpi: &'static [&'static str],
    /// What follows the user's own words, so that a `quiet` among them holds for it already.
    pub last: &'static [&'static str],
}

/// What the machine of a container has of its architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerMachine {
    /// How its kernel is entered, where that can be chosen and one way is faster than the usual one.
    pub boot_protocol: Option<&'static str>,
    /// Words for its kernel that other machines are not told.
    pub kernel_parameters: &'static [&'static str],
    /// Options by which its kernel finds the devices, without the prefix `CONFIG_`.
    pub discovery: &'static [&'static str],
}

/// What an exit of the probe's guest means: see [`probe_step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeStep {
    /// It has executed another [`PROBE_ROUND_LEN`] instructions.
    Round,
    /// It has come to its end.
    End,
    /// It stands before an instruction that nothing here executes.
    Stuck,
}

/// An initial RAM disk that lies in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd {
    /// First guest physical address; page aligned.
    pub address: u64,
    /// Length in bytes.
    pub size: u64,
}

/// What [`write_boot_data`] tells the guest about the machine it runs on.
#[derive(Clone, Copy, Debug)]
pub struct BootData<'a> {
    /// The kernel as [`load_kernel`] placed it.
    pub kernel: &'a LoadedKernel,
    /// The kernel command line, without a final NUL.
    pub cmdline: &'a str,
    /// The initial RAM disk, if there is one.
    pub initrd: Option<Initrd>,
    /// What [`create_vcpus`] made.
    pub interrupt_controller: InterruptController,
    /// Whether ACPI tables describe the machine, where that can be chosen. On x86_64 it is an MP table and
    /// the command line otherwise; on aarch64 it is always a device tree.
    pub acpi: bool,
    /// Number of vCPUs, 1 to [`layout::MAX_CPUS`].
    pub cpus: u8,
    /// What [`create_vcpus`] gave them.
    pub cpu_features: &'a [CpuFeature],
    /// Whether the machine has its serial port.
    pub serial: bool,
    /// The virtio-mmio devices.
    pub virtio_mmio: &'a [Placement],
}
