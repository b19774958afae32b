//! Placing a kernel in guest memory: ELF64 images (`vmlinux`, freestanding programs) and bzImages.
//!
//! The files are hostile input. Headers are read by checked helpers, every range is proven to lie inside
//! the file and inside low RAM before a byte is copied, and the work is bounded by the size of low RAM.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

mod bzimage;
mod elf;
#[cfg(test)]
mod tests;

use std::fs::File;

pub(super) use self::bzimage::SETUP_HEADER_OFFSET;
use super::layout;
use super::memory_map::low_ram_end;
use crate::arch::foreign;
use crate::arch::kernel::KernelError;
use crate::arch::kernel_file::KernelFile;
use crate::config::BootProtocol;
use crate::memory::GuestMemory;

/// The protocol a loaded kernel is entered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryProtocol {
    /// See [`BootProtocol::Pvh`].
    Pvh,
    /// See [`BootProtocol::Linux64`].
    Linux64,
}

/// A kernel that lies in guest memory, and what it said about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedKernel {
    protocol: EntryProtocol,
    entry: u64,
    end: u64,
    initrd_max: u64,
    cmdline_max: usize,
    setup_header: Vec<u8>,
}

impl LoadedKernel {
    /// The protocol the kernel will be entered by.
    pub fn protocol(&self) -> EntryProtocol {
        self.protocol
    }

    /// Guest physical address of the first instruction.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// First guest physical address that the kernel leaves free, zeroed data included.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Highest guest physical address that the last byte of an initrd may have.
    pub(super) fn initrd_max(&self) -> u64 {
        self.initrd_max
    }

    /// Longest command line in bytes, without the final NUL.
    pub(super) fn cmdline_max(&self) -> usize {
        self.cmdline_max
    }

    /// The setup header of a bzImage, as it goes into the zero page; empty for ELF.
    pub(super) fn setup_header(&self) -> &[u8] {
        &self.setup_header
    }
}

/// What a file is that none of the formats fits.
const FORMATS: &str = "neither an ELF image (vmlinux) nor a bzImage";

/// Places the kernel in `file` into guest memory.
///
/// The memory must be fresh: bytes that the image wants zero are left as they are. Only bytes that the
/// kernel needs are read, straight into guest memory. The position of `file` moves.
///
/// # Errors
/// Anything about the file that keeps it from being booted, in one sentence.
pub fn load_kernel(
    mem: &GuestMemory,
    file: &File,
    protocol: BootProtocol,
) -> Result<LoadedKernel, KernelError> {
    let image = KernelFile::open(file)?;
    if foreign::is_elf(image.head()) {
        elf::load(mem, &image, protocol)
    } else if foreign::is_bzimage(image.head()) {
        bzimage::load(mem, &image, protocol)
    } else {
        Err(foreign::name(image.head(), FORMATS))
    }
}

/// A range of guest physical addresses a kernel may occupy: above the boot data, inside low RAM.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: u64,
    end: u64,
}

impl Range {
    /// Checks `size` bytes from `start` against the RAM of `mem`.
    fn new(mem: &GuestMemory, start: u64, size: u64) -> Result<Self, KernelError> {
        let end = start.checked_add(size).ok_or(KernelError::InMmioGap { end: u64::MAX })?;
        let ram_end = low_ram_end(mem);
        if start < layout::KERNEL_START {
            Err(KernelError::BelowKernelStart { address: start })
        } else if end > layout::MMIO_GAP_START {
            Err(KernelError::InMmioGap { end })
        } else if end > ram_end {
            Err(KernelError::BeyondRam { end, ram_end })
        } else {
            Ok(Self { start, end })
        }
    }

    fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}
