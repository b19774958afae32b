//! A raw image file or block device of the host, as sectors.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    FallocateFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, fallocate, fcntl_setfl,
    fdatasync, flock, fstat, open, seek, stat,
};
use rustix::io::{Errno, preadv, pwritev};
use thiserror::Error;
use tracing::{error, warn};

use super::files::Files;
use super::overlay::Overlay;
use super::transfer::{Incomplete, read_fully, write_fully};

/// Bytes in a sector, whatever the disk beneath uses (virtio 1.3, section 5.2.4).
pub const SECTOR: u64 = 512;

/// An image that cannot serve as a disk.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The file cannot be opened, for writing where the disk is not read-only.
    #[error("open disk image {path} for {purpose}")]
    Open {
        /// The path as given.
        path: PathBuf,
        /// What it was opened for.
        purpose: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
    /// Neither a regular file nor a block device.
    #[error("disk image {path} is a {kind}; give a regular file or a block device")]
    Kind {
        /// The path as given.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Another user of the image holds the lock.
    #[error(
        "disk image {path} is already locked by another process; \
         stop that machine, or let both open the image read-only"
    )]
    Locked {
        /// The path as given.
        path: PathBuf,
    },
    /// The lock could not be asked for.
    #[error("lock disk image {path}")]
    Lock {
        /// The path as given.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The size could not be found.
    #[error("find the size of disk image {path}")]
    Size {
        /// The path as given.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The file system has no direct I/O for the file.
    #[error("the host does no direct I/O on disk image {path}; leave out direct=on")]
    NoDirect {
        /// The path as given.
        path: PathBuf,
    },
    /// Not one whole sector.
    #[error("disk image {path} holds {size} bytes, less than one sector of 512")]
    Empty {
        /// The path as given.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The overlay cannot be made or used.
    #[error("overlay {path}")]
    Overlay {
        /// The path as given.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The host's file system has no such operation.
const CANNOT: Errno = Errno::OPNOTSUPP;
/// A block device wants ranges of its own, larger sectors.
const UNALIGNED: Errno = Errno::INVAL;

/// How much a write of zeroes may leave unallocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroes {
    /// The range may become a hole.
    Unmap,
    /// The range keeps its space.
    Keep,
}

/// An open image, locked against other writers as long as it is open.
///
/// The bytes are raw sectors whatever they look like: no format is ever probed.
#[derive(Debug)]
pub struct Disk {
    files: Arc<Files>,
    path: PathBuf,
    sectors: u64,
    readonly: bool,
    /// Takes what is written; the image is its base then.
    overlay: Option<Overlay>,
    sync_failed: bool,
}

impl Disk {
    /// Opens the image at `path` (symbolic links are followed) and locks it: for itself alone
    /// when writable, shared with other readers when `readonly`. A trailing part of a sector is
    /// not used.
    ///
    /// # Errors
    /// [`DiskError`]; nothing stays open or locked.
    pub fn open(path: &Path, readonly: bool) -> Result<Self, DiskError> {
        let file = open_image(path, readonly)?;
        lock(path, &file, readonly)?;
        let sectors = count_sectors(path, &file)?;
        let files = Arc::new(Files::new(file));
        let path = path.to_owned();
        Ok(Self { files, path, sectors, readonly, overlay: None, sync_failed: false })
    }

    /// Opens the image at `base` for reading alone, as [`Disk::open`] does, and the overlay at
    /// `overlay` over it, locked for itself alone: it is made when it does not exist. All that is
    /// written goes there.
    ///
    /// # Errors
    /// [`DiskError`]; an overlay that was made stays, and is empty.
    pub fn open_overlay(base: &Path, overlay: &Path) -> Result<Self, DiskError> {
        let disk = Self::open(base, true)?;
        let refused = |source| DiskError::Overlay { path: overlay.to_owned(), source };
        let file = match open_image(overlay, false) {
            Err(DiskError::Open { source: Errno::NOENT, .. }) => {
                Overlay::create(overlay, base, disk.sectors * SECTOR).map_err(refused)?
            }
            file => file?,
        };
        lock(overlay, &file, false)?;
        let base = disk.files.cached().try_clone().map_err(refused)?;
        let size = disk.sectors * SECTOR;
        let opened = Overlay::open(file, base, size).map_err(refused)?;
        let path = overlay.to_owned();
        Ok(Self { path, readonly: false, overlay: Some(opened), ..disk })
    }

    /// Whether what is written goes to an overlay.
    pub(super) fn is_overlay(&self) -> bool {
        self.overlay.is_some()
    }

    /// As [`Disk::open`]; transfers that are aligned go past the host's page cache (O_DIRECT).
    ///
    /// # Errors
    /// [`DiskError`], among them that the host does no direct I/O on this image.
    pub fn open_direct(path: &Path, readonly: bool) -> Result<Self, DiskError> {
        let disk = Self::open(path, readonly)?;
        let no_direct = |source| match source {
            Errno::INVAL => DiskError::NoDirect { path: path.to_owned() },
            source => open_error(path, readonly)(source),
        };
        // A second opening: the first one goes through the page cache.
        let direct = open_image(path, readonly)?;
        let same = fstat(&direct).and_then(|new| Ok((new, fstat(disk.files.cached())?)));
        let (new, old) = same.map_err(open_error(path, readonly))?;
        if (new.st_dev, new.st_ino) != (old.st_dev, old.st_ino) {
            return Err(open_error(path, readonly)(Errno::STALE));
        }
        fcntl_setfl(&direct, access(readonly).0 | OFlags::DIRECT).map_err(no_direct)?;
        let Self { files, .. } = disk;
        let files = Arc::into_inner(files).ok_or(Errno::BUSY).and_then(|f| f.with_direct(direct));
        Ok(Self { files: Arc::new(files.map_err(no_direct)?), ..disk })
    }

    /// The smallest transfer the host does well, in bytes.
    pub fn block_size(&self) -> u32 {
        self.files.block_size()
    }

    /// Number of whole sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Finds the size of the image anew; whether it has changed. Requests under way are not affected.
    ///
    /// # Errors
    /// The host does not tell, or not one sector is left: the size is as before.
    pub fn measure(&mut self) -> Result<bool, DiskError> {
        if self.is_overlay() {
            // It was made for a base of this size.
            return Ok(false);
        }
        let sectors = count_sectors(&self.path, self.files.cached())?;
        let changed = sectors != self.sectors;
        self.sectors = sectors;
        Ok(changed)
    }

    /// Whether the image was opened without write access.
    pub fn readonly(&self) -> bool {
        self.readonly
    }

    /// Where `len` bytes from `sector` on begin, in bytes; `None` when they are not all inside
    /// the disk.
    pub fn offset_of(&self, sector: u64, len: u64) -> Option<u64> {
        let start = sector.checked_mul(SECTOR)?;
        let size = self.sectors.checked_mul(SECTOR)?;
        (start.checked_add(len)? <= size).then_some(start)
    }

    /// Fills `bufs` from byte `offset` on.
    ///
    /// # Errors
    /// [`Incomplete`]; the end of a file that was truncated meanwhile counts as an I/O error.
    pub fn read(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<u64, Incomplete> {
        if let Some(overlay) = &self.overlay {
            let len = bufs.iter().map(|buf| buf.len()).sum();
            return whole(overlay.read(bufs, offset), len);
        }
        read_fully(bufs, offset, |bufs, offset| {
            let parts = bufs.iter().map(|buf| (buf.as_ptr().addr(), buf.len()));
            preadv(self.files.pick(offset, parts), bufs, offset)
        })
    }

    /// Writes `bufs` from byte `offset` on.
    ///
    /// # Errors
    /// [`Incomplete`].
    pub fn write(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> Result<u64, Incomplete> {
        if let Some(overlay) = &self.overlay {
            let len = bufs.iter().map(|buf| buf.len()).sum();
            return whole(overlay.write(bufs, offset), len);
        }
        write_fully(bufs, offset, |bufs, offset| {
            let parts = bufs.iter().map(|buf| (buf.as_ptr().addr(), buf.len()));
            pwritev(self.files.pick(offset, parts), bufs, offset)
        })
    }

    /// Makes completed writes durable.
    ///
    /// # Errors
    /// What the host says; and from then on always an I/O error, because the host has forgotten
    /// which writes it lost and would report success.
    pub fn flush(&mut self) -> Result<(), Errno> {
        if self.sync_failed {
            return Err(Errno::IO);
        }
        let result = match &self.overlay {
            Some(overlay) => overlay.sync(),
            None => rustix::io::retry_on_intr(|| fdatasync(self.files.cached())),
        };
        self.synced(result)
    }

    /// Whether writes were lost, so that no flush can succeed any more.
    pub(super) fn sync_failed(&self) -> bool {
        self.sync_failed
    }

    /// Takes note of what a sync of the file came to.
    ///
    /// # Errors
    /// As [`Disk::flush`].
    pub(super) fn synced(&mut self, result: Result<(), Errno>) -> Result<(), Errno> {
        if let Err(e) = result {
            error!("disk image {}: writes were lost: {e}", self.path.display());
            self.sync_failed = true;
        }
        if self.sync_failed { Err(result.err().unwrap_or(Errno::IO)) } else { Ok(()) }
    }

    /// The open files.
    pub(super) fn files(&self) -> &Arc<Files> {
        &self.files
    }

    /// The path as given, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives up the contents of `len` bytes from `offset` on, where the host can.
    ///
    /// # Errors
    /// What the host says. A host that knows no holes keeps the contents, which is allowed.
    pub fn discard(&mut self, offset: u64, len: u64) -> Result<(), Errno> {
        if let Some(overlay) = &mut self.overlay {
            return overlay.discard(offset, len);
        }
        match self.allocate(FallocateFlags::PUNCH_HOLE, offset, len) {
            Err(CANNOT | UNALIGNED) => Ok(()),
            result => result,
        }
    }

    /// Makes `len` bytes from `offset` on read as zeroes.
    ///
    /// # Errors
    /// What the host says.
    pub fn write_zeroes(&mut self, offset: u64, len: u64, mode: Zeroes) -> Result<(), Errno> {
        match (&mut self.overlay, mode) {
            (Some(overlay), Zeroes::Unmap) => return overlay.discard(offset, len),
            (Some(overlay), Zeroes::Keep) => return overlay.write_zeroes(offset, len),
            (None, _) => {}
        }
        if mode == Zeroes::Unmap {
            match self.allocate(FallocateFlags::PUNCH_HOLE, offset, len) {
                Err(CANNOT | UNALIGNED) => {}
                result => return result,
            }
        }
        match self.allocate(FallocateFlags::ZERO_RANGE, offset, len) {
            Err(CANNOT | UNALIGNED) => self.write_zero_bytes(offset, len),
            result => result,
        }
    }

    /// As if a flush had failed.
    #[cfg(test)]
    pub(super) fn lose_writes(&mut self) {
        self.sync_failed = true;
    }

    fn allocate(&self, how: FallocateFlags, offset: u64, len: u64) -> Result<(), Errno> {
        if len == 0 {
            return Ok(());
        }
        let flags = how | FallocateFlags::KEEP_SIZE;
        rustix::io::retry_on_intr(|| fallocate(self.files.cached(), flags, offset, len))
    }

    /// The slow way, for file systems without ranges of zeroes.
    fn write_zero_bytes(&self, mut offset: u64, mut left: u64) -> Result<(), Errno> {
        let zeroes = vec![0; 256 << 10];
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(zeroes.len());
            let part = zeroes.get(..len).unwrap_or_default();
            let done = self.write(&mut [IoSlice::new(part)], offset).map_err(|e| e.source)?;
            offset += done;
            left -= done;
        }
        Ok(())
    }
}

/// What a transfer of `len` bytes came to that is done whole or not at all.
fn whole(result: Result<(), Errno>, len: usize) -> Result<u64, Incomplete> {
    let failed = |source| Incomplete { done: 0, source };
    result.map(|()| u64::try_from(len).unwrap_or(u64::MAX)).map_err(failed)
}

fn access(readonly: bool) -> (OFlags, &'static str) {
    match readonly {
        true => (OFlags::RDONLY, "reading"),
        false => (OFlags::RDWR, "reading and writing"),
    }
}

fn open_error(path: &Path, readonly: bool) -> impl Fn(Errno) -> DiskError {
    let purpose = access(readonly).1;
    move |source| DiskError::Open { path: path.to_owned(), purpose, source }
}

fn open_image(path: &Path, readonly: bool) -> Result<OwnedFd, DiskError> {
    let (access, error) = (access(readonly).0, open_error(path, readonly));
    // Looked at before it is opened, because opening some devices acts on them; and again
    // afterwards, because the path may lead elsewhere by then.
    check_kind(path, stat(path).map_err(&error)?.st_mode)?;
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open(path, flags, Mode::empty()).map_err(&error)?;
    check_kind(path, fstat(&file).map_err(&error)?.st_mode)?;
    fcntl_setfl(&file, access).map_err(&error)?;
    Ok(file)
}

fn check_kind(path: &Path, mode: u32) -> Result<(), DiskError> {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::RegularFile | FileType::BlockDevice => return Ok(()),
        FileType::Directory => "directory",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        _ => "file of an unknown kind",
    };
    Err(DiskError::Kind { path: path.to_owned(), kind })
}

fn lock(path: &Path, file: &OwnedFd, readonly: bool) -> Result<(), DiskError> {
    let operation = match readonly {
        true => FlockOperation::NonBlockingLockShared,
        false => FlockOperation::NonBlockingLockExclusive,
    };
    let path = || path.to_owned();
    rustix::io::retry_on_intr(|| flock(file, operation)).map_err(|source| match source {
        Errno::WOULDBLOCK => DiskError::Locked { path: path() },
        source => DiskError::Lock { path: path(), source },
    })
}

fn count_sectors(path: &Path, file: &OwnedFd) -> Result<u64, DiskError> {
    // The end of a block device is found by seeking too; all I/O names its own offset.
    let size = seek(file, SeekFrom::End(0))
        .map_err(|source| DiskError::Size { path: path.to_owned(), source })?;
    if size < SECTOR {
        return Err(DiskError::Empty { path: path.to_owned(), size });
    }
    if !size.is_multiple_of(SECTOR) {
        warn!("disk image {}: the last {} bytes are no sector", path.display(), size % SECTOR);
    }
    Ok(size / SECTOR)
}

#[cfg(test)]
mod tests;
