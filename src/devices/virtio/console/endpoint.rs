//! What a port is connected to on the host.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::event::epoll::{self, EventData, EventFlags};
use tracing::error;

use crate::devices::console::{ConsoleInput, ConsoleOutput};

/// What a port could use of its endpoint now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Somebody new may come.
    pub somebody: bool,
    /// The guest takes input.
    pub input: bool,
    /// Output of the guest waits.
    pub room: bool,
}

/// The host's side of a port. Nothing here ever waits.
pub trait Endpoint: Send {
    /// Whether somebody is there, which the driver is told (VIRTIO_CONSOLE_PORT_OPEN).
    fn is_open(&self) -> bool;

    /// Waits in `epoll` for what `wish` says and for nothing else; events carry `port`.
    fn watch(&mut self, epoll: BorrowedFd<'_>, port: u64, wish: Wish);

    /// Something that was waited for has come.
    fn arrive(&mut self) {}

    /// Takes input for the guest into `bytes`; tells how much, 0 when there is none now.
    fn receive(&mut self, bytes: &mut [u8]) -> usize;

    /// Takes output of the guest; tells how much, 0 when there is no room now. `None` when nobody
    /// is there to take it.
    fn send(&mut self, bytes: &[u8]) -> Option<usize>;
}

/// A descriptor, and what of it an epoll instance waits for.
pub(super) struct Watched<F> {
    pub(super) fd: F,
    watched: EventFlags,
}

impl<F: AsFd> Watched<F> {
    /// A descriptor that is not waited for.
    pub(super) fn new(fd: F) -> Self {
        Self { fd, watched: EventFlags::empty() }
    }

    /// Waits in `epoll` for `wanted` alone. Nothing is listened to when that is empty: a peer that
    /// hung up would be reported again and again.
    pub(super) fn watch(&mut self, epoll: BorrowedFd<'_>, port: u64, wanted: EventFlags) {
        if wanted == self.watched {
            return;
        }
        let data = EventData::new_u64(port);
        let done = match (self.watched.is_empty(), wanted.is_empty()) {
            (true, _) => epoll::add(epoll, &self.fd, data, wanted),
            (_, true) => epoll::delete(epoll, &self.fd),
            _ => epoll::modify(epoll, &self.fd, data, wanted),
        };
        match done {
            Ok(()) => self.watched = wanted,
            Err(e) => error!("cannot wait for a port of the console: {e}"),
        }
    }
}

/// Where the console's port leads: to what the user sees and types.
pub struct Terminal {
    output: Arc<ConsoleOutput>,
    input: Watched<Arc<ConsoleInput>>,
}

impl Terminal {
    /// Prints to `output` and fetches from `input`.
    pub fn new(output: Arc<ConsoleOutput>, input: Arc<ConsoleInput>) -> Self {
        Self { output, input: Watched::new(input) }
    }
}

impl Endpoint for Terminal {
    fn is_open(&self) -> bool {
        true
    }

    fn watch(&mut self, epoll: BorrowedFd<'_>, port: u64, wish: Wish) {
        let wanted = if wish.input { EventFlags::IN } else { EventFlags::empty() };
        self.input.watch(epoll, port, wanted);
    }

    fn receive(&mut self, bytes: &mut [u8]) -> usize {
        self.input.fd.take(bytes)
    }

    /// The console takes everything at once: a driver waits for that with its CPU.
    fn send(&mut self, bytes: &[u8]) -> Option<usize> {
        self.output.push(bytes);
        Some(bytes.len())
    }
}

/// Where the first port leads when the console is somewhere else: nowhere.
pub(super) struct Nowhere;

impl Endpoint for Nowhere {
    fn is_open(&self) -> bool {
        false
    }

    fn watch(&mut self, _epoll: BorrowedFd<'_>, _port: u64, _wish: Wish) {}

    fn receive(&mut self, _bytes: &mut [u8]) -> usize {
        0
    }

    fn send(&mut self, _bytes: &[u8]) -> Option<usize> {
        None
    }
}
