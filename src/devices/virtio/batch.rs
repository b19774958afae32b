//! One wake of a queue: many chains under a budget, shown to the driver in batches.

use super::chain::Chain;
use super::device::{Activation, Progress, Signal};
use super::queue::{Queue, QueueError};
use crate::memory::GuestMemory;

/// Bytes moved after which finished chains are shown though more are waiting: a sender that limits
/// what it has under way, as TCP does, then works beside the device, not in turns with it.
const BATCH_BYTES: u64 = 64 << 10;

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

/// How far a chain came at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is done.
    Done(Done),
    /// It will be done later.
    UnderWay {
        /// Bytes it moves, for the budget.
        moves: u64,
    },
    /// The host has no room for it: it stays available, and the device comes back to it by itself.
    NotYet,
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
        self.begin(index, budget, chain, |mem, chain| handle(mem, chain).map(Begun::Done))
    }

    /// As [`Activation::drain`], where `handle` may leave a chain under way: it is then the caller's
    /// to return later.
    ///
    /// # Errors
    /// As for [`Activation::drain`].
    pub fn begin(
        &mut self,
        index: usize,
        budget: Budget,
        chain: &mut Chain,
        mut handle: impl FnMut(&GuestMemory, &Chain) -> Result<Begun, QueueError>,
    ) -> Result<Progress, QueueError> {
        let Some(queue) = self.queues.get_mut(index) else { return Ok(Progress::Idle) };
        let (mem, signal, throttle) = (&self.mem, &*self.signal, &*self.throttles.send);
        let progress = work(queue, mem, signal, budget, |queue| {
            if !throttle.may_begin() {
                return Ok(Step::Wait);
            }
            if !queue.pop(mem, chain)? {
                return Ok(Step::Empty);
            }
            let moved = match handle(mem, chain)? {
                Begun::Done(done) => {
                    queue.stage_used(mem, chain.head(), done.used_len)?;
                    done.moved
                }
                Begun::UnderWay { moves } => moves,
                Begun::NotYet => {
                    queue.unpop(1);
                    return Ok(Step::Wait);
                }
            };
            throttle.charge(moved);
            Ok(Step::Moved(moved))
        });
        show(queue, mem, signal)?;
        progress
    }
}

/// Shows the driver what was staged, and interrupts it if it wants that.
///
/// # Errors
/// Ring memory that cannot be written, which a validated ring rules out.
pub fn show(queue: &mut Queue, mem: &GuestMemory, signal: &Signal) -> Result<(), QueueError> {
    let finished = queue.publish(mem)?;
    if queue.needs_interrupt(mem)? {
        signal.used_buffer();
    } else if finished {
        signal.counters().interrupts_suppressed.inc();
    }
    Ok(())
}

/// What became of an attempt to handle a chain.
enum Step {
    /// It was handled, and this many bytes were moved.
    Moved(u64),
    /// There is none.
    Empty,
    /// A limit is reached, and the transport kicks the queue when it is time; or the device waits
    /// for its host.
    Wait,
}

/// Calls `next`, which handles one chain, until it finds none or must wait.
fn work(
    queue: &mut Queue,
    mem: &GuestMemory,
    signal: &Signal,
    mut budget: Budget,
    mut next: impl FnMut(&mut Queue) -> Result<Step, QueueError>,
) -> Result<Progress, QueueError> {
    let mut unseen = 0;
    queue.disable_kicks(mem)?;
    loop {
        match next(queue)? {
            Step::Moved(moved) => {
                if !budget.spend(moved) {
                    return Ok(Progress::More);
                }
                unseen += moved;
                if unseen >= BATCH_BYTES {
                    show(queue, mem, signal)?;
                    unseen = 0;
                }
            }
            Step::Empty if queue.enable_kicks(mem)? => queue.disable_kicks(mem)?,
            Step::Empty | Step::Wait => return Ok(Progress::Idle),
        }
    }
}
