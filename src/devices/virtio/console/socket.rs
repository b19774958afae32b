//! A named port's side on the host: a unix socket with one client at a time.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tracing::warn;

use super::endpoint::{Endpoint, Watched, Wish};
use crate::listener::{ListenError, Listener};

/// Clients that wait for the one before them to leave.
const BACKLOG: i32 = 4;

/// A listening socket, and its client.
pub struct PortSocket {
    listener: Watched<Listener>,
    client: Option<Watched<OwnedFd>>,
    /// Clients cannot be accepted: they are not listened for, or they would be reported for ever.
    deaf: bool,
}

impl PortSocket {
    /// Listens at `path`; see [`Listener::open`].
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn open(path: &Path) -> Result<Self, ListenError> {
        let listener = Watched::new(Listener::open(path, BACKLOG)?);
        Ok(Self { listener, client: None, deaf: false })
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
        match self.listener.fd.accept() {
            Ok(client) => self.client = Some(Watched::new(client)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(e) => {
                warn!("{}: no client is accepted any more: {e}", self.listener.fd.path().display());
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
