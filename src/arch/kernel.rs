//! Why a file cannot be booted as a kernel, whichever the architecture.

use std::io;

use crate::config::BootProtocol;

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
    /// Nothing that we know.
    #[error("the file is {0}")]
    UnknownFormat(
        /// What it is not.
        &'static str,
    ),
    /// A kernel that is wrapped in a file compressed in a way that is not unpacked here.
    #[error("the kernel is {format}-compressed: decompress it first")]
    Compressed {
        /// Name of the compression format.
        format: &'static str,
    },
    /// A program for another processor.
    #[error(
        "the kernel is built for {found}, this machine runs {} kernels",
        std::env::consts::ARCH
    )]
    ForeignArchitecture {
        /// What it is built for.
        found: &'static str,
    },
    /// An ELF image, which this architecture has no way to boot.
    #[error("the kernel is an ELF image (vmlinux): use the Image of the same build")]
    Elf,
    /// A boot protocol of another architecture.
    #[error("no kernel of this architecture has the boot protocol {0:?}")]
    NoProtocol(BootProtocol),
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
    /// A header of an arm64 Image that makes no sense.
    #[error("the Image is damaged: {0}")]
    BadImage(&'static str),
    /// What a compressed kernel unpacks to cannot be had.
    #[error("unpack the kernel")]
    Unpack(#[source] io::Error),
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
        /// First address after the memory that a kernel may take.
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
