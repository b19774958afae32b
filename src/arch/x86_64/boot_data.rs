//! What the guest finds in memory when it starts: command line, tables, start information.

use super::loader::BootProtocol;
use crate::arch::BootData;
use crate::memory::GuestMemory;

/// Where and how the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The protocol: never [`BootProtocol::Auto`].
    pub protocol: BootProtocol,
    /// Guest physical address of the first instruction.
    pub address: u64,
    /// Guest physical address of the start information: `hvm_start_info` or `boot_params`.
    pub start_info: u64,
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
}

/// Writes everything the guest finds in its memory at start: the command line, the ACPI tables or the MP
/// table, and the start information of the kernel's boot protocol.
///
/// With [`Description::Legacy`](crate::arch::Description::Legacy) the virtio devices are named at the
/// front of the command line.
///
/// # Errors
/// The command line is too long or holds a NUL or a newline; more vCPUs or devices than the layout has
/// room for; guest memory smaller than the boot data.
pub fn write_boot_data(mem: &GuestMemory, data: &BootData<'_>) -> Result<Entry, BootDataError> {
    todo!()
}
