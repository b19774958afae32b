//! Placing the initial RAM disk in guest memory.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::fs::File;
use std::io;

use super::loader::LoadedKernel;
use crate::arch::Initrd;
use crate::memory::GuestMemory;

/// Why a file cannot be used as initial RAM disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitrdError {
    /// The file could not be read.
    #[error("read the initrd file")]
    Read(#[source] io::Error),
}

/// Places the initial RAM disk in `file` at the top of low RAM, above `kernel`.
///
/// # Errors
/// The file is empty, not a regular file, cannot be read, or does not fit above the kernel.
pub fn load_initrd(
    mem: &GuestMemory,
    file: &mut File,
    kernel: &LoadedKernel,
) -> Result<Initrd, InitrdError> {
    todo!()
}
