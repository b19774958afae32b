//! A file system image of the store as a directory of this host, for what runs without a machine.
//!
//! The image is one that this program's converter made. All the same, nothing of it is believed: names are
//! single names, made new in directories that were made here, and nothing is ever followed.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

mod reader;
#[cfg(test)]
mod tests;
mod write;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

use reader::Reader;
use write::Writer;

/// Directories in each other, at most: each is an open file.
const MAX_DEPTH: usize = 200;

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, directories and others.
    pub files: u64,
    /// Bytes of regular files, holes included.
    pub bytes: u64,
    /// Devices and sockets, which are left out.
    pub left_out: u64,
}

/// Why an image was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The image is not what the converter makes.
    #[error("the file system image is damaged: {0}")]
    Damaged(&'static str),
    /// The image cannot be read.
    #[error("read the file system image: {0}")]
    Read(#[source] io::Error),
    /// A file cannot be made.
    #[error("make `{name}`: {source}")]
    Write {
        /// Its name, escaped.
        name: String,
        /// Why not.
        source: io::Error,
    },
}

/// Unpacks `image` into `directory`, which is there and empty. Only root keeps owners; extended attributes
/// and devices are left out.
///
/// # Errors
/// The image is damaged, or something cannot be made. What was made until then stays.
pub fn unpack(image: &File, directory: &Path) -> Result<Unpacked, UnpackError> {
    let reader = Reader::open(image)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(CWD, directory, flags, Mode::empty())
        .map_err(|error| UnpackError::write(directory.as_os_str().as_encoded_bytes(), error))?;
    let mut writer = Writer::new(&reader, root.as_fd());
    writer.root()?;
    Ok(writer.done)
}

impl UnpackError {
    fn write(name: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Write { name: name.escape_ascii().to_string(), source: source.into() }
    }
}
