//! A named port's side on the host: a unix socket with one client at a time.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::epoll::EventFlags;
use rustix::fs::{FileType, Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, recv, send, socket_with,
};
use thiserror::Error;
use tracing::warn;

use super::endpoint::{Endpoint, Watched, Wish};

/// Clients that wait for the one before them to leave.
const BACKLOG: i32 = 4;
/// Only the owner may connect.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Why a socket cannot be listened on.
#[derive(Debug, Error)]
pub enum SocketError {
    /// A file is there, or a socket that somebody listens on.
    #[error("{} is taken", .0.display())]
    Taken(PathBuf),
    /// The host refused.
    #[error("listen on {}", path.display())]
    Listen {
        /// Path of the socket.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// A listening socket, and its client.
pub struct PortSocket {
    listener: Watched<OwnedFd>,
    client: Option<Watched<OwnedFd>>,
    /// Clients cannot be accepted: they are not listened for, or they would be reported for ever.
    deaf: bool,
    name: Name,
}

impl PortSocket {
    /// Listens on a new socket at `path`, with mode 0600. One that nobody listens on any more is
    /// replaced: a monitor that was killed has left it.
    ///
    /// # Errors
    /// Something else is at `path`, or the host refuses.
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        let refused =
            |errno: Errno| SocketError::Listen { path: path.to_owned(), source: errno.into() };
        let listener = bound(path).map_err(|errno| match errno {
            Errno::ADDRINUSE => SocketError::Taken(path.to_owned()),
            errno => refused(errno),
        })?;
        let name = Name::of(path)
            .map_err(|source| SocketError::Listen { path: path.to_owned(), source })?;
        listen(&listener, BACKLOG).map_err(refused)?;
        Ok(Self { listener: Watched::new(listener), client: None, deaf: false, name })
    }
}

fn stream() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn bound(path: &Path) -> Result<OwnedFd, Errno> {
    let (socket, address) = (stream()?, SocketAddrUnix::new(path)?);
    // The file gets the mode of the socket: it is never open to others, not even for a moment.
    fchmod(&socket, MODE)?;
    match bind(&socket, &address) {
        Err(Errno::ADDRINUSE) if is_abandoned(path, &address) => {
            rustix::fs::unlink(path)?;
            bind(&socket, &address)?;
        }
        result => result?,
    }
    Ok(socket)
}

/// Whether `path` is a socket that nobody listens on.
fn is_abandoned(path: &Path, address: &SocketAddrUnix) -> bool {
    let is_socket = rustix::fs::lstat(path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
    is_socket && stream().and_then(|probe| connect(&probe, address)) == Err(Errno::CONNREFUSED)
}

/// The name of a socket, which goes when it is dropped.
struct Name {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Name {
    fn of(path: &Path) -> io::Result<Self> {
        let found = path.symlink_metadata()?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // What somebody else has put there since is not ours to remove.
        let is_ours =
            |found: std::fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if self.path.symlink_metadata().is_ok_and(is_ours) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Endpoint for PortSocket {
    fn is_open(&self) -> bool {
        self.client.is_some()
    }

    /// A client that hung up is noticed by what is read or written last.
    fn watch(&mut self, epoll: BorrowedFd<'_>, port: u64, wish: Wish) {
        let mut wanted = EventFlags::empty();
        let Some(client) = &mut self.client else {
            wanted.set(EventFlags::IN, wish.somebody && !self.deaf);
            return self.listener.watch(epoll, port, wanted);
        };
        wanted.set(EventFlags::IN, wish.input);
        wanted.set(EventFlags::OUT, wish.room);
        client.watch(epoll, port, wanted);
        self.listener.watch(epoll, port, EventFlags::empty());
    }

    fn arrive(&mut self) {
        if self.client.is_some() {
            return;
        }
        match accept_with(&self.listener.fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(client) => self.client = Some(Watched::new(client)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(e) => {
                warn!("{}: no client is accepted any more: {e}", self.name.path.display());
                self.deaf = true;
            }
        }
    }

    fn receive(&mut self, bytes: &mut [u8]) -> usize {
        let Some(client) = &self.client else { return 0 };
        match recv(&client.fd, bytes, RecvFlags::DONTWAIT) {
            Ok((_, count @ 1..)) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            // It left, or did so rudely.
            Ok(_) | Err(_) => {
                self.client = None;
                0
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Option<usize> {
        let client = self.client.as_ref()?;
        match send(&client.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => Some(count),
            Err(Errno::AGAIN | Errno::INTR) => Some(0),
            Err(_) => {
                self.client = None;
                None
            }
        }
    }
}
