//! What differs between processor architectures, behind one list of names.
//!
//! This file is the contract: the architecture's own module exports everything named in the `pub use`
//! below, and nothing outside `arch` asks which architecture it was built for. The functions take plain
//! values (guest memory, KVM file descriptors, [`Placement`]s), never a device or a device manager.
//!
//! The order in which a machine is built with them:
//!
//! 1. [`HostCpu::probe`] once per process;
//! 2. [`memory_regions`], and the memory slots of the VM;
//! 3. [`create_vcpus`], which makes the interrupt controller too: memory slots come first, because
//!    adding one afterwards waits for an SRCU grace period in the kernel;
//! 4. devices, at the addresses of [`layout`] and [`virtio_mmio_placement`];
//! 5. [`load_kernel`], then [`load_initrd`];
//! 6. [`write_boot_data`], which tells the guest what it was given and says where to start;
//! 7. [`configure_vcpu`] for every vCPU.

#[cfg(target_arch = "x86_64")]
#[path = "x86_64/mod.rs"]
mod native;
#[cfg(not(target_arch = "x86_64"))]
compile_error!("this architecture is not supported: src/arch has no module for it");

pub use native::{
    BootDataError, CpuError, Entry, EntryProtocol, HostCpu, InitrdError, KernelError, LoadedKernel,
    configure_vcpu, create_vcpus, layout, load_initrd, load_kernel, memory_regions, sleeps_forever,
    virtio_mmio_placement, write_boot_data,
};

pub use native::{PROBE_CODE, PROBE_ROUND_LEN, PROBE_ROUNDS, PROBE_START, configure_probe};

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

/// An initial RAM disk that lies in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd {
    /// First guest physical address; page aligned.
    pub address: u64,
    /// Length in bytes.
    pub size: u64,
}

/// How the guest learns which devices and processors exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Description {
    /// ACPI tables.
    #[default]
    Acpi,
    /// No ACPI. On x86_64: an MP table, and virtio devices named on the kernel command line.
    Legacy,
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
    /// How devices and processors are described.
    pub description: Description,
    /// Number of vCPUs, 1 to [`layout::MAX_CPUS`].
    pub cpus: u8,
    /// Whether the machine has its serial port.
    pub serial: bool,
    /// The virtio-mmio devices.
    pub virtio_mmio: &'a [Placement],
}
