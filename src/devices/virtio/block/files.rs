//! The open image: through the page cache, and past it where that is wanted and possible.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;

use super::disk::SECTOR;

/// Direct I/O with this alignment works wherever there is any; for kernels that do not tell (before
/// 6.1).
const SAFE_ALIGNMENT: u32 = 4096;

/// The descriptors of one image.
#[derive(Debug)]
pub(super) struct Files {
    cached: OwnedFd,
    direct: Option<Direct>,
}

/// A descriptor for direct I/O (O_DIRECT), and what it demands.
#[derive(Debug)]
struct Direct {
    file: OwnedFd,
    /// Alignment of addresses and lengths in memory, in bytes.
    memory: u32,
    /// Alignment of offsets in the file and of the length of a transfer, in bytes.
    offset: u32,
}

impl Files {
    /// An image in the page cache.
    pub(super) fn new(cached: OwnedFd) -> Self {
        Self { cached, direct: None }
    }

    /// Moves data past the page cache by `file`, another opening of the same image with O_DIRECT.
    ///
    /// # Errors
    /// `INVAL`: the host does no direct I/O on this file.
    pub(super) fn with_direct(self, file: OwnedFd) -> Result<Self, Errno> {
        let (memory, offset) = alignment(&file)?;
        Ok(Self { direct: Some(Direct { file, memory, offset }), ..self })
    }

    /// The descriptor for everything but transfers.
    pub(super) fn cached(&self) -> &OwnedFd {
        &self.cached
    }

    /// The descriptor for a transfer at byte `offset` to or from `parts` of memory, which are
    /// addresses and lengths: one that is not aligned goes through the page cache, which the kernel
    /// keeps in step with direct I/O.
    pub(super) fn pick(
        &self,
        offset: u64,
        parts: impl IntoIterator<Item = (usize, usize)>,
    ) -> &OwnedFd {
        match &self.direct {
            Some(direct) if direct.takes(offset, parts) => &direct.file,
            _ => &self.cached,
        }
    }

    /// The smallest transfer that goes past the page cache, in bytes; a sector where all go through
    /// it.
    pub(super) fn block_size(&self) -> u32 {
        let sector = u32::try_from(SECTOR).unwrap_or(u32::MAX);
        self.direct.as_ref().map_or(sector, |direct| direct.offset.max(sector))
    }
}

impl Direct {
    fn takes(&self, offset: u64, parts: impl IntoIterator<Item = (usize, usize)>) -> bool {
        let mut memory = 0;
        let mut len = 0u64;
        for (address, part) in parts {
            memory |= address | part;
            len = len.wrapping_add(u64::try_from(part).unwrap_or(u64::MAX));
        }
        let memory = u64::try_from(memory).unwrap_or(u64::MAX);
        memory.is_multiple_of(self.memory.into())
            && (offset | len).is_multiple_of(self.offset.into())
    }
}

/// What statx(2) tells of the alignment in memory and in the file.
fn alignment(file: &OwnedFd) -> Result<(u32, u32), Errno> {
    let safe = Ok((SAFE_ALIGNMENT, SAFE_ALIGNMENT));
    let Ok(stat) = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else { return safe };
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return safe;
    }
    match (stat.stx_dio_mem_align, stat.stx_dio_offset_align) {
        (0, _) | (_, 0) => Err(Errno::INVAL),
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_aligned_in_memory_and_in_the_file_goes_past_the_cache() {
        let file = tempfile::tempfile().unwrap().into();
        let direct = Direct { file, memory: 512, offset: 4096 };
        assert!(direct.takes(0, [(0x1000, 4096)]));
        assert!(direct.takes(8192, [(0x200, 512), (0x10000, 3584)]));
        for (offset, parts) in [
            (512, vec![(0x1000, 4096)]),
            (0, vec![(0x1000, 512)]),
            (0, vec![(0x1001, 4096)]),
            (0, vec![(0x1000, 4095), (0x3000, 1)]),
            (4096, vec![(0x1000, 2048), (0x3100, 2048)]),
        ] {
            assert!(!direct.takes(offset, parts.clone()), "{offset} {parts:x?}");
        }
    }
}
