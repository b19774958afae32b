//! Guest memory: the type every module shares, its one way into the kernel's scatter lists, and its
//! one way back to the host.

// UNSAFETY: scatter lists over guest memory are built from raw pointers into its mapping, and parts
// of the mapping are emptied.
#![expect(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};

use rustix::mm::{Advice, madvise};
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress,
};

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
        // SAFETY: as above; it is written by the kernel, or by volatile copies. Ranges a guest made
        // overlap yield overlapping vectors, which are filled one after the other.
        let bytes = unsafe { std::slice::from_raw_parts_mut(guard.as_ptr(), slice.len()) };
        out.push(IoSliceMut::new(bytes));
    }
    Ok(())
}

/// Gives the memory behind `range` back to the host, which takes it at once; returns how many bytes
/// that was. What is touched there later is new, and zero.
///
/// Only whole pages of the host go, and only guest memory: what else `range` names stays as it is.
/// This may be done under running vCPUs and under I/O. The kernel takes a page from the guest's
/// translation (KVM's MMU notifier) before it frees it, so that whoever touches the address next,
/// vCPU, host thread or system call, gets a zero page of the same mapping; a system call that holds a
/// page meanwhile works on a page nobody sees any more. To this process it is one more way in which
/// the guest's memory changes by itself. Nothing may pin guest memory for longer than a request takes
/// (buffers registered with io_uring, a device of the host): it would go on with pages nobody sees.
///
/// # Errors
/// The host refused, for memory that is locked; the part before that is given back.
pub fn discard(mem: &GuestMemory, range: GuestRange) -> io::Result<u64> {
    let (start, end) = (range.addr.0, range.addr.0.saturating_add(range.len.into()));
    let page = u64::try_from(rustix::param::page_size()).map_err(io::Error::other)?;
    let mut discarded = 0;
    for region in mem.iter() {
        // In bytes from the start of the region, which is that of a page.
        let base = region.start_addr().0;
        let from = start.saturating_sub(base).min(region.len()).next_multiple_of(page);
        let to = end.saturating_sub(base).min(region.len());
        let Some(len) = to.checked_sub(from).map(|len| len - len % page).filter(|len| *len > 0)
        else {
            continue;
        };
        let count = usize::try_from(len).map_err(io::Error::other)?;
        let slice = region.get_slice(MemoryRegionAddress(from), count).map_err(io::Error::other)?;
        let guard = slice.ptr_guard_mut();
        // SAFETY: `get_slice` checked that the range lies inside the live mapping of the region,
        // which is private and anonymous: it stays mapped and reads as zeros. No reference to the
        // bytes exists anywhere, since guest memory is only ever copied or handed to the kernel.
        unsafe { madvise(guard.as_ptr().cast(), slice.len(), Advice::LinuxDontNeed) }?;
        discarded += len;
    }
    Ok(discarded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::Bytes;

    use super::*;

    const PAGE: u64 = 4096;
    const LOW: u64 = 16 * PAGE;
    /// Where memory goes on behind a hole.
    const HIGH: u64 = 32 * PAGE;
    const END: u64 = 48 * PAGE;

    fn filled() -> GuestMemory {
        let len = usize::try_from(LOW).unwrap();
        let ranges = [(GuestAddress(0), len), (GuestAddress(HIGH), len)];
        let mem = GuestMemory::from_ranges(&ranges).unwrap();
        for start in [0, HIGH] {
            mem.write_slice(&vec![0xa5; len], GuestAddress(start)).unwrap();
        }
        mem
    }

    /// Whether the page at `addr` reads as zeros; it must be whole either way.
    fn is_gone(mem: &GuestMemory, addr: u64) -> bool {
        let mut bytes = [0; 4096];
        mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{addr:#x} is torn");
        bytes[0] == 0
    }

    fn range(addr: u64, len: u32) -> GuestRange {
        GuestRange { addr: GuestAddress(addr), len }
    }

    proptest! {
        /// S6: exactly the whole pages of memory inside the range go.
        #[test]
        fn exactly_the_whole_pages_inside_any_range_are_given_back(
            (addr, len) in prop_oneof![
                (0..END + 4 * PAGE, 0u32..80 * 4096),
                (0..52u64, 0u32..52).prop_map(|(page, count)| (page * PAGE, count * 4096)),
                (any::<u64>(), any::<u32>()),
            ],
        ) {
            let mem = filled();
            let count = discard(&mem, range(addr, len)).unwrap();
            let end = addr.saturating_add(len.into());
            let mut gone = 0;
            for page in (0..LOW).chain(HIGH..END).step_by(4096) {
                let named = addr <= page && page + PAGE <= end;
                prop_assert_eq!(is_gone(&mem, page), named, "{:#x}", page);
                gone += if named { PAGE } else { 0 };
            }
            prop_assert_eq!(count, gone);
        }
    }

    /// S6: memory is resident no more, and may be given back twice.
    #[test]
    fn memory_given_back_is_resident_no_more() {
        let mem = filled();
        let host = mem.get_host_address(GuestAddress(HIGH)).unwrap();
        let resident = || {
            let mut pages = [0u8; 16];
            // SAFETY: the 16 pages from `host` on are mapped, and there is a byte for each.
            let result = unsafe { libc::mincore(host.cast(), 16 * 4096, pages.as_mut_ptr()) };
            assert_eq!(result, 0);
            pages.iter().filter(|page| **page & 1 != 0).count()
        };
        assert_eq!(resident(), 16);
        for _ in 0..2 {
            assert_eq!(discard(&mem, range(HIGH + PAGE, 8 * 4096)).unwrap(), 8 * PAGE);
            assert_eq!(resident(), 8);
        }
        assert!(is_gone(&mem, HIGH + PAGE) && !is_gone(&mem, HIGH));
    }
}
