//! Placing a kernel in guest memory: arm64 Images, as they are, gzip-compressed, or wrapped in an EFI
//! program that unpacks itself (zboot).
//!
//! The files are hostile input. Headers are read by checked helpers, every range is proven to lie inside
//! RAM before a byte is copied, and what is unpacked is bounded by that range.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

mod header;
mod packed;
#[cfg(test)]
mod tests;

use std::fs::File;

use self::header::Header;
use super::layout;
use super::memory_map::ram_end;
use crate::arch::foreign;
use crate::arch::kernel::KernelError;
use crate::arch::kernel_file::{KernelFile, u16_at};
use crate::config::BootProtocol;
use crate::memory::GuestMemory;

/// A kernel that lies in guest memory, with room for its device tree behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedKernel {
    entry: u64,
    device_tree: u64,
}

impl LoadedKernel {
    /// Guest physical address of the first instruction.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Where the device tree goes, which may take [`layout::DEVICE_TREE_SIZE`] bytes.
    pub(in crate::arch) fn device_tree(&self) -> u64 {
        self.device_tree
    }

    /// First guest physical address that the kernel and its device tree leave free.
    pub fn end(&self) -> u64 {
        self.device_tree + layout::DEVICE_TREE_SIZE
    }
}

/// What a file is that none of the formats fits.
const FORMATS: &str = "no arm64 Image, neither as it is nor compressed";

/// Places the kernel in `file` into guest memory.
///
/// The memory must be fresh: bytes that the image wants zero are left as they are. The position of `file`
/// moves.
///
/// # Errors
/// Anything about the file that keeps it from being booted, in one sentence.
pub fn load_kernel(
    mem: &GuestMemory,
    file: &File,
    protocol: BootProtocol,
) -> Result<LoadedKernel, KernelError> {
    if protocol != BootProtocol::Auto {
        return Err(KernelError::NoProtocol(protocol));
    }
    let file = KernelFile::open(file)?;
    let head = file.head();
    if foreign::is_arm64_image(head) {
        load_image(mem, &file)
    } else if foreign::is_zboot(head) && is_for_aarch64(head) {
        packed::load_zboot(mem, &file)
    } else if head.starts_with(packed::GZIP_MAGIC) {
        packed::load_gzip(mem, &file, 0, file.length())
    } else if foreign::is_elf(head) {
        Err(elf(head))
    } else {
        Err(foreign::name(head, FORMATS))
    }
}

/// An EFI program for another machine is named by what it is for; one without a header, as damaged.
fn is_for_aarch64(head: &[u8]) -> bool {
    matches!(foreign::machine_of_pe(head), None | Some(foreign::PE_AARCH64))
}

fn elf(head: &[u8]) -> KernelError {
    match u16_at(head, 18) {
        Some(foreign::EM_AARCH64) | None => KernelError::Elf,
        Some(machine) => KernelError::ForeignArchitecture { found: foreign::machine(machine) },
    }
}

/// An Image as it is. What follows it in the file (a signature) is not for the guest.
fn load_image(mem: &GuestMemory, file: &KernelFile<'_>) -> Result<LoadedKernel, KernelError> {
    let header = Header::parse(file.head(), file.length())?;
    header::check_sections(file)?;
    let size = match header.image_size {
        0 => file.length(),
        size => file.length().min(size),
    };
    let place = Place::new(mem, &header, size)?;
    file.load(mem, 0, size, place.start)?;
    Ok(place.kernel())
}

/// The piece of RAM that a kernel occupies, which leaves room for the device tree behind it.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u64,
    device_tree: u64,
}

impl Place {
    /// The place for the Image that `header` begins, of which `size` bytes are known to be there.
    fn new(mem: &GuestMemory, header: &Header, size: u64) -> Result<Self, KernelError> {
        let ram_end = ram_end(mem);
        let beyond =
            |end: Option<u64>| KernelError::BeyondRam { end: end.unwrap_or(u64::MAX), ram_end };
        let start =
            layout::RAM_START.checked_add(header.text_offset).ok_or_else(|| beyond(None))?;
        let device_tree = start
            .checked_add(header.image_size.max(size))
            .and_then(|end| end.checked_next_multiple_of(layout::DEVICE_TREE_SIZE));
        let end = device_tree.and_then(|start| start.checked_add(layout::DEVICE_TREE_SIZE));
        match (device_tree, end) {
            (Some(device_tree), Some(end)) if end <= ram_end => Ok(Self { start, device_tree }),
            _ => Err(beyond(end)),
        }
    }

    /// Most bytes that may be copied to the start.
    fn size(&self) -> u64 {
        self.device_tree.saturating_sub(self.start)
    }

    fn kernel(&self) -> LoadedKernel {
        LoadedKernel { entry: self.start, device_tree: self.device_tree }
    }
}
