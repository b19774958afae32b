//! The queue for commands (virtio 1.3, section 5.1.6.5). One command is known: how many pairs of
//! queues the driver uses.

use rustix::io::Errno;
use tracing::debug;

use super::pair::Pair;
use crate::devices::virtio::batch::show;
use crate::devices::virtio::chain::{Chain, take_bytes};
use crate::devices::virtio::device::{Activation, Progress};
use crate::devices::virtio::iovec::write_ranges;
use crate::devices::virtio::queue::QueueError;
use crate::memory::{GuestMemory, GuestRange};

/// Commands of one turn: each may take as long as the host's kernel to attach its queues.
const COMMANDS: u32 = 8;

const OK: u8 = 0;
const ERR: u8 = 1;

const CLASS_MQ: u8 = 4;
const VQ_PAIRS_SET: u8 = 0;

/// Carries out commands.
#[derive(Default)]
pub(super) struct Control {
    chain: Chain,
    rest: Vec<GuestRange>,
}

impl Control {
    /// Carries out the commands in queue `index`. They do not count for limits: a driver waits
    /// for the answer and does nothing else meanwhile.
    pub(super) fn run(
        &mut self,
        index: usize,
        active: &mut Activation,
        pairs: &mut [Pair],
    ) -> Result<Progress, QueueError> {
        let mut progress = Progress::More;
        for _ in 0..COMMANDS {
            let Some(queue) = active.queues.get_mut(index) else { return Ok(Progress::Idle) };
            if !queue.pop(&active.mem, &mut self.chain)? {
                if queue.enable_kicks(&active.mem)? {
                    continue;
                }
                progress = Progress::Idle;
                break;
            }
            let answer = match self.pairs_wanted(&active.mem)? {
                Some(wanted) => set_pairs(wanted, active, pairs)?,
                None => ERR,
            };
            self.answer(index, active, answer)?;
        }
        Ok(progress)
    }

    /// The number of pairs that a command asks for; `None` for any other command.
    fn pairs_wanted(&mut self, mem: &GuestMemory) -> Result<Option<u16>, QueueError> {
        if self.chain.writable_len() == 0 {
            return Err(QueueError::Device("control command has no room for its answer"));
        }
        // One byte more than the command: of others no more is read, however long they are.
        let mut command = [0; 5];
        let len = take_bytes(mem, self.chain.readable(), &mut command, &mut self.rest);
        Ok(match command.get(..len.map_err(QueueError::Memory)?) {
            Some([CLASS_MQ, VQ_PAIRS_SET, p0, p1]) => Some(u16::from_le_bytes([*p0, *p1])),
            _ => None,
        })
    }

    fn answer(&self, index: usize, active: &mut Activation, answer: u8) -> Result<(), QueueError> {
        let Some(queue) = active.queues.get_mut(index) else { return Ok(()) };
        let mem = &active.mem;
        write_ranges(mem, self.chain.writable(), 0, &[answer]).map_err(QueueError::Memory)?;
        queue.stage_used(mem, self.chain.head(), 1)?;
        show(queue, mem, &active.signal)
    }
}

/// Uses the first `wanted` pairs; what waits for the newly used ones is received.
fn set_pairs(wanted: u16, active: &mut Activation, pairs: &mut [Pair]) -> Result<u8, QueueError> {
    let wanted = usize::from(wanted);
    if wanted == 0 || wanted > pairs.len() {
        return Ok(ERR);
    }
    let before = pairs.iter().filter(|pair| pair.in_use()).count();
    if let Err(e) = use_pairs(pairs, wanted) {
        debug!("{wanted} pairs of queues cannot be used: {e}");
        // The driver goes on with what it had.
        let _ = use_pairs(pairs, before);
        return Ok(ERR);
    }
    // Kicks of pairs that were not in use were not heard.
    pairs.iter_mut().try_for_each(|pair| pair.buffers_came(active))?;
    Ok(OK)
}

/// Attaches the first `wanted` pairs to the host network, and detaches the others.
pub(super) fn use_pairs(pairs: &mut [Pair], wanted: usize) -> Result<(), Errno> {
    pairs.iter_mut().enumerate().try_for_each(|(index, pair)| pair.set_in_use(index < wanted))
}

#[cfg(test)]
mod tests;
