//! The aarch64 machine: its address space, its boot protocol, its processors.

mod boot_data;
mod features;
mod gic;
mod probe;
#[path = "pure.rs"]
mod pure;
#[cfg(test)]
mod tests;
mod vcpu;

pub use boot_data::write_boot_data;
pub use probe::{
    PROBE_CODE, PROBE_ROUND_LEN, PROBE_ROUNDS, PROBE_START, configure_probe, probe_step,
};
pub use pure::fdt::{Entry, InterruptController};
pub use pure::initrd::load_initrd;
pub use pure::layout;
pub use pure::loader::{LoadedKernel, load_kernel};
pub use pure::memory_map::{memory_regions, virtio_mmio_placement};
pub use pure::platform::{
    CONTAINER_MACHINE, KERNEL_PARAMETERS, PLATFORM, SERIAL, hypervisor, power_button,
};
pub use vcpu::{CpuError, HostCpu, configure_vcpu, create_vcpus, sleeps_forever};
