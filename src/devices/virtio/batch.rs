//! One wake of a queue: many chains under a budget, shown at once, with one interrupt.

use super::chain::Chain;
use super::device::{Activation, Progress, Signal};
use super::queue::{Queue, QueueError};
use crate::memory::GuestMemory;

/// What one wake may do before other devices get their turn.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Chains at most.
    pub chains: u32,
    /// Bytes after which no further chain is begun.
    pub bytes: u64,
}

impl Budget {
    /// Takes one chain of `bytes` from what is left; false once nothing is.
    pub fn spend(&mut self, bytes: u64) -> bool {
        self.chains = self.chains.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.chains > 0 && self.bytes > 0
    }
}

/// What became of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Bytes written from the start of the device-writable parts without a gap: an underestimate
    /// when writing failed half-way (virtio 1.3, section 2.7.8).
    pub used_len: u32,
    /// Bytes moved on behalf of the chain, for the budget.
    pub moved: u64,
}

impl Activation {
    /// Hands the available chains of queue `index` to `handle`, one after the other, until none
    /// is left or `budget` is spent.
    ///
    /// # Errors
    /// The first broken chain or ring; chains that were done before it are returned all the same.
    pub fn drain(
        &mut self,
        index: usize,
        budget: Budget,
        chain: &mut Chain,
        mut handle: impl FnMut(&GuestMemory, &Chain) -> Result<Done, QueueError>,
    ) -> Result<Progress, QueueError> {
        let Some(queue) = self.queues.get_mut(index) else { return Ok(Progress::Idle) };
        let mem = &self.mem;
        let progress = work(queue, mem, budget, chain, |chain| handle(mem, chain));
        show(queue, mem, &self.signal)?;
        progress
    }
}

/// Shows the driver what was staged, and interrupts it if it wants that.
///
/// # Errors
/// Ring memory that cannot be written, which a validated ring rules out.
pub fn show(queue: &mut Queue, mem: &GuestMemory, signal: &Signal) -> Result<(), QueueError> {
    queue.publish(mem)?;
    if queue.needs_interrupt(mem)? {
        signal.used_buffer();
    }
    Ok(())
}

fn work(
    queue: &mut Queue,
    mem: &GuestMemory,
    mut budget: Budget,
    chain: &mut Chain,
    mut handle: impl FnMut(&Chain) -> Result<Done, QueueError>,
) -> Result<Progress, QueueError> {
    queue.disable_kicks(mem)?;
    loop {
        if queue.pop(mem, chain)? {
            let done = handle(chain)?;
            queue.stage_used(mem, chain.head(), done.used_len)?;
            if !budget.spend(done.moved) {
                return Ok(Progress::More);
            }
        } else if queue.enable_kicks(mem)? {
            queue.disable_kicks(mem)?;
        } else {
            return Ok(Progress::Idle);
        }
    }
}
