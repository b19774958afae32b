//! Checked reads from files that are not trusted.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use super::PreflightError;
use crate::config::{FileError, open_image, open_regular};

/// A file of the user's, opened for a look.
pub(super) struct Image {
    noun: &'static str,
    path: PathBuf,
    file: File,
    len: u64,
}

impl Image {
    /// Opens the regular file `path`, which is used as `noun`.
    pub(super) fn open(noun: &'static str, path: &Path) -> Result<Self, PreflightError> {
        Self::look_at(noun, path, open_regular(path))
    }

    /// Opens `path`, a regular file or a block device that is used as the disk `noun`.
    pub(super) fn open_disk(noun: &'static str, path: &Path) -> Result<Self, PreflightError> {
        Self::look_at(noun, path, open_image(path))
    }

    fn look_at(
        noun: &'static str,
        path: &Path,
        opened: Result<File, FileError>,
    ) -> Result<Self, PreflightError> {
        let mut file = opened.map_err(|source| PreflightError::File { noun, source })?;
        let path = path.to_owned();
        let len = match file.metadata() {
            // The metadata of a block device have no length.
            Ok(metadata) if metadata.file_type().is_block_device() => file.seek(SeekFrom::End(0)),
            Ok(metadata) => Ok(metadata.len()),
            Err(error) => Err(error),
        };
        match len {
            Ok(0) => Err(PreflightError::Empty { noun, path }),
            Ok(len) => Ok(Self { noun, path, file, len }),
            Err(source) => Err(PreflightError::Read { noun, path, source }),
        }
    }

    /// The path it was opened by.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether the `len` bytes from `offset` on lie inside the file.
    pub(super) fn contains(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Up to `len` bytes from `offset` on: fewer where the file ends.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Bytes, PreflightError> {
        let mut bytes = vec![0; len];
        let filled = self.read_into(offset, &mut bytes)?;
        bytes.truncate(filled);
        Ok(Bytes(bytes))
    }

    /// Fills `buffer` from `offset` on, as far as the file goes; returns how far that was.
    pub(super) fn read_into(
        &self,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, PreflightError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let at = u64::try_from(filled).ok().and_then(|filled| offset.checked_add(filled));
            let Some(at) = at else { break };
            match self.file.read_at(rest, at) {
                Ok(0) => break,
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // Beyond the largest offset of any file.
                Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => break,
                Err(source) => {
                    let (noun, path) = (self.noun, self.path.clone());
                    return Err(PreflightError::Read { noun, path, source });
                }
            }
        }
        Ok(filled)
    }
}

/// Bytes of a file, read as little-endian numbers; what lies beyond their end is absent.
pub(super) struct Bytes(Vec<u8>);

impl Bytes {
    pub(super) fn slice(&self, offset: usize, len: usize) -> Option<&[u8]> {
        self.0.get(offset..offset.checked_add(len)?)
    }

    pub(super) fn has(&self, offset: usize, magic: &[u8]) -> bool {
        self.slice(offset, magic.len()) == Some(magic)
    }

    pub(super) fn all(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn u8(&self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }

    pub(super) fn u16(&self, offset: usize) -> Option<u16> {
        Some(u16::from_le_bytes(self.slice(offset, 2)?.try_into().ok()?))
    }

    pub(super) fn u32(&self, offset: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.slice(offset, 4)?.try_into().ok()?))
    }

    pub(super) fn u64(&self, offset: usize) -> Option<u64> {
        Some(u64::from_le_bytes(self.slice(offset, 8)?.try_into().ok()?))
    }
}

#[cfg(test)]
impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}
