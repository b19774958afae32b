//! Placing the initial RAM disk in guest memory.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use vm_memory::{Bytes, GuestAddress};

use super::loader::LoadedKernel;
use super::memory_map::low_ram_end;
use crate::arch::Initrd;
use crate::memory::GuestMemory;

const PAGE_SIZE: u64 = 4096;

/// Why a file cannot be used as initial RAM disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitrdError {
    /// The file could not be read.
    #[error("read the initrd file")]
    Read(#[source] io::Error),
    /// The initrd could not be copied into guest memory.
    #[error("copy the initrd into guest memory")]
    Load(#[source] vm_memory::GuestMemoryError),
    /// Not a regular file.
    #[error("the initrd is not a regular file")]
    NotRegular,
    /// Nothing in it.
    #[error("the initrd file is empty")]
    Empty,
    /// There is no room for it above the kernel.
    #[error(
        "the initrd has {size} bytes, {room} are free above the kernel: give the guest more memory"
    )]
    TooLarge {
        /// Length of the file in bytes.
        size: u64,
        /// Bytes between the kernel and the highest place an initrd may have.
        room: u64,
    },
}

/// Places the initial RAM disk in `file` at the top of low RAM, above `kernel` and no higher than the
/// kernel can use it. The position of `file` moves.
///
/// # Errors
/// The file is empty, not a regular file, cannot be read, or does not fit above the kernel.
pub fn load_initrd(
    mem: &GuestMemory,
    file: &File,
    kernel: &LoadedKernel,
) -> Result<Initrd, InitrdError> {
    let metadata = file.metadata().map_err(InitrdError::Read)?;
    if !metadata.is_file() {
        return Err(InitrdError::NotRegular);
    }
    let size = metadata.len();
    if size == 0 {
        return Err(InitrdError::Empty);
    }
    let top = low_ram_end(mem).min(kernel.initrd_max().saturating_add(1));
    let address = place(size, kernel.end(), top)?;
    let mut source = file;
    source.seek(SeekFrom::Start(0)).map_err(InitrdError::Read)?;
    let length = usize::try_from(size).map_err(|_| InitrdError::TooLarge { size, room: top })?;
    mem.read_exact_volatile_from(GuestAddress(address), &mut source, length)
        .map_err(InitrdError::Load)?;
    Ok(Initrd { address, size })
}

/// The highest page-aligned address for `size` bytes that end at or below `top`, at or above
/// `kernel_end`.
fn place(size: u64, kernel_end: u64, top: u64) -> Result<u64, InitrdError> {
    let bottom = kernel_end.next_multiple_of(PAGE_SIZE);
    let address = top.saturating_sub(size) / PAGE_SIZE * PAGE_SIZE;
    if size > top || address < bottom {
        return Err(InitrdError::TooLarge { size, room: top.saturating_sub(bottom) });
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Elf, bzimage, file_with, loaded, read};
    use super::*;

    #[test]
    fn initrd_is_loaded_to_the_top_of_low_ram() {
        let (mem, kernel) = loaded(&Elf::new(b"code").image());
        let content = [0x55; 5000];
        let initrd = load_initrd(&mem, &file_with(&content), &kernel).unwrap();
        assert_eq!(initrd, Initrd { address: (64 << 20) - 0x2000, size: 5000 });
        assert_eq!(read(&mem, initrd.address, 5000), content);
    }

    #[test]
    fn initrd_stays_below_what_a_bzimage_can_reach() {
        let mut image = bzimage(b"code");
        image[0x22c..0x230].copy_from_slice(&0x3f_ffffu32.to_le_bytes());
        let (mem, kernel) = loaded(&image);
        let initrd = load_initrd(&mem, &file_with(b"initrd"), &kernel).unwrap();
        assert_eq!(initrd.address, 0x3f_f000);
    }

    /// K5.
    #[test]
    fn initrd_files_that_cannot_be_used_are_refused() {
        let (mem, kernel) = loaded(&Elf::new(b"code").image());
        let error = load_initrd(&mem, &file_with(b""), &kernel).unwrap_err();
        assert!(matches!(error, InitrdError::Empty), "{error}");
        let huge = file_with(b"x");
        for size in [64 << 20, 1 << 40] {
            huge.set_len(size).unwrap();
            let error = load_initrd(&mem, &huge, &kernel).unwrap_err();
            assert!(matches!(error, InitrdError::TooLarge { .. }), "{error}");
        }
        for path in ["/", "/dev/zero"] {
            let error = load_initrd(&mem, &File::open(path).unwrap(), &kernel).unwrap_err();
            assert!(matches!(error, InitrdError::NotRegular), "{path}: {error}");
        }
    }

    #[test]
    fn initrd_ends_at_the_top_of_ram_when_its_size_is_whole_pages() {
        assert_eq!(place(0x2000, 0x10_0000, 0x800_0000).unwrap(), 0x7ff_e000);
    }

    #[test]
    fn initrd_starts_on_a_page() {
        assert_eq!(place(0x2001, 0x10_0000, 0x800_0000).unwrap(), 0x7ff_d000);
        assert_eq!(place(1, 0x10_0000, 0x800_0fff).unwrap(), 0x800_0000);
    }

    #[test]
    fn initrd_that_exactly_fills_the_room_is_placed_and_one_byte_more_is_refused() {
        let (end, top) = (0x20_0001, 0x80_0000);
        let room = top - 0x20_1000;
        assert_eq!(place(room, end, top).unwrap(), 0x20_1000);
        let error = place(room + 1, end, top).unwrap_err();
        assert!(matches!(error, InitrdError::TooLarge { room: r, .. } if r == room), "{error}");
    }

    #[test]
    fn initrd_larger_than_memory_is_refused_without_wrapping() {
        assert!(place(u64::MAX, 0x10_0000, 0x800_0000).is_err());
        assert!(place(0x800_0001, 0x10_0000, 0x800_0000).is_err());
        assert!(place(1, 0x10_0000, 0).is_err());
    }
}
