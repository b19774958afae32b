//! Where a copy comes from and where it goes: docker's rules for paths.
//!
//! | from | to what | becomes |
//! |---|---|---|
//! | file | nothing | a file of this name, unless it ends with `/` |
//! | file | file | it is replaced |
//! | anything | directory | an entry of it, called as the source is |
//! | directory | nothing | a directory of this name with its content |
//! | directory | file | an error |
//! | `DIR/.` | directory | its content is added |
//!
//! On the host the end of the destination is followed only where it is written as a directory, by a `/`:
//! a symbolic link there may be what an earlier copy brought out of a container.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use thiserror::Error;
use vmm_protocol::archive::Names;

use super::CopyError;

/// What `vmm cp` takes as source or destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// `CONTAINER:PATH`.
    Container {
        /// By name or identifier.
        container: String,
        /// From the container's root.
        path: String,
    },
    /// A path of this host.
    Host(PathBuf),
    /// `-`: an archive on standard input or output.
    Stream,
}

/// A word that is no end of a copy.
#[derive(Debug, Error)]
pub enum EndError {
    /// Nothing at all.
    #[error("an empty path")]
    Empty,
    /// `:PATH`.
    #[error(
        "there is no container's name before the colon; for a file whose name has one, write ./{0}"
    )]
    NoContainer(String),
    /// `CONTAINER:`.
    #[error("there is no path after `{0}:`; `{0}:/` is all of the container")]
    NoPath(String),
    /// A path in a container that the protocol does not carry.
    #[error("paths in a container have to be UTF-8")]
    NotText,
}

impl End {
    /// Understands a word as docker does: what has a colon is about a container, unless it begins with
    /// `/` or `.`.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(word: &OsStr) -> Result<Self, EndError> {
        let bytes = word.as_bytes();
        if bytes == b"-" {
            return Ok(Self::Stream);
        }
        if bytes.is_empty() {
            return Err(EndError::Empty);
        }
        if bytes.starts_with(b"/") || bytes.starts_with(b".") || !bytes.contains(&b':') {
            return Ok(Self::Host(word.into()));
        }
        let text = word.to_str().ok_or(EndError::NotText)?;
        match text.split_once(':') {
            Some(("", _)) | None => Err(EndError::NoContainer(text.to_owned())),
            Some((container, "")) => Err(EndError::NoPath(container.to_owned())),
            Some((container, path)) => {
                let slash = if path.starts_with('/') { "" } else { "/" };
                Ok(Self::Container {
                    container: container.to_owned(),
                    path: format!("{slash}{path}"),
                })
            }
        }
    }
}

/// Whether a path can mean a directory only, by its end.
pub(super) fn asks_for_directory(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    matches!(bytes.rsplit(|byte| *byte == b'/').next(), Some(b"" | b"." | b".."))
}

/// What is copied.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Copied {
    is_directory: bool,
    /// What it is called inside of an existing directory; nothing when its content goes there itself.
    name: Option<OsString>,
}

impl Copied {
    pub(super) fn new(path: &Path, is_directory: bool) -> Self {
        let bytes = path.as_os_str().as_bytes();
        let is_content = is_directory && (bytes == b"." || bytes.ends_with(b"/."));
        let name = path.file_name().filter(|_| !is_content).map(OsStr::to_owned);
        Self { is_directory, name }
    }
}

/// What there is at a path of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Directory,
    File,
    Link(String),
    Special,
}

/// Where in a container an archive is unpacked, and the first part of its names, if it has one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) directory: String,
    pub(super) name: Option<OsString>,
}

/// What the link at `path` with this target leads to.
pub(super) fn child(path: &str, target: &str) -> String {
    let directory = path.trim_end_matches('/').rsplit_once('/').map_or("", |(first, _)| first);
    if target.starts_with('/') { target.to_owned() } else { format!("{directory}/{target}") }
}

pub(super) fn destination_in_container(
    path: &str,
    found: Option<&Found>,
    copied: &Copied,
) -> Result<Destination, CopyError> {
    if found == Some(&Found::Directory) {
        return Ok(Destination { directory: path.to_owned(), name: copied.name.clone() });
    }
    if matches!(found, Some(Found::Special | Found::Link(_))) {
        return Err(CopyError::Special(path.to_owned()));
    }
    let name = new_name(Path::new(path), found.is_some(), copied)?;
    let directory = Path::new(path).parent().and_then(Path::to_str).unwrap_or("/");
    Ok(Destination { directory: directory.to_owned(), name: Some(name) })
}

/// The name of what is made at `path`, where there is nothing or a file.
fn new_name(path: &Path, is_file: bool, copied: &Copied) -> Result<OsString, CopyError> {
    let shown = || path.display().to_string();
    match (is_file, copied.is_directory) {
        (true, true) => return Err(CopyError::DirectoryToFile(shown())),
        (false, false) if asks_for_directory(path) => return Err(CopyError::NoDirectory(shown())),
        _ => {}
    }
    path.file_name().map(OsStr::to_owned).ok_or_else(|| CopyError::NoDirectory(shown()))
}

/// The directory of this host that an archive is unpacked in, and what becomes of its names.
pub(super) fn destination_on_host(
    path: &Path,
    copied: &Copied,
) -> Result<(OwnedFd, Names), CopyError> {
    let asked = asks_for_directory(path);
    let looked = if asked { path.metadata() } else { path.symlink_metadata() };
    let found = match looked {
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory && asked => {
            let path = path.display().to_string();
            let is_directory = copied.is_directory;
            let error =
                if is_directory { CopyError::DirectoryToFile } else { CopyError::NoDirectory };
            return Err(error(path));
        }
        Err(error) => return Err(CopyError::host(path, error)),
    };
    match found.as_ref().map(std::fs::Metadata::file_type) {
        Some(kind) if kind.is_dir() => {
            let names = copied.name.clone().map_or(Names::Content, Names::Renamed);
            let follow = if asked { OFlags::empty() } else { OFlags::NOFOLLOW };
            Ok((open(path, follow)?, names))
        }
        Some(kind) if kind.is_symlink() => {
            let target = path.read_link().map_err(|error| CopyError::host(path, error))?;
            Err(CopyError::Link { path: path.to_owned(), target })
        }
        Some(kind) if !kind.is_file() => Err(CopyError::Special(path.display().to_string())),
        found => {
            let name = new_name(path, found.is_some(), copied)?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            Ok((open(parent.unwrap_or(Path::new(".")), OFlags::empty())?, Names::Renamed(name)))
        }
    }
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, CopyError> {
    let flags = flags | OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|error| CopyError::host(path, error))
}
