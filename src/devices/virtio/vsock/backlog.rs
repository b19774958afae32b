//! Bytes of the guest that a host program has not taken yet.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use vm_memory::GuestMemoryError;

use super::connection::send;
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

    /// Copies what lies in `ranges` behind the first `skip` bytes; it will never hold more than `most`.
    pub(super) fn append(
        &mut self,
        mem: &GuestMemory,
        ranges: &[GuestRange],
        skip: u32,
        most: u32,
    ) -> Result<(), GuestMemoryError> {
        if ranges.iter().map(|range| u64::from(range.len)).sum::<u64>() <= u64::from(skip) {
            return Ok(());
        }
        if self.taken > 0 {
            self.bytes.drain(..self.taken.min(self.bytes.len()));
            self.taken = 0;
        }
        // As much as it will ever hold, and not twice that.
        let most = usize::try_from(most).unwrap_or(0);
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

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;

    /// V10: thousands of connections may keep a little each.
    #[test]
    fn backlog_takes_the_memory_of_its_room_and_no_more() {
        let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        let (mut backlog, room) = (Backlog::default(), 4096);
        for len in [100, 4096 - 100] {
            let range = GuestRange { addr: GuestAddress(0), len: len + 7 };
            backlog.append(&mem, &[range], 7, room).unwrap();
        }
        assert_eq!((backlog.bytes.len(), backlog.bytes.capacity()), (4096, 4096));
    }
}
