//! Requests that are under way in a ring, from their chain to its return.

use std::io;
use std::os::fd::AsRawFd;

use rustix::io::Errno;
use tracing::error;

use super::answer::{Answer, BlockCounters, Failure, Outcome, io_failure};
use super::disk::Disk;
use super::request::{Executor, Task};
use super::transfer::Transfer;
use super::uring::{Completed, Operation, Ring};
use crate::devices::virtio::batch::show;
use crate::devices::virtio::device::{Activation, BackendFd};
use crate::devices::virtio::queue::QueueError;
use crate::memory::GuestMemory;

const NO_RING: QueueError = QueueError::Device("the host's io_uring takes no requests");

/// A request that has a slot of the ring.
struct Request {
    queue: usize,
    head: u16,
    answer: Answer,
    task: Task,
    transfer: Transfer,
}

/// What is under way for one device.
///
/// A request is known by its slot, never by the head of its chain, which is the guest's; a head that
/// is under way is refused. There are as many slots as entries in the queues, so that what is under
/// way is bounded by what a driver may have outstanding.
pub(super) struct Pending {
    ring: Ring,
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    /// For each queue, which heads are under way.
    heads: Vec<Vec<bool>>,
    /// Slots that the sync under way will complete.
    syncing: Vec<usize>,
    /// Slots that wait for the next one: a sync covers only writes completed before it began, and of
    /// two at once one alone would hear of an error.
    to_sync: Vec<usize>,
    sync_tries: Transfer,
}

impl Pending {
    /// Room for the requests of queues of these `sizes`.
    ///
    /// # Errors
    /// There is no io_uring to be had.
    pub(super) fn new(disk: &Disk, sizes: &[u16]) -> io::Result<Self> {
        let slots = sizes.iter().map(|size| usize::from(*size)).sum();
        Ok(Self {
            ring: Ring::new(disk.files(), slots)?,
            requests: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            heads: sizes.iter().map(|size| vec![false; usize::from(*size)]).collect(),
            syncing: Vec::new(),
            to_sync: Vec::new(),
            sync_tries: Transfer::default(),
        })
    }

    /// Begins to work on `mem`.
    pub(super) fn activate(&mut self, mem: &GuestMemory) {
        self.ring.set_memory(mem);
    }

    /// Ends all that is under way; its chains are not returned, and its buffers are not touched
    /// afterwards.
    pub(super) fn drain(&mut self) {
        self.ring.drain();
        for slot in 0..self.requests.len() {
            self.forget(slot);
        }
        self.syncing.clear();
        self.to_sync.clear();
    }

    /// Whether nothing is under way.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.free.len() == self.requests.len()
    }

    /// What to wait for.
    pub(super) fn backend_fd(&self) -> BackendFd {
        BackendFd { fd: self.ring.event().as_raw_fd(), readable: true, writable: false }
    }

    /// Whether chain `head` of `queue` is under way: a driver may not offer it again.
    pub(super) fn has(&self, queue: usize, head: u16) -> bool {
        let heads = self.heads.get(queue);
        heads.and_then(|heads| heads.get(usize::from(head))).is_none_or(|busy| *busy)
    }

    /// Puts the request that `executor` began last under way.
    ///
    /// # Errors
    /// The device needs a reset.
    pub(super) fn start(
        &mut self,
        executor: &Executor,
        (queue, head): (usize, u16),
        (task, answer): (Task, Answer),
    ) -> Result<(), QueueError> {
        let slot = self.free.pop().ok_or(QueueError::Device("more requests than entries"))?;
        self.mark(queue, head, true);
        let request = Request { queue, head, answer, task, transfer: Transfer::default() };
        if let Some(place) = self.requests.get_mut(slot) {
            *place = Some(request);
        }
        self.ring.set_buffers(slot, executor.buffers(task)).map_err(QueueError::Memory)?;
        self.go_on(slot)
    }

    /// Hands what was begun to the host, and returns the chains of what that did at once.
    ///
    /// # Errors
    /// The device needs a reset.
    pub(super) fn submit_all(
        &mut self,
        executor: &mut Executor,
        active: &mut Activation,
        counters: &BlockCounters,
    ) -> Result<(), QueueError> {
        self.submit(executor.disk())?;
        // Without news the next wake is spared, and so is clearing what causes it.
        if self.ring.has_next() || executor.disk().sync_failed() {
            self.complete(executor, active, counters)?;
        }
        Ok(())
    }

    fn submit(&mut self, disk: &Disk) -> Result<(), QueueError> {
        // Once writes are lost, nothing is synced any more: see `complete`.
        if self.syncing.is_empty() && !self.to_sync.is_empty() && !disk.sync_failed() {
            self.syncing.append(&mut self.to_sync);
            self.ring.start_sync().map_err(|e| refused(&e))?;
        }
        self.ring.submit().map_err(|e| refused(&e))
    }

    /// Returns the chains of what is done, to the queues of `active`, and goes on with what is not
    /// done yet.
    ///
    /// # Errors
    /// The device needs a reset.
    pub(super) fn complete(
        &mut self,
        executor: &mut Executor,
        active: &mut Activation,
        counters: &BlockCounters,
    ) -> Result<(), QueueError> {
        self.ring.clear_event();
        loop {
            let mut any = false;
            while let Some((completed, result)) = self.ring.next() {
                any = true;
                match completed {
                    Completed::Slot(slot) => self.moved(slot, result, active, counters)?,
                    Completed::Sync => self.synced(result, executor, active, counters)?,
                }
            }
            if executor.disk().sync_failed() {
                let lost = Outcome { written: 0, result: Err(Failure::Io) };
                for slot in std::mem::take(&mut self.to_sync) {
                    self.answer(slot, lost, active, counters)?;
                }
            }
            self.submit(executor.disk())?;
            if !any {
                break;
            }
        }
        for queue in &mut active.queues {
            show(queue, &active.mem, &active.signal)?;
        }
        Ok(())
    }

    /// Takes note of what a transfer came to.
    fn moved(
        &mut self,
        slot: usize,
        result: Result<usize, Errno>,
        active: &mut Activation,
        counters: &BlockCounters,
    ) -> Result<(), QueueError> {
        let Some(Some(request)) = self.requests.get_mut(slot) else { return Ok(()) };
        let failure = match request.transfer.advance(result) {
            Ok(moved) => {
                self.ring.advance(slot, moved);
                None
            }
            Err(incomplete) => Some(io_failure(incomplete.source)),
        };
        let (done, len) = (request.transfer.done(), request.answer.data_len());
        let written = if matches!(request.task, Task::Read { .. }) { done } else { 0 };
        match (failure, request.task) {
            (Some(failure), _) => {
                self.answer(slot, Outcome { written, result: Err(failure) }, active, counters)
            }
            (None, _) if done < len => self.go_on(slot),
            (None, Task::Write { durable: true, .. }) => {
                request.task = Task::Flush;
                self.go_on(slot)
            }
            (None, _) => self.answer(slot, Outcome { written, result: Ok(()) }, active, counters),
        }
    }

    /// Takes note of what a sync came to, for all that waited for it.
    fn synced(
        &mut self,
        result: Result<usize, Errno>,
        executor: &mut Executor,
        active: &mut Activation,
        counters: &BlockCounters,
    ) -> Result<(), QueueError> {
        // A sync moves nothing; but one that was interrupted is tried again just so often.
        let result = match self.sync_tries.advance(result.map(|_| 1)) {
            Ok(0) => return self.ring.start_sync().map_err(|e| refused(&e)),
            Ok(_) => Ok(()),
            Err(incomplete) => Err(incomplete.source),
        };
        self.sync_tries = Transfer::default();
        let result = executor.disk_mut().synced(result).map_err(io_failure);
        for slot in std::mem::take(&mut self.syncing) {
            self.answer(slot, Outcome { written: 0, result }, active, counters)?;
        }
        Ok(())
    }

    /// Begins what is next for the request in `slot`.
    fn go_on(&mut self, slot: usize) -> Result<(), QueueError> {
        let Some(Some(request)) = self.requests.get(slot) else { return Ok(()) };
        let done = request.transfer.done();
        let operation = match request.task {
            Task::Read { offset } => Operation::Read { offset: offset.saturating_add(done) },
            Task::Write { offset, .. } => Operation::Write { offset: offset.saturating_add(done) },
            Task::Flush | Task::Finished(_) => {
                self.to_sync.push(slot);
                return Ok(());
            }
        };
        self.ring.start(slot, operation).map_err(|e| refused(&e))
    }

    /// Answers the request in `slot`, which is free then.
    fn answer(
        &mut self,
        slot: usize,
        outcome: Outcome,
        active: &mut Activation,
        counters: &BlockCounters,
    ) -> Result<(), QueueError> {
        let Some(request) = self.forget(slot) else { return Ok(()) };
        let done = request.answer.give(&active.mem, outcome, counters)?;
        let Some(queue) = active.queues.get_mut(request.queue) else { return Ok(()) };
        queue.stage_used(&active.mem, request.head, done.used_len)
    }

    fn forget(&mut self, slot: usize) -> Option<Request> {
        let request = self.requests.get_mut(slot)?.take()?;
        self.mark(request.queue, request.head, false);
        self.ring.release(slot);
        self.free.push(slot);
        Some(request)
    }

    fn mark(&mut self, queue: usize, head: u16, busy: bool) {
        let heads = self.heads.get_mut(queue);
        if let Some(place) = heads.and_then(|heads| heads.get_mut(usize::from(head))) {
            *place = busy;
        }
    }
}

fn refused(source: &io::Error) -> QueueError {
    error!("io_uring: {source}");
    NO_RING
}
