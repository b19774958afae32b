//! One port: a pair of queues, and what they are connected to.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::ConsoleCounters;
use super::control::{Message, News, Untold};
use super::endpoint::{Endpoint, Wish};
use crate::devices::virtio::batch::Budget;
use crate::devices::virtio::chain::Chain;
use crate::devices::virtio::device::Progress;
use crate::devices::virtio::iovec::{cut_front, read_ranges, write_ranges};
use crate::devices::virtio::queue::{Queue, QueueError};
use crate::devices::virtio::throttle::{Throttle, Throttles};
use crate::memory::{GuestMemory, GuestRange};

/// Bytes moved at a time.
const STEP: usize = 4096;
/// What one wake may move on a queue.
pub(super) const BUDGET: Budget = Budget { chains: 64, bytes: 64 << 10 };

/// What a port is to the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The console.
    Console,
    /// A stream of bytes by this name.
    Named(String),
    /// Nothing: the driver is not told of it.
    Unused,
}

/// What moving bytes needs besides the port: a queue of the driver's, and room to copy.
pub(super) struct Lane<'a> {
    pub(super) queue: &'a mut Queue,
    pub(super) mem: &'a GuestMemory,
    pub(super) throttles: &'a Throttles,
    pub(super) scratch: &'a mut Scratch,
}

/// Kept between wakes, so that none allocates.
pub(super) struct Scratch {
    pub(super) chain: Chain,
    bytes: Box<[u8; STEP]>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { chain: Chain::default(), bytes: Box::new([0; STEP]) }
    }
}

/// A chain of the driver that its endpoint has not taken all of.
#[derive(Debug)]
struct Sending {
    head: u16,
    rest: VecDeque<GuestRange>,
}

impl Sending {
    fn len(&self) -> u64 {
        self.rest.iter().map(|range| u64::from(range.len)).sum()
    }

    /// Counts the first `count` bytes as taken.
    fn advance(&mut self, count: usize) {
        let mut count = u32::try_from(count).unwrap_or(u32::MAX);
        while count > 0 {
            let Some(front) = self.rest.pop_front() else { return };
            let taken = count.min(front.len);
            if let Some(left) = cut_front(front, taken) {
                self.rest.push_front(left);
            }
            count -= taken;
        }
    }
}

/// A port of the device.
pub(super) struct Port {
    pub(super) purpose: Purpose,
    endpoint: Box<dyn Endpoint>,
    counters: Arc<ConsoleCounters>,
    pub(super) untold: Untold,
    /// The driver can use the port.
    ready: bool,
    /// Somebody in the guest has opened it.
    guest_open: bool,
    /// Somebody was there on the host's side when that was last looked at.
    host_open: bool,
    /// There was no buffer for input, or a limit was reached: the next kick ends either.
    starved: bool,
    sending: Option<Sending>,
    /// The budget of a wake did not suffice for the output.
    backlog: bool,
}

impl Port {
    pub(super) fn new(
        purpose: Purpose,
        endpoint: Box<dyn Endpoint>,
        counters: Arc<ConsoleCounters>,
    ) -> Self {
        Self {
            purpose,
            endpoint,
            counters,
            untold: Untold::default(),
            ready: false,
            guest_open: false,
            host_open: false,
            starved: false,
            sending: None,
            backlog: false,
        }
    }

    /// Begins anew with a driver that is not ready for the port.
    pub(super) fn activate(&mut self) {
        self.untold = Untold::default();
        (self.ready, self.guest_open, self.starved, self.backlog) = (false, false, false, false);
    }

    /// Ends: the rest of a chain half sent is lost.
    pub(super) fn deactivate(&mut self) {
        self.sending = None;
    }

    /// The driver can use the port, or cannot any more; it is told about it anew.
    pub(super) fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
        self.host_open = self.endpoint.is_open();
        self.untold = Untold::default();
        if !ready {
            return;
        }
        let news: &[News] = match self.purpose {
            Purpose::Console => &[News::IsConsole, News::Size],
            Purpose::Named(_) => &[News::Name],
            Purpose::Unused => &[],
        };
        news.iter().for_each(|news| self.untold.add(*news));
        if self.host_open {
            self.untold.add(News::Open);
        }
    }

    /// Somebody in the guest has opened the port, or closed it.
    pub(super) fn set_guest_open(&mut self, open: bool) {
        self.guest_open = open;
    }

    /// The console has another size.
    pub(super) fn resized(&mut self) {
        if self.ready {
            self.untold.add(News::Size);
        }
    }

    /// Notices who came or went on the host's side.
    pub(super) fn notice_host(&mut self) {
        let open = self.endpoint.is_open();
        if open != self.host_open {
            self.host_open = open;
            if self.ready {
                self.untold.add(News::Open);
            }
        }
    }

    /// The message that tells `news` of this port, which is number `id`.
    pub(super) fn message(&self, id: u32, news: News, size: [u8; 4]) -> Vec<u8> {
        let value = match news {
            News::IsConsole => 1,
            News::Open => u16::from(self.host_open),
            News::Added | News::Size | News::Name => 0,
        };
        let mut bytes = Message { id, event: news.event(), value }.bytes().to_vec();
        match (news, &self.purpose) {
            (News::Size, _) => bytes.extend(size),
            // Without a NUL at its end.
            (News::Name, Purpose::Named(name)) => bytes.extend(name.as_bytes()),
            _ => {}
        }
        bytes
    }

    /// Whether input can go to the guest. What a driver gets on a port that nobody has opened, it
    /// throws away; a console is never opened in some drivers.
    fn takes_input(&self) -> bool {
        self.ready && (self.guest_open || self.purpose == Purpose::Console) && !self.starved
    }

    /// Whether `throttle` lets a buffer pass. It lets all of the console's: a driver waits for that
    /// with its CPU.
    fn may_begin(&self, throttle: &Throttle) -> bool {
        self.purpose == Purpose::Console || throttle.may_begin()
    }

    /// Whether output waits for room, or for another turn.
    pub(super) fn has_output(&self) -> bool {
        self.sending.is_some() || self.backlog
    }

    /// Whether output waits that nobody will take: what was meant for one client must not go to
    /// the next.
    pub(super) fn is_stranded(&self) -> bool {
        self.sending.is_some() && !self.endpoint.is_open()
    }

    /// Waits for what the port can use now.
    pub(super) fn watch(&mut self, epoll: BorrowedFd<'_>, index: u64) {
        let wish = Wish {
            // The driver first hears that the last one has gone.
            somebody: self.ready && !self.untold.has(News::Open),
            input: self.takes_input(),
            room: self.has_output(),
        };
        self.endpoint.watch(epoll, index, wish);
    }

    /// Something that was waited for has come.
    pub(super) fn arrive(&mut self) {
        self.endpoint.arrive();
    }

    /// There may be buffers for input again.
    pub(super) fn feed(&mut self) {
        self.starved = false;
    }

    /// Moves input into the driver's buffers until there is none, no buffer or no budget; what is
    /// left then keeps its descriptor ready.
    pub(super) fn receive(&mut self, lane: Lane<'_>) -> Result<(), QueueError> {
        let Lane { queue, mem, throttles, scratch: Scratch { chain, bytes } } = lane;
        for _ in 0..BUDGET.chains {
            if !self.takes_input() {
                return Ok(());
            }
            if !self.may_begin(&throttles.receive) {
                self.starved = true;
                return Ok(());
            }
            if !queue.pop(mem, chain)? {
                self.starved = !queue.enable_kicks(mem)?;
                continue;
            }
            if chain.readable_len() > 0 {
                return Err(QueueError::Device("receive buffer is not writable"));
            }
            let room = usize::try_from(chain.writable_len()).unwrap_or(usize::MAX).min(STEP);
            let bytes = bytes.get_mut(..room).unwrap_or_default();
            let count = self.endpoint.receive(bytes);
            if count == 0 {
                queue.unpop(1);
                return Ok(());
            }
            let bytes = bytes.get(..count).unwrap_or_default();
            let len = write_ranges(mem, chain.writable(), 0, bytes).map_err(QueueError::Memory)?;
            queue.stage_used(mem, chain.head(), len)?;
            throttles.receive.charge(len.into());
            self.counters.rx_bytes.add(len.into());
        }
        Ok(())
    }

    /// Moves the driver's output to the endpoint until there is none, no room or no budget.
    pub(super) fn transmit(&mut self, lane: Lane<'_>) -> Result<Progress, QueueError> {
        let Lane { queue, mem, throttles, scratch } = lane;
        let mut budget = BUDGET;
        self.backlog = false;
        queue.disable_kicks(mem)?;
        loop {
            if self.sending.is_none() && !self.may_begin(&throttles.send) {
                return Ok(Progress::Idle);
            }
            if self.sending.is_none() {
                if !self.pop_output(queue, mem, &mut scratch.chain)? {
                    if !queue.enable_kicks(mem)? {
                        return Ok(Progress::Idle);
                    }
                    queue.disable_kicks(mem)?;
                    continue;
                }
                throttles.send.charge(scratch.chain.readable_len().into());
            }
            let Some(moved) = self.send(queue, mem, &mut scratch.bytes[..])? else {
                return Ok(Progress::Idle);
            };
            if !budget.spend(moved) {
                self.backlog = true;
                return Ok(Progress::More);
            }
        }
    }

    fn pop_output(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemory,
        chain: &mut Chain,
    ) -> Result<bool, QueueError> {
        if !queue.pop(mem, chain)? {
            return Ok(false);
        }
        if chain.writable_len() > 0 {
            return Err(QueueError::Device("transmit buffer is writable"));
        }
        let rest = chain.readable().iter().copied().collect();
        self.sending = Some(Sending { head: chain.head(), rest });
        Ok(true)
    }

    /// Hands on the next bytes of the chain being sent, and returns the chain once it is empty;
    /// tells how many bytes that were, `None` when there was no room.
    fn send(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemory,
        buffer: &mut [u8],
    ) -> Result<Option<u64>, QueueError> {
        let Some(sending) = &mut self.sending else { return Ok(Some(0)) };
        let left = sending.len();
        let step = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let bytes = buffer.get_mut(..step).unwrap_or_default();
        read_ranges(mem, &sending.rest, bytes).map_err(QueueError::Memory)?;
        let moved = match self.endpoint.send(bytes) {
            Some(0) => return Ok(None),
            Some(count) => {
                sending.advance(count);
                let moved = u64::try_from(count).unwrap_or(u64::MAX);
                self.counters.tx_bytes.add(moved);
                moved
            }
            None => {
                sending.rest.clear();
                self.counters.tx_dropped.add(left);
                0
            }
        };
        if sending.rest.is_empty() {
            queue.stage_used(mem, sending.head, 0)?;
            self.sending = None;
        }
        Ok(Some(moved))
    }
}
