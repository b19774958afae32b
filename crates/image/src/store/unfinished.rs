//! Files in the making: nobody sees them before they are whole.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::{StoreError, StorePaths, index};

/// A file that is being written, locked by this process, and removed unless it is published.
#[derive(Debug)]
pub struct Unfinished {
    file: File,
    path: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Unfinished {
    /// An empty file that will become `target`, or nothing if that is there by the time no other
    /// process is making it. `wait` is called once if another process is.
    ///
    /// # Errors
    ///
    /// The file cannot be created or locked.
    pub fn create(
        paths: &StorePaths,
        target: PathBuf,
        mut wait: impl FnMut(),
    ) -> Result<Option<Self>, StoreError> {
        index::make_directories(paths)?;
        let name = target.file_name().unwrap_or_default();
        let path = paths.temporary().join(name);
        loop {
            let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file: File = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|error| StoreError::io("create", &path)(error.into()))?
                .into();
            lock(&file, &mut wait).map_err(StoreError::io("lock", &path))?;
            // Whoever held it has renamed or removed it, and the lock is one on that file.
            if !is_at(&file, &path).map_err(StoreError::io("look at", &path))? {
                continue;
            }
            let unfinished = Self { file, path, target, published: false };
            if unfinished.target.exists() {
                return Ok(None);
            }
            unfinished.file.set_len(0).map_err(StoreError::io("empty", &unfinished.path))?;
            return Ok(Some(unfinished));
        }
    }

    /// The file, open for reading and writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    ///
    /// The system refused; the file is removed then.
    pub fn publish(mut self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(StoreError::io("write", &self.path))?;
        fs::rename(&self.path, &self.target).map_err(StoreError::io("rename", &self.path))?;
        self.published = true;
        index::sync_directory(&self.target)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.published {
            // The lock is still held. What cannot be removed now is removed by `prune`.
            let _: io::Result<()> = fs::remove_file(&self.path);
        }
    }
}

fn lock(file: &File, wait: &mut impl FnMut()) -> io::Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            wait();
            let blocking = || flock(file, FlockOperation::LockExclusive);
            Ok(rustix::io::retry_on_intr(blocking)?)
        }
        locked => Ok(locked?),
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what nobody is working on any more, and returns its bytes.
pub(super) fn remove_abandoned(paths: &StorePaths) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for name in index::file_names(&paths.temporary())? {
        let path = paths.temporary().join(name);
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let Ok(file) = rustix::fs::open(&path, flags, Mode::empty()).map(File::from) else {
            continue;
        };
        let free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if free && is_at(&file, &path).unwrap_or(false) {
            let size = file.metadata().map_or(0, |metadata| metadata.blocks() * 512);
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            bytes += size;
        }
    }
    Ok(bytes)
}
