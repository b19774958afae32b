//! Memory on its way back to the host: pages of the balloon, and free memory that was reported.

use std::sync::Arc;

use tracing::warn;
use vm_memory::GuestAddress;

use super::{BalloonCounters, PAGE};
use crate::devices::virtio::batch::Done;
use crate::devices::virtio::chain::Chain;
use crate::devices::virtio::iovec::read_ranges;
use crate::devices::virtio::queue::QueueError;
use crate::memory::{GuestMemory, GuestRange, discard};

/// Most page frame numbers of one request that are looked at; Linux sends 256. Each may cost a call of
/// the host's kernel, when no two are neighbours.
const MAX_FRAMES: u64 = 1024;
/// Most bytes of one report that are given back. Linux reports 32 blocks of 4 MiB at most.
const MAX_REPORT: u32 = 128 << 20;
/// Bytes of a page frame number (section 5.5.6).
const FRAME: u32 = 4;

/// Gives pages back. Its lists are kept, so that no request but the first ones allocates.
pub(super) struct Pages {
    counters: Arc<BalloonCounters>,
    bytes: Vec<u8>,
    frames: Vec<u32>,
}

/// How many pages the request in `chain` names: an array of 32-bit numbers, however it is split.
pub(super) fn named(chain: &Chain) -> Result<u64, QueueError> {
    let len = chain.readable_len();
    if chain.writable_len() > 0 || len == 0 || !len.is_multiple_of(FRAME) {
        return Err(QueueError::Device("balloon request is no array of page numbers"));
    }
    Ok((len / FRAME).into())
}

impl Pages {
    pub(super) fn new(counters: Arc<BalloonCounters>) -> Self {
        Self { counters, bytes: Vec::new(), frames: Vec::new() }
    }

    /// Gives back the pages the request in `chain` puts into the balloon.
    ///
    /// A number that stands for no page of guest memory is ignored: it costs nobody anything, and a
    /// guest that names its own rings meets what it has done soon enough.
    pub(super) fn inflate(&mut self, mem: &GuestMemory, chain: &Chain) -> Result<Done, QueueError> {
        let named = named(chain)?;
        self.read_frames(mem, chain, named.min(MAX_FRAMES)).map_err(QueueError::Memory)?;
        let given = runs(&self.frames).map(|run| self.give_back(mem, run)).sum();
        self.counters.inflated_bytes.add(named * PAGE);
        Ok(self.settle(named * PAGE, given))
    }

    /// Gives back the free memory that `chain` reports: its parts themselves.
    pub(super) fn report(&self, mem: &GuestMemory, chain: &Chain) -> Result<Done, QueueError> {
        if chain.readable_len() > 0 {
            return Err(QueueError::Device("free memory is reported as not writable"));
        }
        let (mut left, mut given) = (MAX_REPORT, 0);
        for range in chain.writable() {
            let len = range.len.min(left);
            left -= len;
            given += self.give_back(mem, GuestRange { len, ..*range });
        }
        let reported = chain.writable_len().into();
        self.counters.reported_bytes.add(reported);
        Ok(self.settle(reported, given))
    }

    /// Reads `count` page frame numbers from the start of `chain`, and sorts them: what lies
    /// together goes back together.
    fn read_frames(
        &mut self,
        mem: &GuestMemory,
        chain: &Chain,
        count: u64,
    ) -> Result<(), vm_memory::GuestMemoryError> {
        let len = usize::try_from(count * u64::from(FRAME)).unwrap_or(0);
        self.bytes.resize(len, 0);
        read_ranges(mem, chain.readable(), &mut self.bytes)?;
        let (frames, _) = self.bytes.as_chunks();
        self.frames.clear();
        self.frames.extend(frames.iter().map(|frame| u32::from_le_bytes(*frame)));
        self.frames.sort_unstable();
        self.frames.dedup();
        Ok(())
    }

    /// Gives `range` back, as far as that goes; how many bytes the host got.
    fn give_back(&self, mem: &GuestMemory, range: GuestRange) -> u64 {
        discard(mem, range).unwrap_or_else(|error| {
            if self.counters.host_errors.get() == 0 {
                warn!("the host does not take the guest's memory back: {error}");
            }
            self.counters.host_errors.inc();
            0
        })
    }

    /// Counts a request for `wanted` bytes of which the host got `given`. Nothing was written: what
    /// was read there before is gone, and that is all.
    fn settle(&self, wanted: u64, given: u64) -> Done {
        self.counters.discarded_bytes.add(given);
        self.counters.ignored_bytes.add(wanted.saturating_sub(given));
        Done { used_len: 0, moved: given }
    }
}

/// The memory behind sorted page frame numbers, without gaps.
fn runs(frames: &[u32]) -> impl Iterator<Item = GuestRange> {
    let follows = |a: &u32, b: &u32| a.checked_add(1) == Some(*b);
    frames.chunk_by(follows).filter_map(|run| {
        let addr = GuestAddress(u64::from(*run.first()?) * PAGE);
        let len = u64::try_from(run.len()).ok()? * PAGE;
        Some(GuestRange { addr, len: len.try_into().ok()? })
    })
}
