//! Copies between this host and a container that runs: what `vmm cp` does, by docker's rules.
//!
//! The agent in the guest is on the other end, and is not trusted: see [`vmm_protocol::archive`] for what
//! an archive can do, and [`ends`] for where one may go.

mod ends;
mod session;
#[cfg(test)]
mod tests;

use std::io::{self, BufWriter, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;
use thiserror::Error;
use vmm_protocol::archive::{self, Links, Source, Target};
use vmm_protocol::{FileKind, MAX_DATA, Request};

use ends::{Copied, Destination, Found, child, destination_in_container, destination_on_host};
pub use ends::{End, EndError};
use session::Session;

/// Symbolic links in a row that the destination in a container may be.
const MAX_LINKS: usize = 40;
/// Bytes of standard input that are looked at for what it is.
const MAGIC: u64 = 6;

/// Why a copy is not whole.
#[derive(Debug, Error)]
pub enum CopyError {
    /// Nobody answers.
    #[error("reach the agent of the container")]
    Unreachable(#[source] io::Error),
    /// A path that is not in the container.
    #[error("not in the container: {0}")]
    NoSuch(String),
    /// The agent cannot do it.
    #[error("in the container: {0}")]
    Refused(String),
    /// The connection has ended.
    #[error("the container has ended before the copy was whole")]
    Gone,
    /// The agent says what it should not.
    #[error("the container's side of the copy makes no sense")]
    Nonsense,
    /// It is not wanted any more.
    #[error("the copy was stopped")]
    Stopped,
    /// A file of this host that cannot be read or made, or an archive that is none.
    #[error(transparent)]
    Archive(archive::CopyError),
    /// A path of this host.
    #[error("{}", path.display())]
    Host {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is to be copied to the name of a directory that is not there.
    #[error("there is no directory {0}: make it first, or leave out the `/` at the end")]
    NoDirectory(String),
    /// What should be a directory is none.
    #[error("{0} is not a directory")]
    NotADirectory(String),
    /// A directory cannot replace a file.
    #[error("a directory cannot be copied to {0}, which is a file")]
    DirectoryToFile(String),
    /// What is copied to must be a file or a directory.
    #[error("{0} is neither a file nor a directory")]
    Special(String),
    /// A destination that may be the container's idea.
    #[error(
        "{} is a symbolic link, which a copy from a container does not follow by itself: name {}, or add a `/` to mean the directory that it leads to",
        path.display(), target.display()
    )]
    Link {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// Links that lead to links.
    #[error("too many symbolic links at {0} in the container")]
    Links(String),
    /// Standard input is not the archive itself.
    #[error(
        "standard input is compressed by {0}: decompress it on the way, as `{0} -dc FILE | vmm cp - ...` does"
    )]
    Compressed(&'static str),
    /// Standard output takes no more.
    #[error("write to standard output")]
    Output(#[source] io::Error),
    /// Standard input cannot be read.
    #[error("read standard input")]
    Input(#[source] io::Error),
}

impl From<archive::CopyError> for CopyError {
    /// What a session says comes back out of the stream that it was.
    fn from(error: archive::CopyError) -> Self {
        match error {
            archive::CopyError::Stream(error) => error
                .downcast::<Self>()
                .unwrap_or_else(|error| Self::Archive(archive::CopyError::Stream(error))),
            error => Self::Archive(error),
        }
    }
}

impl CopyError {
    fn of_stream(error: io::Error) -> Self {
        archive::CopyError::Stream(error).into()
    }

    fn host(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Host { path: path.to_owned(), source: source.into() }
    }
}

/// How copies are made.
pub struct Copy<'a> {
    /// Begins a session with the agent by its first request.
    pub connect: &'a dyn Fn(&Request) -> io::Result<UnixStream>,
    /// Whether owners are kept: those of files that go in, and of those that come out when this is root.
    pub archive: bool,
    /// Whether a symbolic link as the source stands for its target.
    pub follow: bool,
    /// Is told of all bytes so far.
    pub progress: &'a dyn Fn(u64),
    /// Can be read when the copy is not wanted any more.
    pub stop: Option<BorrowedFd<'a>>,
}

impl<'a> Copy<'a> {
    /// Copies `from` of the container to `to`; returns the bytes that came.
    ///
    /// # Errors
    /// Either path is not as it should be, or the copy is not whole: what came until then stays, but for
    /// the file that was not.
    pub fn to_host(&self, from: &str, to: &Path) -> Result<u64, CopyError> {
        let mut session = self.session(&self.out(from))?;
        let found = session.found()?;
        let is_directory = found.kind == FileKind::Directory;
        let copied = Copied::new(Path::new(from), is_directory);
        let (directory, names) = destination_on_host(to, &copied)?;
        let owners = self.archive && geteuid().is_root();
        let target = Target { directory, links: Links::Refused, names, owners };
        archive::receive(target, &mut session)?;
        Ok(session.moved)
    }

    /// Writes `from` of the container to `out` as an archive.
    ///
    /// # Errors
    /// The path is not there, or the archive is not whole.
    pub fn to_stream(&self, from: &str, out: &mut impl Write) -> Result<u64, CopyError> {
        let mut session = self.session(&self.out(from))?;
        session.found()?;
        let mut chunk = vec![0; MAX_DATA];
        loop {
            match session.read(&mut chunk).map_err(CopyError::of_stream)? {
                0 => break,
                len => out
                    .write_all(chunk.get(..len).unwrap_or_default())
                    .map_err(CopyError::Output)?,
            }
        }
        out.flush().map_err(CopyError::Output)?;
        Ok(session.moved)
    }

    /// Copies `from` of this host to `to` in the container; returns the bytes that went.
    ///
    /// # Errors
    /// Either path is not as it should be, or the copy is not whole.
    pub fn to_container(&self, from: &Path, to: &str) -> Result<u64, CopyError> {
        let follow = self.follow || ends::asks_for_directory(from);
        let stat = if follow { from.metadata() } else { from.symlink_metadata() };
        let is_directory = stat.map_err(|error| CopyError::host(from, error))?.is_dir();
        let copied = Copied::new(from, is_directory);
        let Destination { directory, name } = self.place(to, &copied)?;
        let open = |flags| rustix::fs::open(from, flags | OFlags::CLOEXEC, Mode::empty());
        let source = Source {
            open: &open,
            name: name.as_deref().map_or(&b"."[..], OsStrExt::as_bytes),
            follow,
            owner: (!self.archive).then_some((0, 0)),
            one_file_system: false,
        };
        let mut session = self.session(&Request::CopyIn { directory })?;
        archive::send(&source, &mut BufWriter::with_capacity(MAX_DATA, &mut session))?;
        session.finish()?;
        Ok(session.moved)
    }

    /// Unpacks the archive that `input` is into the directory `to` of the container.
    ///
    /// # Errors
    /// There is no such directory, or the archive is none.
    pub fn from_stream(&self, input: &mut impl Read, to: &str) -> Result<u64, CopyError> {
        let mut begin = vec![];
        Read::take(&mut *input, MAGIC).read_to_end(&mut begin).map_err(CopyError::Input)?;
        if let Some(by) = compressed(&begin) {
            return Err(CopyError::Compressed(by));
        }
        let Some(Found::Directory) = self.look(to, true)? else {
            return Err(CopyError::NotADirectory(to.to_owned()));
        };
        let mut session = self.session(&Request::CopyIn { directory: to.to_owned() })?;
        let (mut input, mut chunk) = (begin.as_slice().chain(input), vec![0; MAX_DATA]);
        loop {
            match input.read(&mut chunk) {
                Ok(0) => break,
                Ok(len) => session
                    .write_all(chunk.get(..len).unwrap_or_default())
                    .map_err(CopyError::of_stream)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CopyError::Input(error)),
            }
        }
        session.finish()?;
        Ok(session.moved)
    }

    fn out(&self, from: &str) -> Request {
        Request::CopyOut { path: from.to_owned(), follow: self.follow }
    }

    fn session(&self, request: &Request) -> Result<Session<'a>, CopyError> {
        let socket = (self.connect)(request).map_err(CopyError::Unreachable)?;
        Session::new(socket, self.stop, self.progress)
    }

    /// Where in the container a copy goes. As with docker, links at the end of `to` are followed.
    fn place(&self, to: &str, copied: &Copied) -> Result<Destination, CopyError> {
        let mut path = to.to_owned();
        for _ in 0..MAX_LINKS {
            match self.look(&path, false)? {
                Some(Found::Link(target)) => path = child(&path, &target),
                found => return destination_in_container(&path, found.as_ref(), copied),
            }
        }
        Err(CopyError::Links(to.to_owned()))
    }

    /// What a path in the container is.
    fn look(&self, path: &str, follow: bool) -> Result<Option<Found>, CopyError> {
        let mut session = self.session(&Request::Stat { path: path.to_owned(), follow })?;
        match session.found() {
            Ok(stat) => Ok(Some(match (stat.kind, stat.link) {
                (FileKind::Directory, _) => Found::Directory,
                (FileKind::File, _) => Found::File,
                (FileKind::Link, Some(target)) => Found::Link(target),
                _ => Found::Special,
            })),
            Err(CopyError::NoSuch(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// By what the file that begins so is compressed.
fn compressed(begin: &[u8]) -> Option<&'static str> {
    let magics: [(&[u8], _); 4] = [
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh", "bzip2"),
        (b"\xfd7zXZ", "xz"),
    ];
    magics.iter().find(|(magic, _)| begin.starts_with(magic)).map(|(_, name)| *name)
}
