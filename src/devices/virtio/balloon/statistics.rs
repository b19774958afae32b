//! Statistics of the guest's memory (virtio 1.3, section 5.5.6.3).
//!
//! The driver hands in a buffer with statistics. The device keeps it until it wants newer ones, and
//! then returns it: that is the question.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use vm_memory::GuestMemoryError;

use super::{BUDGET, BalloonCounters, STATISTICS};
use crate::devices::virtio::batch::show;
use crate::devices::virtio::chain::Chain;
use crate::devices::virtio::device::{Activation, BackendFd, Progress};
use crate::devices::virtio::iovec::read_ranges;
use crate::devices::virtio::queue::{Queue, QueueError};
use crate::memory::GuestMemory;
use crate::metrics::Gauge;

/// Bytes of one statistic: a tag of 16 bits and a value of 64.
const ENTRY: usize = 10;
/// Most statistics that are looked at: several times what there are.
const MAX_ENTRIES: usize = 64;

/// Asks for statistics and keeps them.
pub(super) struct Statistics {
    timer: OwnedFd,
    pub(super) interval: Duration,
    /// The buffer to return when the time has come.
    held: Option<u16>,
    counters: Arc<BalloonCounters>,
}

impl Statistics {
    pub(super) fn open(interval: Duration, counters: Arc<BalloonCounters>) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { timer, interval, held: None, counters })
    }

    /// The timer, while there is a buffer to return: a guest that answers nothing is not asked.
    pub(super) fn wanted(&self) -> Option<BackendFd> {
        let fd = self.timer.as_raw_fd();
        self.held.map(|_| BackendFd { fd, readable: true, writable: false })
    }

    /// Takes the statistics that `active` has in its queue, and keeps the last buffer. A driver has
    /// one; what another one hands in besides is returned at once.
    pub(super) fn collect(
        &mut self,
        active: &mut Activation,
        chain: &mut Chain,
    ) -> Result<Progress, QueueError> {
        let Some(queue) = active.queues.get_mut(STATISTICS) else { return Ok(Progress::Idle) };
        let waited = self.held.is_some();
        let progress = self.drain(queue, &active.mem, chain);
        if !waited && self.held.is_some() {
            self.set_timer(self.interval)?;
        }
        show(queue, &active.mem, &active.signal)?;
        progress
    }

    /// Asks for newer statistics: the time has come.
    pub(super) fn ask(&mut self, active: &mut Activation) -> Result<(), QueueError> {
        let Some(queue) = active.queues.get_mut(STATISTICS) else { return Ok(()) };
        if !self.expired() {
            return Ok(());
        }
        if let Some(head) = self.held.take() {
            queue.push_used(&active.mem, head, 0)?;
        }
        show(queue, &active.mem, &active.signal)
    }

    /// Gives the buffer that is held back to `queue`.
    pub(super) fn deactivate(&mut self, queue: &mut Queue) {
        if self.held.take().is_some() {
            queue.unpop(1);
            // Nobody waits for it; the next buffer sets it anew.
            let _ = self.set_timer(Duration::ZERO);
        }
    }

    fn drain(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemory,
        chain: &mut Chain,
    ) -> Result<Progress, QueueError> {
        for _ in 0..BUDGET.chains {
            if queue.pop(mem, chain)? {
                self.take(queue, mem, chain)?;
            } else if !queue.enable_kicks(mem)? {
                return Ok(Progress::Idle);
            }
        }
        Ok(Progress::More)
    }

    fn take(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemory,
        chain: &Chain,
    ) -> Result<(), QueueError> {
        if chain.writable_len() > 0 {
            return Err(QueueError::Device("statistics are not readable"));
        }
        if self.held == Some(chain.head()) {
            return Err(QueueError::Device("statistics buffer was given twice"));
        }
        self.read(mem, chain).map_err(QueueError::Memory)?;
        self.counters.statistics.inc();
        match self.held.replace(chain.head()) {
            Some(other) => queue.stage_used(mem, other, 0),
            None => Ok(()),
        }
    }

    /// Takes over the statistics in `chain`; what has no meaning here is ignored.
    fn read(&self, mem: &GuestMemory, chain: &Chain) -> Result<(), GuestMemoryError> {
        let mut bytes = [0; ENTRY * MAX_ENTRIES];
        let len = usize::try_from(chain.readable_len()).unwrap_or(usize::MAX);
        let bytes = bytes.get_mut(..len.min(ENTRY * MAX_ENTRIES)).unwrap_or_default();
        read_ranges(mem, chain.readable(), bytes)?;
        for [t0, t1, value @ ..] in bytes.as_chunks::<ENTRY>().0 {
            if let Some(gauge) = self.gauge(u16::from_le_bytes([*t0, *t1])) {
                gauge.set(u64::from_le_bytes(*value));
            }
        }
        Ok(())
    }

    /// The gauge of the statistic `tag` (section 5.5.6.4).
    fn gauge(&self, tag: u16) -> Option<&Gauge> {
        let all = &*self.counters;
        Some(match tag {
            0 => &all.swap_in_bytes,
            1 => &all.swap_out_bytes,
            2 => &all.major_faults,
            3 => &all.minor_faults,
            4 => &all.free_bytes,
            5 => &all.total_bytes,
            6 => &all.available_bytes,
            7 => &all.cache_bytes,
            8 => &all.huge_page_allocations,
            9 => &all.huge_page_failures,
            _ => return None,
        })
    }

    fn set_timer(&self, after: Duration) -> Result<(), QueueError> {
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = after.try_into().unwrap_or(never);
        let time = Itimerspec { it_interval: never, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &time)
            .map(drop)
            .map_err(|_| QueueError::Device("the host has no time for statistics"))
    }

    /// Whether the timer has gone off since it was last asked.
    fn expired(&self) -> bool {
        rustix::io::read(&self.timer, &mut [0; 8]).is_ok()
    }
}
