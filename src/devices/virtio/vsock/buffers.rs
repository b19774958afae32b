//! The guest's buffers that take the next packets.

use std::collections::VecDeque;

use super::muxer::packet_len;
use super::packet::{HEADER_LEN, Header};
use crate::devices::virtio::chain::Chain;
use crate::devices::virtio::iovec::write_ranges;
use crate::devices::virtio::queue::{Queue, QueueError};
use crate::memory::GuestMemory;

/// No further buffer is taken for one read with so many parts at hand: one may have 256 more, and the
/// kernel takes 1024.
const ENOUGH_PARTS: usize = 512;
/// Nor with so much room: then it is the turn of what has become ready meanwhile.
const ENOUGH_ROOM: u32 = 64 << 10;

/// Buffers taken from the queue and not used yet, oldest first. Linux gives pages: data are read into
/// many at once.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    held: VecDeque<Chain>,
    /// Kept for their allocations.
    spare: Vec<Chain>,
}

impl Buffers {
    /// Sees to it that one is held; false when the driver must give more first.
    pub(super) fn take(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemory,
    ) -> Result<bool, QueueError> {
        while self.held.is_empty() {
            if !self.pop(queue, mem)? {
                if !queue.enable_kicks(mem)? {
                    return Ok(false);
                }
                queue.disable_kicks(mem)?;
            }
        }
        Ok(true)
    }

    /// Takes as many as one read fills well, of those that are there.
    pub(super) fn gather(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemory,
    ) -> Result<(), QueueError> {
        let (mut parts, mut room) = (0, 0u32);
        for chain in &self.held {
            parts += chain.writable().len();
            room = room.saturating_add(chain.writable_len());
        }
        while parts < ENOUGH_PARTS && room < ENOUGH_ROOM && self.pop(queue, mem)? {
            let Some(chain) = self.held.back() else { break };
            parts += chain.writable().len();
            room = room.saturating_add(chain.writable_len());
        }
        Ok(())
    }

    fn pop(&mut self, queue: &mut Queue, mem: &GuestMemory) -> Result<bool, QueueError> {
        let mut chain = self.spare.pop().unwrap_or_default();
        if !queue.pop(mem, &mut chain)? {
            self.spare.push(chain);
            return Ok(false);
        }
        if chain.readable_len() > 0 {
            return Err(QueueError::Device("receive buffer is not writable"));
        }
        if chain.writable_len() <= HEADER_LEN {
            return Err(QueueError::Device("receive buffer has no room behind a header"));
        }
        if self.held.iter().any(|held| held.head() == chain.head()) {
            return Err(QueueError::Device("receive buffer was given twice"));
        }
        self.held.push_back(chain);
        Ok(true)
    }

    /// Those that are held.
    pub(super) fn held(&self) -> impl Iterator<Item = &Chain> {
        self.held.iter()
    }

    /// Uses them for packets that begin with `header` and share its data, which lie in them already;
    /// calls `each` with the bytes of data of every packet.
    pub(super) fn fill(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemory,
        header: &Header,
        mut each: impl FnMut(u32),
    ) -> Result<(), QueueError> {
        let mut left = header.len;
        while let Some(chain) = self.held.pop_front() {
            let len = left.min(chain.writable_len().saturating_sub(HEADER_LEN));
            let bytes = Header { len, ..*header }.bytes();
            write_ranges(mem, chain.writable(), 0, &bytes).map_err(QueueError::Memory)?;
            queue.stage_used(mem, chain.head(), packet_len(len))?;
            self.spare.push(chain);
            each(len);
            left -= len;
            if left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Gives all back to the queue.
    pub(super) fn give_back(&mut self, queue: Option<&mut Queue>) {
        if let Some(queue) = queue {
            queue.unpop(u16::try_from(self.held.len()).unwrap_or(u16::MAX));
        }
        self.spare.extend(self.held.drain(..));
    }
}
