//! What goes over a copy's connection: files as a tar stream, and back.
//!
//! A copy goes either way, so that both ends need both halves: [`send`] writes what a path stands for,
//! [`receive`] puts a stream below a directory. Who receives believes nothing: no name climbs, every
//! path is opened below the directory and, on the host, through no symbolic link; a file has its name
//! when it is whole and not before; nothing but files, directories, links and pipes is made. The memory
//! that either half needs is bounded by the longest path, not by the stream.

mod receive;
mod send;
mod tar;
#[cfg(test)]
mod tests;

use std::io;

use rustix::io::Errno;
use thiserror::Error;

pub use receive::{Links, Names, Target, receive};
pub use send::{Source, send};

/// Bytes moved at a time: what a frame carries.
const CHUNK: usize = crate::MAX_DATA;

/// Why a copy is not whole.
#[derive(Debug, Error)]
pub enum CopyError {
    /// The stream failed or ended early, or is no archive.
    #[error("{}", explained(.0))]
    Stream(io::Error),
    /// A file that cannot be read or made.
    #[error("{}: {}", crate::printable(name), explained(error))]
    File {
        /// Its name in the archive, not fit for a terminal.
        name: String,
        /// Why.
        error: io::Error,
    },
}

/// What a fuzzer does with an archive.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_and_write(mut stream: &[u8]) {
    while let Ok(Some(entry)) = tar::next(&mut stream) {
        let is_written = entry.kind != tar::EntryKind::Other
            && [&entry.name, &entry.link]
                .iter()
                .all(|text| !text.contains(&0) && text.len() < 60_000);
        if is_written {
            let again = tar::next(&mut tar::header(&entry).as_slice());
            assert!(
                again.is_ok_and(|again| again == Some(entry.clone())),
                "an entry can be sent on"
            );
        }
        let padding = u64::try_from(tar::padding(entry.size)).unwrap_or(0);
        let behind = usize::try_from(entry.size.saturating_add(padding)).unwrap_or(usize::MAX);
        let Some(rest) = stream.get(behind..) else { return };
        stream = rest;
    }
}

impl CopyError {
    fn file(name: &[u8], error: impl Into<io::Error>) -> Self {
        Self::File { name: String::from_utf8_lossy(name).into_owned(), error: error.into() }
    }
}

/// What the errors mean whose own words do not say it.
fn explained(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the archive ends too early".into();
    }
    match Errno::from_io_error(error) {
        Some(Errno::LOOP) => "a symbolic link is in the way, and nothing is copied through it".into(),
        Some(Errno::XDEV) => "it leads out of the destination, or to another file system".into(),
        Some(Errno::ISDIR) => "there is a directory already, which nothing else replaces".into(),
        Some(Errno::NOTDIR) => "there is something already that is no directory".into(),
        Some(Errno::NOSYS) => {
            "this kernel has no openat2, which keeps a copy inside its destination: Linux 5.6 has it"
                .into()
        }
        _ => error.to_string(),
    }
}
