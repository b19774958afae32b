//! Placing the initial RAM disk in guest memory.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;

use vm_memory::{Bytes, GuestAddress};

use super::Initrd;
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

/// Places the initial RAM disk in `file` at the top of `room`, which is memory. The position of `file`
/// moves.
pub(super) fn load(
    mem: &GuestMemory,
    file: &File,
    room: Range<u64>,
) -> Result<Initrd, InitrdError> {
    let metadata = file.metadata().map_err(InitrdError::Read)?;
    if !metadata.is_file() {
        return Err(InitrdError::NotRegular);
    }
    let size = metadata.len();
    if size == 0 {
        return Err(InitrdError::Empty);
    }
    let top = room.end;
    let address = place(size, room)?;
    let mut source = file;
    source.seek(SeekFrom::Start(0)).map_err(InitrdError::Read)?;
    let length = usize::try_from(size).map_err(|_| InitrdError::TooLarge { size, room: top })?;
    mem.read_exact_volatile_from(GuestAddress(address), &mut source, length)
        .map_err(InitrdError::Load)?;
    Ok(Initrd { address, size })
}

/// The highest page-aligned address for `size` bytes inside `room`.
fn place(size: u64, room: Range<u64>) -> Result<u64, InitrdError> {
    let Range { start, end: top } = room;
    let bottom = start.next_multiple_of(PAGE_SIZE);
    let address = top.saturating_sub(size) / PAGE_SIZE * PAGE_SIZE;
    if size > top || address < bottom {
        return Err(InitrdError::TooLarge { size, room: top.saturating_sub(bottom) });
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initrd_ends_at_the_top_of_ram_when_its_size_is_whole_pages() {
        assert_eq!(place(0x2000, 0x10_0000..0x800_0000).unwrap(), 0x7ff_e000);
    }

    #[test]
    fn initrd_starts_on_a_page() {
        assert_eq!(place(0x2001, 0x10_0000..0x800_0000).unwrap(), 0x7ff_d000);
        assert_eq!(place(1, 0x10_0000..0x800_0fff).unwrap(), 0x800_0000);
    }

    #[test]
    fn initrd_that_exactly_fills_the_room_is_placed_and_one_byte_more_is_refused() {
        let (end, top) = (0x20_0001, 0x80_0000);
        let room = top - 0x20_1000;
        assert_eq!(place(room, end..top).unwrap(), 0x20_1000);
        let error = place(room + 1, end..top).unwrap_err();
        assert!(matches!(error, InitrdError::TooLarge { room: r, .. } if r == room), "{error}");
    }

    #[test]
    fn initrd_larger_than_memory_is_refused_without_wrapping() {
        assert!(place(u64::MAX, 0x10_0000..0x800_0000).is_err());
        assert!(place(0x800_0001, 0x10_0000..0x800_0000).is_err());
        assert!(place(1, 0x10_0000..0x10_0000).is_err());
    }
}
