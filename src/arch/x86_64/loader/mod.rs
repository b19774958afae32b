//! Placing a kernel in guest memory: ELF64 images (`vmlinux`, freestanding programs) and bzImages.
//!
//! The files are hostile input. Headers are read by checked helpers, every range is proven to lie inside
//! the file and inside low RAM before a byte is copied, and the work is bounded by the size of low RAM.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

mod bzimage;
mod elf;
mod foreign;
mod image;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;

pub(super) use self::bzimage::SETUP_HEADER_OFFSET;
use self::image::Image;
use super::layout;
use super::memory_map::low_ram_end;
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

/// Why a file cannot be booted as a kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The file could not be read.
    #[error("read the kernel file")]
    Read(#[source] io::Error),
    /// The kernel could not be copied into guest memory.
    #[error("copy the kernel into guest memory")]
    Load(#[source] vm_memory::GuestMemoryError),
    /// Not a regular file.
    #[error("the kernel is not a regular file")]
    NotRegular,
    /// Nothing in it.
    #[error("the kernel file is empty")]
    Empty,
    /// Neither ELF nor bzImage nor anything else we know.
    #[error("the file is neither an ELF image (vmlinux) nor a bzImage")]
    UnknownFormat,
    /// A kernel that is wrapped in a compressed file.
    #[error("the kernel is {format}-compressed: decompress it first, or use a vmlinux or bzImage")]
    Compressed {
        /// Name of the compression format.
        format: &'static str,
    },
    /// A program for another processor.
    #[error("the kernel is built for {found}, this machine runs x86_64 kernels")]
    ForeignArchitecture {
        /// What it is built for.
        found: &'static str,
    },
    /// The file ends early.
    #[error("the kernel file is truncated: its {part} ends at byte {end}, the file at {length}")]
    Truncated {
        /// Which part is cut off.
        part: &'static str,
        /// Where that part would end.
        end: u64,
        /// Length of the file.
        length: u64,
    },
    /// An ELF header that makes no sense.
    #[error("the ELF image is damaged: {0}")]
    BadElf(&'static str),
    /// A bzImage header that makes no sense.
    #[error("the bzImage is damaged: {0}")]
    BadBzImage(&'static str),
    /// A bzImage of a protocol without 64-bit entry.
    #[error("the bzImage has no 64-bit entry: it is a 32-bit kernel or older than Linux 3.8")]
    No64BitEntry,
    /// PVH was demanded and the kernel does not have it.
    #[error("the kernel has no PVH entry: it needs an ELF image built with CONFIG_PVH=y")]
    NoPvhEntry,
    /// It would overwrite the boot data.
    #[error("the kernel wants address {address:#x}: memory below 1 MiB holds the boot data")]
    BelowKernelStart {
        /// The address it wants.
        address: u64,
    },
    /// More memory is needed.
    #[error(
        "the kernel needs memory up to {end:#x}, the guest's ends at {ram_end:#x}: give it more"
    )]
    BeyondRam {
        /// First address after the kernel.
        end: u64,
        /// First address after low RAM.
        ram_end: u64,
    },
    /// It wants memory that no guest has.
    #[error("the kernel wants memory up to {end:#x}, beyond the RAM below the MMIO gap")]
    InMmioGap {
        /// First address after the kernel.
        end: u64,
    },
    /// The first instruction is not in the kernel.
    #[error("the kernel's entry {entry:#x} lies outside of what it loads")]
    EntryOutside {
        /// The entry.
        entry: u64,
    },
    /// Larger than this process can address.
    #[error("the kernel file is too large")]
    TooLarge,
}

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
    let image = Image::open(file)?;
    if elf::is_elf(image.head()) {
        elf::load(mem, &image, protocol)
    } else if bzimage::is_bzimage(image.head()) {
        bzimage::load(mem, &image, protocol)
    } else {
        Err(foreign::name(image.head()))
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
