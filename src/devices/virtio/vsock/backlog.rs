//! Bytes of the guest that a host program has not taken yet.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use vm_memory::GuestMemoryError;

use super::connection::send;
use super::credit::BUF_ALLOC;
use crate::devices::virtio::iovec::read_window;
use crate::memory::{GuestMemory, GuestRange};

/// A queue of bytes; credit bounds it. Empty, it holds no memory.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// How many of them the host program has taken.
    taken: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Copies what lies in `ranges` behind the first `skip` bytes.
    pub(super) fn append(
        &mut self,
        mem: &GuestMemory,
        ranges: &[GuestRange],
        skip: u32,
    ) -> Result<(), GuestMemoryError> {
        if ranges.iter().map(|range| u64::from(range.len)).sum::<u64>() <= u64::from(skip) {
            return Ok(());
        }
        if self.taken > 0 {
            self.bytes.drain(..self.taken.min(self.bytes.len()));
            self.taken = 0;
        }
        // As much as it will ever hold, and not twice that.
        let most = usize::try_from(BUF_ALLOC).unwrap_or(0);
        self.bytes.reserve_exact(most.saturating_sub(self.bytes.len()));
        read_window(mem, ranges, skip, &mut self.bytes)
    }

    /// Hands on what `socket` takes now; tells how many bytes that were.
    pub(super) fn flush(&mut self, socket: &OwnedFd) -> Result<u32, Errno> {
        let waiting = self.bytes.get(self.taken..).unwrap_or_default();
        let sent = send(socket, &[IoSlice::new(waiting)])?;
        self.taken = self.taken.saturating_add(sent);
        if self.taken >= self.bytes.len() {
            *self = Self::default();
        }
        Ok(u32::try_from(sent).unwrap_or(u32::MAX))
    }
}
