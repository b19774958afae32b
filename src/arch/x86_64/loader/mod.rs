//! Placing a kernel in guest memory: ELF64 images (`vmlinux`, freestanding programs) and bzImages.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::fs::File;
use std::io;

use crate::memory::GuestMemory;

/// By which convention the kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootProtocol {
    /// PVH when the ELF image carries the note for it, the 64-bit Linux protocol otherwise.
    #[default]
    Auto,
    /// The PVH entry: 32-bit protected mode, `hvm_start_info` in `ebx` (Xen: docs/misc/pvh.pandoc).
    Pvh,
    /// The 64-bit Linux entry: long mode, `boot_params` in `rsi` (Linux: boot.rst, 64-bit Boot Protocol).
    Linux64,
}

/// A kernel that lies in guest memory, and what it said about itself.
#[derive(Clone, Debug)]
pub struct LoadedKernel {}

impl LoadedKernel {
    /// The protocol it will be entered by: never [`BootProtocol::Auto`].
    pub fn protocol(&self) -> BootProtocol {
        todo!()
    }
    /// Guest physical address of the first instruction.
    pub fn entry(&self) -> u64 {
        todo!()
    }
    /// First guest physical address the kernel leaves free.
    pub fn end(&self) -> u64 {
        todo!()
    }
}

/// Why a file cannot be booted as a kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The file could not be read.
    #[error("read the kernel file")]
    Read(#[source] io::Error),
}

/// Places the kernel in `file` into guest memory.
///
/// The memory must be fresh: bytes that the image wants zero are left as they are. Only bytes that the
/// kernel needs are read, straight into guest memory. The file is hostile input: every offset, size and
/// address in it is checked before use.
///
/// # Errors
/// Anything about the file that keeps it from being booted, in one sentence.
pub fn load_kernel(
    mem: &GuestMemory,
    file: &mut File,
    protocol: BootProtocol,
) -> Result<LoadedKernel, KernelError> {
    todo!()
}
