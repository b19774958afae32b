//! Files of an image, in a directory or in an archive, by name.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::SourceError;
use super::tar_index::TarIndex;

/// Files by name. Nothing outside of the directory or archive is ever opened.
#[derive(Debug)]
pub(super) enum Files {
    Directory { path: PathBuf, file: File },
    Archive { path: PathBuf, file: File, index: TarIndex },
}

impl Files {
    pub(super) fn directory(path: &Path) -> Result<Self, SourceError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| SourceError::io("open", path)(error.into()))?;
        Ok(Self::Directory { path: path.to_owned(), file: file.into() })
    }

    pub(super) fn archive(path: &Path) -> Result<Self, SourceError> {
        // A FIFO must not keep us waiting.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| SourceError::io("open", path)(error.into()))?
            .into();
        let is_file = file.metadata().map_err(SourceError::io("look at", path))?.is_file();
        if !is_file {
            let why = "it is not a file".to_owned();
            return Err(SourceError::Form { path: path.to_owned(), why });
        }
        let index = TarIndex::read(&file, path)?;
        Ok(Self::Archive { path: path.to_owned(), file, index })
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Directory { path, .. } | Self::Archive { path, .. } => path,
        }
    }

    /// A file's bytes and their number, or nothing if there is no such file.
    pub(super) fn open(&self, name: &str) -> Result<Opened<'_>, SourceError> {
        match self {
            Self::Directory { path, file } => open_below(file, path, name),
            Self::Archive { file, index, .. } => Ok(index.find(name).map(|(offset, size)| {
                let piece: Box<dyn Read> = Box::new(Piece { file, at: offset, left: size });
                (piece, size)
            })),
        }
    }

    /// All of a small file.
    pub(super) fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let Some((reader, size)) = self.open(name)? else { return Ok(None) };
        if size > max {
            let why = format!("{name} has {size} bytes, more than the {max} that are taken");
            return Err(SourceError::Form { path: self.path().to_owned(), why });
        }
        let mut bytes = Vec::new();
        let read = reader.take(max).read_to_end(&mut bytes);
        read.map_err(SourceError::io("read", self.path().join(name)))?;
        Ok(Some(bytes))
    }
}

/// A file's bytes and their number, if there is such a file.
type Opened<'a> = Option<(Box<dyn Read + 'a>, u64)>;

fn open_below(directory: &File, path: &Path, name: &str) -> Result<Opened<'static>, SourceError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve);
    let path = path.join(name);
    let file: File = match opened {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        opened => opened.map_err(|error| SourceError::io("open", &path)(error.into()))?.into(),
    };
    let metadata = file.metadata().map_err(SourceError::io("look at", &path))?;
    if !metadata.is_file() {
        return Err(SourceError::Form { path, why: "it is not a file".to_owned() });
    }
    Ok(Some((Box::new(file), metadata.len())))
}

/// A piece of a file.
struct Piece<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Piece<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(buffer.get_mut(..length).unwrap_or_default(), self.at)?;
        let moved = u64::try_from(count).unwrap_or(u64::MAX);
        self.at = self.at.saturating_add(moved);
        self.left = self.left.saturating_sub(moved);
        Ok(count)
    }
}
