//! The x86_64 machine: its address space, its boot protocols, its processors.

mod acpi;
mod boot_data;
mod cpuid;
mod initrd;
pub mod layout;
mod loader;
mod memory_map;
mod mptable;
mod msr;
mod page_tables;
mod platform;
mod probe;
mod pvh;
mod registers;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
mod vcpu;
mod zero_page;

pub use boot_data::{Entry, write_boot_data};
pub use initrd::load_initrd;
pub use loader::{LoadedKernel, load_kernel};
pub use memory_map::{memory_regions, virtio_mmio_placement};
pub use platform::{
    CONTAINER_MACHINE, KERNEL_PARAMETERS, PLATFORM, SERIAL, hypervisor, power_button,
};
pub use probe::{
    PROBE_CODE, PROBE_ROUND_LEN, PROBE_ROUNDS, PROBE_START, configure_probe, probe_step,
};
pub use vcpu::{
    CpuError, HostCpu, InterruptController, configure_vcpu, create_vcpus, sleeps_forever,
};
