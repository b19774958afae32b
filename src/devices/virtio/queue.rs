//! A split virtqueue as a device sees it (virtio 1.3, section 2.7).
//!
//! Ring state that the guest can write (`avail.idx`, `used.idx`, flags) is never trusted: the
//! device keeps its own positions and only ever compares the guest's against them.

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use thiserror::Error;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::chain::{Chain, ChainError, ChainStart};
use crate::memory::GuestMemory;

const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_RING_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;
const AVAIL_RING_HEADER: u64 = 4;
const AVAIL_ELEMENT: u64 = 2;

/// A broken ring: the device needs a reset (virtio 1.3, section 2.1.2).
#[derive(Debug, Error)]
pub enum QueueError {
    /// The driver set the queue up in a way that cannot work.
    #[error("queue of {size} entries is misplaced or misaligned")]
    Setup {
        /// Number of entries asked for.
        size: u16,
    },
    /// `avail.idx` ran ahead of the queue or backwards.
    #[error("available ring")]
    Avail(#[source] virtio_queue::Error),
    /// The chain behind an available entry is broken.
    #[error("descriptor chain {head}")]
    Chain {
        /// Head index of the chain.
        head: u16,
        /// What is wrong with it.
        #[source]
        source: ChainError,
    },
    /// A ring that cannot be read or written.
    #[error("ring memory")]
    Memory(#[source] GuestMemoryError),
    /// A chain that is sound, but not what the device type prescribes.
    #[error("{0}")]
    Device(&'static str),
}

/// What the driver wrote about a queue before DRIVER_OK; addresses are guest physical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueConfig {
    /// Number of entries.
    pub size: u16,
    /// Whether the driver enabled the queue.
    pub ready: bool,
    /// Descriptor table.
    pub desc: u64,
    /// Available ring (driver area).
    pub avail: u64,
    /// Used ring (device area).
    pub used: u64,
}

/// Ring features the driver negotiated.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingFeatures {
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
}

/// A live queue.
#[derive(Debug)]
pub struct Queue {
    ring: virtio_queue::Queue,
    indirect: bool,
    /// Next used slot to fill; ahead of `published` within a batch.
    next_used: Wrapping<u16>,
    /// `used.idx` as last shown to the driver.
    published: Wrapping<u16>,
    /// `used.idx` when the driver was last considered for an interrupt.
    signalled: Wrapping<u16>,
}

impl Queue {
    /// Makes a live queue from what the driver configured. A queue that is not `ready` is
    /// legal and stays empty.
    ///
    /// # Errors
    /// [`QueueError::Setup`] when size, alignment or placement break section 2.7.
    pub fn new(
        max_size: u16,
        config: QueueConfig,
        features: RingFeatures,
        mem: &GuestMemory,
    ) -> Result<Self, QueueError> {
        let broken = |_| QueueError::Setup { size: config.size };
        let mut ring = virtio_queue::Queue::new(max_size).map_err(broken)?;
        if config.ready {
            ring.try_set_size(config.size).map_err(broken)?;
            ring.try_set_desc_table_address(GuestAddress(config.desc)).map_err(broken)?;
            ring.try_set_avail_ring_address(GuestAddress(config.avail)).map_err(broken)?;
            ring.try_set_used_ring_address(GuestAddress(config.used)).map_err(broken)?;
            ring.set_event_idx(features.event_idx);
            ring.set_ready(true);
            if !ring.is_valid(mem) {
                return Err(QueueError::Setup { size: config.size });
            }
        }
        Ok(Self {
            ring,
            indirect: features.indirect,
            next_used: Wrapping(0),
            published: Wrapping(0),
            signalled: Wrapping(0),
        })
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Takes the next available chain into `chain`; false when there is none.
    ///
    /// # Errors
    /// [`QueueError`] when the ring or the chain is broken.
    pub fn pop(&mut self, mem: &GuestMemory, chain: &mut Chain) -> Result<bool, QueueError> {
        if !self.ring.ready() {
            return Ok(false);
        }
        let head = match self.ring.iter(mem).map_err(QueueError::Avail)?.next() {
            Some(next) => next.head_index(),
            None => return Ok(false),
        };
        let start = ChainStart {
            table: GuestAddress(self.ring.desc_table()),
            size: self.ring.size(),
            head,
            indirect: self.indirect,
        };
        chain.read(mem, start).map_err(|source| QueueError::Chain { head, source })?;
        Ok(true)
    }

    /// Gives back the `count` chains popped last: they will be popped again.
    pub fn unpop(&mut self, count: u16) {
        let next = self.ring.next_avail().wrapping_sub(count);
        self.ring.set_next_avail(next);
    }

    /// Returns the chain `head` with `len` bytes written, without showing it to the driver yet.
    ///
    /// # Errors
    /// [`QueueError::Memory`], which a validated ring rules out.
    pub fn stage_used(&mut self, mem: &GuestMemory, head: u16, len: u32) -> Result<(), QueueError> {
        let slot = u64::from(self.next_used.0 % self.ring.size());
        let addr = self.used_addr(USED_RING_HEADER + slot * USED_ELEMENT)?;
        let [h0, h1] = head.to_le_bytes();
        let [l0, l1, l2, l3] = len.to_le_bytes();
        mem.write_slice(&[h0, h1, 0, 0, l0, l1, l2, l3], addr).map_err(QueueError::Memory)?;
        self.next_used += Wrapping(1);
        Ok(())
    }

    /// Shows all staged chains to the driver at once (section 2.7.8.2: elements before index);
    /// tells whether there were any.
    ///
    /// # Errors
    /// [`QueueError::Memory`], which a validated ring rules out.
    pub fn publish(&mut self, mem: &GuestMemory) -> Result<bool, QueueError> {
        let staged = self.published != self.next_used;
        if staged {
            let addr = self.used_addr(2)?;
            mem.store(self.next_used.0.to_le(), addr, Ordering::Release)
                .map_err(QueueError::Memory)?;
            self.published = self.next_used;
        }
        Ok(staged)
    }

    /// Stages and publishes one chain.
    ///
    /// # Errors
    /// As [`Queue::stage_used`].
    pub fn push_used(&mut self, mem: &GuestMemory, head: u16, len: u32) -> Result<(), QueueError> {
        self.stage_used(mem, head, len)?;
        self.publish(mem).map(drop)
    }

    /// Whether the driver wants an interrupt for what was published since the last call
    /// (section 2.7.7).
    ///
    /// # Errors
    /// [`QueueError::Memory`], which a validated ring rules out.
    pub fn needs_interrupt(&mut self, mem: &GuestMemory) -> Result<bool, QueueError> {
        let (old, new) = (self.signalled, self.published);
        if old == new {
            return Ok(false);
        }
        self.signalled = new;
        // The index must be visible before the driver's wish is read, or both sides may wait.
        fence(Ordering::SeqCst);
        if self.ring.event_idx_enabled() {
            let offset = AVAIL_RING_HEADER + u64::from(self.ring.size()) * AVAIL_ELEMENT;
            let event = self.load_avail(mem, offset)?;
            return Ok(event_passed(Wrapping(event), new, old));
        }
        Ok(self.load_avail(mem, 0)? & AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Asks the driver for a kick when it next makes chains available; true when some came
    /// meanwhile and must be looked at without waiting for one.
    ///
    /// # Errors
    /// [`QueueError::Avail`], which a validated ring rules out.
    pub fn enable_kicks(&mut self, mem: &GuestMemory) -> Result<bool, QueueError> {
        if !self.ring.ready() {
            return Ok(false);
        }
        self.ring.enable_notification(mem).map_err(QueueError::Avail)
    }

    /// Tells the driver that kicks are not needed for now.
    ///
    /// # Errors
    /// [`QueueError::Avail`], which a validated ring rules out.
    pub fn disable_kicks(&mut self, mem: &GuestMemory) -> Result<(), QueueError> {
        if !self.ring.ready() {
            return Ok(());
        }
        self.ring.disable_notification(mem).map_err(QueueError::Avail)
    }

    fn used_addr(&self, offset: u64) -> Result<GuestAddress, QueueError> {
        ring_addr(self.ring.used_ring(), offset, self.ring.size())
    }

    fn load_avail(&self, mem: &GuestMemory, offset: u64) -> Result<u16, QueueError> {
        let addr = ring_addr(self.ring.avail_ring(), offset, self.ring.size())?;
        mem.load(addr, Ordering::Relaxed).map(u16::from_le).map_err(QueueError::Memory)
    }
}

fn ring_addr(base: u64, offset: u64, size: u16) -> Result<GuestAddress, QueueError> {
    base.checked_add(offset).map(GuestAddress).ok_or(QueueError::Setup { size })
}

/// Whether the step from `old` to `new` passed `event` (section 2.7.7.2), modulo 2^16.
fn event_passed(event: Wrapping<u16>, new: Wrapping<u16>, old: Wrapping<u16>) -> bool {
    new - event - Wrapping(1) < new - old
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Section 2.7.7.2 in so many words: the index took the value `event` + 1 on its way.
    fn stepped_over(event: u16, new: u16, old: u16) -> bool {
        let mut index = old;
        while index != new {
            if index == event {
                return true;
            }
            index = index.wrapping_add(1);
        }
        false
    }

    proptest! {
        #[test]
        fn event_is_passed_exactly_when_the_index_steps_over_it(
            event: u16, old: u16, steps in prop_oneof![0u16..300, any::<u16>()],
        ) {
            let new = old.wrapping_add(steps);
            let passed = event_passed(Wrapping(event), Wrapping(new), Wrapping(old));
            prop_assert_eq!(passed, stepped_over(event, new, old));
        }

        #[test]
        fn event_near_the_index_is_judged_right_around_the_wrap(
            near in -3i16..3, old in 0xfff0u16.., steps in 1u16..32,
        ) {
            let new = old.wrapping_add(steps);
            for base in [old, new] {
                let event = base.wrapping_add_signed(near);
                let passed = event_passed(Wrapping(event), Wrapping(new), Wrapping(old));
                prop_assert_eq!(passed, stepped_over(event, new, old));
            }
        }
    }
}
