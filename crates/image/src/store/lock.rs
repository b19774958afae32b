//! The locks of the whole store, let go when the guard is dropped or its process ends.

use std::fs::File;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::{StoreError, StorePaths, index};

/// Held while names and records change, or must not. For moments only.
const INDEX: &str = "lock";
/// Held by whoever pulls, so that blobs that no record refers to yet are left alone.
const PULLS: &str = "pulls";

/// A hold on the store, let go when it is dropped or its process ends.
#[derive(Debug)]
pub struct StoreLock {
    _file: File,
}

impl StoreLock {
    /// Names and records stay as they are.
    pub(super) fn shared(paths: &StorePaths) -> Result<Self, StoreError> {
        Self::wait(paths, INDEX, FlockOperation::LockShared)
    }

    /// Names and records are changed by nobody else.
    pub(super) fn exclusive(paths: &StorePaths) -> Result<Self, StoreError> {
        Self::wait(paths, INDEX, FlockOperation::LockExclusive)
    }

    /// A pull is running: what it has got stays.
    pub(super) fn pull(paths: &StorePaths) -> Result<Self, StoreError> {
        Self::wait(paths, PULLS, FlockOperation::LockShared)
    }

    /// No pull begins, if none is running.
    pub(super) fn no_pulls(paths: &StorePaths) -> Result<Option<Self>, StoreError> {
        match Self::take(paths, PULLS, FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => Ok(Some(lock)),
            Err((Errno::WOULDBLOCK, _)) => Ok(None),
            Err((_, error)) => Err(error),
        }
    }

    fn wait(paths: &StorePaths, name: &str, how: FlockOperation) -> Result<Self, StoreError> {
        Self::take(paths, name, how).map_err(|(_, error)| error)
    }

    fn take(
        paths: &StorePaths,
        name: &str,
        how: FlockOperation,
    ) -> Result<Self, (Errno, StoreError)> {
        index::make_directories(paths).map_err(|error| (Errno::IO, error))?;
        let path = paths.images().join(name);
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let failed = |what| {
            let path = path.clone();
            move |errno: Errno| (errno, StoreError::io(what, path)(errno.into()))
        };
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::open(&path, flags, mode).map_err(failed("open"))?;
        rustix::io::retry_on_intr(|| flock(&file, how)).map_err(failed("lock"))?;
        Ok(Self { _file: file.into() })
    }
}
