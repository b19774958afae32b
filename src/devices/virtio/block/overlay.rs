//! What a guest wrote over a base image that is never written: a qcow2 file (decision record
//! `docs/decisions/overlay-format.md`).

mod check;

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder,
    StorageOpenOptions,
};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fsync, linkat, open, openat};
use rustix::io::Errno;

use check::{Unfit, check};

type Image = FormatAccess<Storage>;

/// An open overlay over its base.
#[derive(Debug)]
pub(super) struct Overlay {
    image: Image,
}

impl Overlay {
    /// Makes an empty overlay at `path`, which must not exist, for a base of `size` bytes that is
    /// called `base`. It appears under its name when it is complete: a process that is killed leaves
    /// nothing.
    pub(super) fn create(path: &Path, base: &Path, size: u64) -> io::Result<OwnedFd> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match open(directory, flags | OFlags::TMPFILE, mode) {
            Ok(file) => {
                format(&file, base, size)?;
                let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
                linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
                Ok(file)
            }
            // A file system without files that have no name.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                let file = openat(CWD, path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
                format(&file, base, size).inspect_err(|_| drop(std::fs::remove_file(path)))?;
                Ok(file)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Opens the overlay in `file` over the first `size` bytes of the raw image in `base`, if it is
    /// sound; no other file is opened, whatever the overlay names.
    pub(super) fn open(file: OwnedFd, base: OwnedFd, size: u64) -> io::Result<Self> {
        let base = Storage::from_open_file(File::from(base), StorageOpenOptions::new())?;
        let base = Raw::builder(base).write(false).open(DenyImplicitOpenGate::default())?;
        let base: Image = FormatAccess::new(base);
        let file = File::from(file);
        let sound = check(&file, size).map_err(|unfit| match unfit {
            Unfit::Read(error) => error,
            unfit => io::Error::other(unfit),
        })?;
        sound.count_anew(&file)?;
        let image = Qcow2::<Storage, Arc<Image>>::builder(storage(file.into())?)
            .write(true)
            .backing(Some(Arc::new(base)))
            .data_file(None)
            .open(DenyImplicitOpenGate::default())?;
        Ok(Self { image: FormatAccess::new(image) })
    }

    /// Fills `bufs` from byte `offset` on.
    pub(super) fn read(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<(), Errno> {
        let list: Vec<IoSliceMut<'_>> = bufs.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
        self.image.readv(list.into(), offset).map_err(|e| errno(&e))
    }

    /// Writes `bufs` from byte `offset` on.
    pub(super) fn write(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), Errno> {
        let list: Vec<IoSlice<'_>> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
        self.image.writev(list.into(), offset).map_err(|e| errno(&e))
    }

    /// Makes completed writes durable, and what says where they lie.
    pub(super) fn sync(&self) -> Result<(), Errno> {
        self.image.flush().and_then(|()| self.image.sync()).map_err(|e| errno(&e))
    }

    /// Has `len` bytes from `offset` on read as zeroes, and their space used for other data.
    pub(super) fn discard(&mut self, offset: u64, len: u64) -> Result<(), Errno> {
        for (offset, len) in regions(offset, len) {
            self.image.discard_to_zero(offset, len).map_err(|e| errno(&e))?;
            self.settle()?;
        }
        Ok(())
    }

    /// Has `len` bytes from `offset` on read as zeroes.
    pub(super) fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), Errno> {
        for (offset, len) in regions(offset, len) {
            self.image.write_zeroes(offset, len).map_err(|e| errno(&e))?;
            self.settle()?;
        }
        Ok(())
    }

    /// Writes out that clusters have become free: the crate takes one for a new table at once, and
    /// a process that is killed must not leave it as data of the guest too.
    fn settle(&self) -> Result<(), Errno> {
        self.image.flush().map_err(|e| errno(&e))
    }
}

/// The parts of a range that have a table of their own each.
fn regions(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    const REGION: u64 = 512 << 20;
    let end = offset.saturating_add(len);
    let first = offset - offset % REGION;
    let starts = (first..end).step_by(usize::try_from(REGION).unwrap_or(usize::MAX));
    starts.map(move |start| {
        let from = start.max(offset);
        (from, start.saturating_add(REGION).min(end) - from)
    })
}

fn storage(file: OwnedFd) -> io::Result<Storage> {
    Storage::from_open_file(File::from(file), StorageOpenOptions::new().write(true))
}

/// Writes an empty overlay to `file`, durably.
fn format(file: &OwnedFd, base: &Path, size: u64) -> io::Result<()> {
    let name = base.to_string_lossy().into_owned();
    Qcow2::<Storage>::create_builder(storage(file.try_clone()?)?)
        .size(size)
        .backing(name, "raw".to_owned())
        .create()?;
    Ok(fsync(file)?)
}

/// What the host said; an overlay that contradicts itself counts as an I/O error.
fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or_else(|| {
        tracing::debug!("overlay: {error}");
        Errno::IO
    })
}

#[cfg(test)]
mod tests;
