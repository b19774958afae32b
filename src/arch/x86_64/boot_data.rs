//! What the guest finds in memory when it starts: command line, tables, start information.

use super::loader::EntryProtocol;
use super::{acpi, layout, mptable, pvh, zero_page};
pub(super) use crate::arch::boot::{BootDataError, write_bytes};
use crate::arch::boot::{check_cmdline, check_counts};
use crate::arch::{BootData, Placement};
use crate::memory::GuestMemory;

/// Where and how the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(super) protocol: EntryProtocol,
    /// Guest physical address of the first instruction.
    pub(super) address: u64,
    /// Guest physical address of `hvm_start_info` or `boot_params`.
    pub(super) start_info: u64,
}

/// Writes everything the guest finds in its memory at start: the command line, the MP table, the ACPI tables
/// unless it is to do without, and the start information of the kernel's boot protocol.
///
/// Without ACPI the virtio devices are named at the front of the command line.
///
/// # Errors
/// The command line is too long or has a control character in it; more vCPUs or devices than the layout
/// has room for; guest memory smaller than the boot data.
pub fn write_boot_data(mem: &GuestMemory, data: &BootData<'_>) -> Result<Entry, BootDataError> {
    check_counts((data.cpus, layout::MAX_CPUS), (data.virtio_mmio.len(), layout::MAX_VIRTIO_MMIO))?;
    write_cmdline(mem, data)?;
    write_bytes(mem, "the BIOS entry", layout::BIOS_ENTRY, &BIOS_RESTART)?;
    // Also with ACPI, where it counts for nothing: Linux looks for it all the same, and maps and unmaps the
    // area of the BIOS for every 16 bytes of it until it is found.
    mptable::write(mem, data)?;
    let rsdp = data.acpi.then(|| acpi::write(mem, data)).transpose()?;
    let protocol = data.kernel.protocol();
    let start_info = match protocol {
        EntryProtocol::Pvh => pvh::write(mem, data, rsdp)?,
        EntryProtocol::Linux64 => zero_page::write(mem, data, rsdp)?,
    };
    Ok(Entry { protocol, address: data.kernel.entry(), start_info })
}

/// All the BIOS there is: real-mode code that writes the reset register. Linux with EFI support restarts
/// this way on machines with hardware-reduced ACPI (Linux: arch/x86/kernel/reboot.c).
const BIOS_RESTART: [u8; 9] = {
    let [port_low, port_high] = layout::ACPI_RESET_PORT.to_le_bytes();
    [
        0xba,
        port_low,
        port_high, // mov $port, %dx
        0xb0,
        layout::ACPI_RESET, // mov $value, %al
        0xee,               // out %al, (%dx)
        0xf4,               // 1: hlt
        0xeb,
        0xfd, // jmp 1b
    ]
};

fn write_cmdline(mem: &GuestMemory, data: &BootData<'_>) -> Result<(), BootDataError> {
    let mut cmdline = if data.acpi {
        data.cmdline.to_owned()
    } else {
        // In front, because a `--` in the command line ends what the kernel takes for itself.
        virtio_mmio_parameters(data.virtio_mmio) + data.cmdline
    };
    check_cmdline(&cmdline, data.kernel.cmdline_max())?;
    cmdline.push('\0');
    write_bytes(mem, "the command line", layout::CMDLINE, cmdline.as_bytes())
}

/// The kernel parameters that name `devices`, each followed by a space
/// (Linux: Documentation/admin-guide/kernel-parameters.txt, `virtio_mmio.device`).
fn virtio_mmio_parameters(devices: &[Placement]) -> String {
    devices
        .iter()
        .map(|Placement { base, size, gsi }| {
            format!("virtio_mmio.device={size:#x}@{base:#x}:{gsi} ")
        })
        .collect()
}

#[cfg(test)]
mod tests;
