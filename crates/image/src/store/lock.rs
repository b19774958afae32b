//! The lock of the whole store, held for moments only.

use std::fs::File;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::{StoreError, StorePaths, index};

/// A hold on the store, let go when it is dropped or its process ends.
#[derive(Debug)]
pub struct StoreLock {
    _file: File,
}

impl StoreLock {
    pub(super) fn shared(paths: &StorePaths) -> Result<Self, StoreError> {
        Self::take(paths, FlockOperation::LockShared)
    }

    pub(super) fn exclusive(paths: &StorePaths) -> Result<Self, StoreError> {
        Self::take(paths, FlockOperation::LockExclusive)
    }

    fn take(paths: &StorePaths, how: FlockOperation) -> Result<Self, StoreError> {
        index::make_directories(paths)?;
        let path: PathBuf = paths.images().join("lock");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| StoreError::io("open", &path)(error.into()))?;
        rustix::io::retry_on_intr(|| flock(&file, how))
            .map_err(|error| StoreError::io("lock", &path)(error.into()))?;
        Ok(Self { _file: file.into() })
    }
}
