//! Boot data whichever the architecture: its bounds, its errors, and writing it.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::GuestMemory;

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
    #[error("{cpus} vCPUs: a guest has 1 to {limit}")]
    Cpus {
        /// The number asked for.
        cpus: u8,
        /// The most.
        limit: u8,
    },
    /// More devices than can be described.
    #[error("{devices} virtio devices: a guest has at most {limit}")]
    Devices {
        /// The number asked for.
        devices: usize,
        /// The most.
        limit: usize,
    },
    /// The host has no random numbers for the guest's seed.
    #[error("get a random seed for the guest")]
    Seed(#[source] rustix::io::Errno),
    /// The device tree could not be made.
    #[error("make the device tree")]
    DeviceTree(#[source] vm_fdt::Error),
    /// Kernels map no more of a device tree.
    #[error("the device tree has {size} bytes, a kernel takes {limit}")]
    DeviceTreeTooLarge {
        /// Its length in bytes.
        size: usize,
        /// The most, in bytes.
        limit: usize,
    },
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

/// Checks the numbers of vCPUs and of virtio devices against what the layout has room for.
pub(super) fn check_counts(
    (cpus, max_cpus): (u8, u8),
    (devices, max_devices): (usize, usize),
) -> Result<(), BootDataError> {
    if !(1..=max_cpus).contains(&cpus) {
        return Err(BootDataError::Cpus { cpus, limit: max_cpus });
    }
    if devices > max_devices {
        return Err(BootDataError::Devices { devices, limit: max_devices });
    }
    Ok(())
}

/// Checks a command line, all of it, for a kernel that takes `limit` bytes.
pub(super) fn check_cmdline(cmdline: &str, limit: usize) -> Result<(), BootDataError> {
    if cmdline.len() > limit {
        return Err(BootDataError::CmdlineTooLong { length: cmdline.len(), limit });
    }
    match cmdline.bytes().position(|byte| byte.is_ascii_control()) {
        Some(position) => Err(BootDataError::CmdlineControlCharacter { position }),
        None => Ok(()),
    }
}

/// Random bytes of the host for a guest's seed.
pub(super) fn seed<const N: usize>() -> Result<[u8; N], BootDataError> {
    let mut seed = [0; N];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .map_err(BootDataError::Seed)?;
    Ok(seed)
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
