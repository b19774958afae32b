//! Blobs: taken in only as what their digest says.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::unfinished::Unfinished;
use super::{Blob, StoreError, StorePaths};
use crate::digest::Digest;

/// Bytes that are moved at a time.
const PIECE: usize = 128 << 10;

/// Why a blob is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bytes could not be had.
    #[error("read {blob}: {source}", blob = blob.digest)]
    Read {
        /// What was read.
        blob: Blob,
        /// Why it failed.
        source: std::io::Error,
    },
    /// There are more bytes than announced.
    #[error("{digest} is longer than the {size} bytes announced", digest = blob.digest, size = blob.size)]
    Longer {
        /// What was announced.
        blob: Blob,
    },
    /// There are fewer bytes than announced.
    #[error("{digest} ends {missing} bytes before the {size} announced", digest = blob.digest, size = blob.size)]
    Shorter {
        /// What was announced.
        blob: Blob,
        /// Bytes that did not come.
        missing: u64,
    },
    /// The bytes are others.
    #[error("the content of {expected} is {found}: it was damaged or exchanged on its way")]
    Digest {
        /// What was announced.
        expected: Digest,
        /// What came.
        found: Digest,
    },
}

/// The digest of `bytes`.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// The blobs of a store.
#[derive(Debug, Clone)]
pub struct Blobs {
    paths: StorePaths,
}

impl Blobs {
    /// The blobs in these directories.
    pub fn new(paths: StorePaths) -> Self {
        Self { paths }
    }

    /// Where a blob is, or will be.
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.paths.blobs().join(digest.hex())
    }

    /// Whether the blob is here. Its bytes were compared with its digest when it came.
    pub fn has(&self, blob: Blob) -> bool {
        let metadata = std::fs::symlink_metadata(self.path(blob.digest));
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == blob.size)
    }

    /// Takes a blob in, unless it is here already; processes that want the same one share the work.
    ///
    /// `source` is asked for the bytes once they are needed, `wait` told if another process gets them,
    /// `arrived` called with the number of bytes that came. Returns whether anything had to be got.
    ///
    /// # Errors
    ///
    /// The bytes cannot be had or are not those of the digest, or the store cannot be written. Nothing is
    /// left then.
    pub fn put<'a, E: From<BlobError>>(
        &self,
        blob: Blob,
        source: impl FnOnce() -> Result<Box<dyn Read + 'a>, E>,
        wait: impl FnMut(),
        arrived: impl FnMut(u64),
    ) -> Result<bool, E> {
        if self.has(blob) {
            return Ok(false);
        }
        let target = self.path(blob.digest);
        self.settle(blob)?;
        let unfinished = Unfinished::create(&self.paths, target, wait).map_err(BlobError::from)?;
        let Some(mut unfinished) = unfinished else { return Ok(false) };
        let bytes = source()?;
        copy(blob, bytes, unfinished.file(), arrived)?;
        unfinished.publish().map_err(BlobError::from)?;
        Ok(true)
    }

    /// Deals with a file that has another size than announced. If it is what its name says, the
    /// announcement is wrong; else it is damaged, and goes.
    fn settle(&self, blob: Blob) -> Result<(), BlobError> {
        let path = self.path(blob.digest);
        let Ok(mut file) = File::open(&path) else { return Ok(()) };
        let size = file.metadata().map_err(StoreError::io("look at", &path))?.len();
        let mut hasher = Sha256::new();
        std::io::copy(&mut file, &mut hasher).map_err(StoreError::io("read", &path))?;
        match Digest::from_bytes(hasher.finalize().into()) == blob.digest {
            true if size < blob.size => {
                Err(BlobError::Shorter { blob, missing: blob.size.saturating_sub(size) })
            }
            true if size > blob.size => Err(BlobError::Longer { blob }),
            true => Ok(()),
            false => Ok(std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?),
        }
    }

    /// The bytes of a small blob, compared with its digest.
    ///
    /// # Errors
    ///
    /// The blob is not here, or is damaged.
    pub fn read(&self, blob: Blob) -> Result<Vec<u8>, BlobError> {
        let path = self.path(blob.digest);
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        let mut bytes = Vec::new();
        copy(blob, Box::new(file), &mut bytes, |_| ())?;
        Ok(bytes)
    }
}

/// Moves exactly the bytes of `blob`, and compares them with its digest.
pub(crate) fn copy(
    blob: Blob,
    mut from: Box<dyn Read + '_>,
    to: &mut impl Write,
    mut arrived: impl FnMut(u64),
) -> Result<(), BlobError> {
    let mut hasher = Sha256::new();
    let mut left = blob.size;
    let mut buffer = vec![0; PIECE];
    loop {
        let count = match from.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            count => count.map_err(|source| BlobError::Read { blob, source })?,
        };
        if count == 0 {
            break;
        }
        let bytes = buffer.get(..count).unwrap_or_default();
        let length = u64::try_from(count).unwrap_or(u64::MAX);
        left = left.checked_sub(length).ok_or(BlobError::Longer { blob })?;
        hasher.update(bytes);
        to.write_all(bytes).map_err(StoreError::io("write", "the store"))?;
        arrived(length);
    }
    if left > 0 {
        return Err(BlobError::Shorter { blob, missing: left });
    }
    let found = Digest::from_bytes(hasher.finalize().into());
    if found == blob.digest {
        Ok(())
    } else {
        Err(BlobError::Digest { expected: blob.digest, found })
    }
}
