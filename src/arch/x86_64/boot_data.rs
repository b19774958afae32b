//! What the guest finds in memory when it starts: command line, tables, start information.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::loader::EntryProtocol;
use super::{acpi, layout, mptable, pvh, zero_page};
use crate::arch::{BootData, Description, Placement};
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

/// Why the boot data could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootDataError {
    /// The command line does not fit.
    #[error("the kernel command line has {length} bytes, the kernel takes {limit}")]
    CmdlineTooLong {
        /// Its length, with what was added to it.
        length: usize,
        /// The most the kernel takes.
        limit: usize,
    },
    /// The command line has something in it that would end it early.
    #[error("the kernel command line has a control character at byte {position}")]
    CmdlineControlCharacter {
        /// Where it is.
        position: usize,
    },
    /// A number of vCPUs that cannot be described.
    #[error("{cpus} vCPUs: a guest has 1 to {}", layout::MAX_CPUS)]
    Cpus {
        /// The number asked for.
        cpus: u8,
    },
    /// More devices than can be described.
    #[error("{devices} virtio devices: a guest has at most {}", layout::MAX_VIRTIO_MMIO)]
    Devices {
        /// The number asked for.
        devices: usize,
    },
    /// The host has no random numbers for the guest's seed.
    #[error("get a random seed for the guest")]
    Seed(#[source] rustix::io::Errno),
    /// Guest memory has no room for it.
    #[error("write {what} to guest memory")]
    Write {
        /// What was written.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: GuestMemoryError,
    },
}

/// Writes everything the guest finds in its memory at start: the command line, the MP table, the ACPI tables
/// unless it is to do without, and the start information of the kernel's boot protocol.
///
/// With [`Description::Legacy`] the virtio devices are named at the front of the command line.
///
/// # Errors
/// The command line is too long or has a control character in it; more vCPUs or devices than the layout
/// has room for; guest memory smaller than the boot data.
pub fn write_boot_data(mem: &GuestMemory, data: &BootData<'_>) -> Result<Entry, BootDataError> {
    if !(1..=layout::MAX_CPUS).contains(&data.cpus) {
        return Err(BootDataError::Cpus { cpus: data.cpus });
    }
    if data.virtio_mmio.len() > layout::MAX_VIRTIO_MMIO {
        return Err(BootDataError::Devices { devices: data.virtio_mmio.len() });
    }
    write_cmdline(mem, data)?;
    write_bytes(mem, "the BIOS entry", layout::BIOS_ENTRY, &BIOS_RESTART)?;
    // Also with ACPI, where it counts for nothing: Linux looks for it all the same, and maps and unmaps the
    // area of the BIOS for every 16 bytes of it until it is found.
    mptable::write(mem, data)?;
    let rsdp = match data.description {
        Description::Acpi => Some(acpi::write(mem, data)?),
        Description::Legacy => None,
    };
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
    let mut cmdline = match data.description {
        Description::Acpi => data.cmdline.to_owned(),
        // In front, because a `--` in the command line ends what the kernel takes for itself.
        Description::Legacy => virtio_mmio_parameters(data.virtio_mmio) + data.cmdline,
    };
    let limit = data.kernel.cmdline_max();
    if cmdline.len() > limit {
        return Err(BootDataError::CmdlineTooLong { length: cmdline.len(), limit });
    }
    if let Some(position) = cmdline.bytes().position(|byte| byte.is_ascii_control()) {
        return Err(BootDataError::CmdlineControlCharacter { position });
    }
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

/// Writes `bytes` at `address`; `what` names them in the error.
pub(super) fn write_bytes(
    mem: &GuestMemory,
    what: &'static str,
    address: u64,
    bytes: &[u8],
) -> Result<(), BootDataError> {
    mem.write_slice(bytes, GuestAddress(address))
        .map_err(|source| BootDataError::Write { what, source })
}

#[cfg(test)]
mod tests;
