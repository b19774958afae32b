//! What the guest finds in memory when it starts.

use std::path::Path;

use super::pure::caches;
use super::pure::fdt::{self, Entry, Machine};
use crate::arch::BootData;
use crate::arch::boot::BootDataError;
use crate::config::CpuFeature;
use crate::memory::GuestMemory;

/// Writes the device tree, which is all that the guest finds in its memory at start.
///
/// # Errors
/// The command line is too long or has a control character in it; more vCPUs or devices than the layout
/// has room for; a device tree that is larger than kernels take.
pub fn write_boot_data(mem: &GuestMemory, data: &BootData<'_>) -> Result<Entry, BootDataError> {
    let caches = caches::read(Path::new("/sys/devices/system/cpu/cpu0/cache"));
    let machine = Machine {
        cmdline: data.cmdline,
        initrd: data.initrd,
        interrupt_controller: data.interrupt_controller,
        cpus: data.cpus,
        caches: &caches,
        performance_counters: data.cpu_features.contains(&CpuFeature::Pmu),
        serial: data.serial,
        virtio_mmio: data.virtio_mmio,
    };
    fdt::write(mem, data.kernel, &machine)
}
