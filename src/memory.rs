//! Guest memory: the type every module shares, and its one way into the kernel's scatter lists.

// UNSAFETY: scatter lists over guest memory are built from raw pointers into its mapping.
#![expect(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap};

/// The guest's physical memory: anonymous private mappings, one per region.
pub type GuestMemory = GuestMemoryMmap<()>;

/// A checked range of guest memory, wholly inside one region when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestRange {
    /// Guest physical address of the first byte.
    pub addr: GuestAddress,
    /// Length in bytes.
    pub len: u32,
}

/// Scatter lists longer than this are refused by `readv` and `writev` (IOV_MAX of Linux).
pub const MAX_IOVECS: usize = 1024;

/// Appends to `out` an I/O vector for each of `ranges`, for the kernel to read from.
///
/// # Errors
/// A range that is not inside one region of `mem`.
pub fn push_io_slices<'m>(
    mem: &'m GuestMemory,
    ranges: &[GuestRange],
    out: &mut Vec<IoSlice<'m>>,
) -> Result<(), GuestMemoryError> {
    for range in ranges {
        let slice = mem.get_slice(range.addr, range.len.try_into().unwrap_or(usize::MAX))?;
        let guard = slice.ptr_guard();
        // SAFETY: `get_slice` checked that the range lies inside a mapping that lives as long as
        // `'m`. The bytes are only handed to the kernel and never read through this slice, so
        // that the guest changing them meanwhile is no data race of this process.
        out.push(IoSlice::new(unsafe { std::slice::from_raw_parts(guard.as_ptr(), slice.len()) }));
    }
    Ok(())
}

/// Appends to `out` an I/O vector for each of `ranges`, for the kernel to write to.
///
/// # Errors
/// A range that is not inside one region of `mem`.
pub fn push_io_slices_mut<'m>(
    mem: &'m GuestMemory,
    ranges: &[GuestRange],
    out: &mut Vec<IoSliceMut<'m>>,
) -> Result<(), GuestMemoryError> {
    for range in ranges {
        let slice = mem.get_slice(range.addr, range.len.try_into().unwrap_or(usize::MAX))?;
        let guard = slice.ptr_guard_mut();
        // SAFETY: as above; the kernel alone writes through it. Ranges a guest made overlap
        // yield overlapping vectors, which the kernel fills one after the other.
        let bytes = unsafe { std::slice::from_raw_parts_mut(guard.as_ptr(), slice.len()) };
        out.push(IoSliceMut::new(bytes));
    }
    Ok(())
}
