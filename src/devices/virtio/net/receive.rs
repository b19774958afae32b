//! From the host to the guest: frames are read straight into the guest's buffers.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::take;

use rustix::io::Errno;
use vm_memory::{Bytes, GuestAddress};

use super::header::{self, HEADER_LEN, NUM_BUFFERS};
use super::pair::Host;
use super::{BUDGET, feature};
use crate::devices::virtio::batch::Budget;
use crate::devices::virtio::chain::Chain;
use crate::devices::virtio::iovec::{read_ranges, recycle_mut, write_ranges};
use crate::devices::virtio::queue::{Queue, QueueError};
use crate::devices::virtio::throttle::Throttle;
use crate::memory::{GuestMemory, GuestRange, push_io_slices_mut};

/// The longest frame with its header (virtio 1.3, section 5.1.6.3), in bytes.
const MAX_RECEIVED: u32 = 65_601;
/// The longest frame without segmentation offload, beside its packet: header, Ethernet with a VLAN
/// tag.
const HEADERS: u32 = 30;
/// The largest packet that a driver expects which was not told another MTU, in bytes.
const USUAL_MTU: u16 = 1500;
/// No further buffer is taken with this many parts at hand: one may have 256 more, and the
/// kernel takes 1024.
const ENOUGH_PARTS: usize = 512;

/// What the receiver waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// A frame of the host.
    Frame,
    /// Buffers of the driver: the host is not listened to meanwhile.
    Buffers,
    /// Its limit: neither frames nor buffers help before it is time.
    Time,
    /// Nothing: the host network is gone.
    Nothing,
}

/// A buffer (a chain) taken from the driver and not used yet.
#[derive(Debug)]
struct Held {
    head: u16,
    len: u32,
    parts: usize,
}

/// The buffers at hand, oldest first.
#[derive(Debug, Default)]
struct Buffers {
    held: VecDeque<Held>,
    /// The parts of all held buffers, one after the other.
    parts: VecDeque<GuestRange>,
    room: u32,
    chain: Chain,
}

impl Buffers {
    /// Takes buffers until there is room for `wanted` bytes or no more are to be had, and
    /// appends their parts to `list`.
    fn gather<'m>(
        &mut self,
        queue: &mut Queue,
        mem: &'m GuestMemory,
        wanted: u32,
        list: &mut Vec<IoSliceMut<'m>>,
    ) -> Result<(), QueueError> {
        while self.room < wanted && !self.is_full() && queue.pop(mem, &mut self.chain)? {
            let (head, len) = (self.chain.head(), self.chain.writable_len());
            if self.chain.readable_len() > 0 {
                return Err(QueueError::Device("receive buffer is not writable"));
            }
            if usize::try_from(len).unwrap_or(0) < HEADER_LEN {
                return Err(QueueError::Device("receive buffer is shorter than a header"));
            }
            if self.held.iter().any(|held| held.head == head) {
                return Err(QueueError::Device("receive buffer was given twice"));
            }
            push_io_slices_mut(mem, self.chain.writable(), list).map_err(QueueError::Memory)?;
            self.parts.extend(self.chain.writable());
            self.held.push_back(Held { head, len, parts: self.chain.writable().len() });
            self.room = self.room.saturating_add(len);
        }
        Ok(())
    }

    /// No more may be taken before some are used.
    fn is_full(&self) -> bool {
        self.parts.len() >= ENOUGH_PARTS
    }

    /// How many buffers a frame of `len` bytes fills.
    fn count(&self, len: u32) -> u16 {
        let mut room = 0u32;
        let short = self.held.iter().take_while(|held| {
            room = room.saturating_add(held.len);
            room < len
        });
        u16::try_from(short.count() + 1).unwrap_or(u16::MAX)
    }

    /// Uses the oldest buffers for a frame of `len` bytes that lies in them; tells how many
    /// parts they had.
    fn use_up(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemory,
        len: u32,
    ) -> Result<usize, QueueError> {
        let mut left = len;
        let mut parts = 0;
        while left > 0 {
            let Some(held) = self.held.pop_front() else { break };
            let used = left.min(held.len);
            queue.stage_used(mem, held.head, used)?;
            self.parts.drain(..held.parts.min(self.parts.len()));
            self.room = self.room.saturating_sub(held.len);
            parts += held.parts;
            left -= used;
        }
        Ok(parts)
    }

    /// Gives all buffers back to the queue.
    fn give_back(&mut self, queue: &mut Queue) {
        queue.unpop(u16::try_from(self.held.len()).unwrap_or(u16::MAX));
        self.held.clear();
        self.parts.clear();
        self.room = 0;
    }
}

/// A frame that did not fit into the buffers at hand.
#[derive(Clone, Copy, Debug)]
struct Overflow {
    /// Its whole length.
    len: u32,
    /// How much of it lies in the buffers; the rest is in the reserve.
    placed: u32,
}

/// Moves frames from the host into the guest's buffers.
pub(super) struct Receiver {
    buffers: Buffers,
    /// Takes the end of a frame that is longer than the buffers at hand, until the driver gives
    /// more. A mapping like the guest's own, because scatter lists refer to it for a whole wake;
    /// untouched, it costs no memory.
    reserve: GuestMemory,
    overflow: Option<Overflow>,
    waiting: Waiting,
    features: u64,
    mtu: u16,
    list: Vec<IoSliceMut<'static>>,
}

impl Receiver {
    /// A receiver that has no queue yet.
    pub(super) fn new() -> Self {
        let len = usize::try_from(MAX_RECEIVED).unwrap_or(0);
        Self {
            buffers: Buffers::default(),
            // Without a reserve nothing is received.
            reserve: GuestMemory::from_ranges(&[(GuestAddress(0), len)]).unwrap_or_default(),
            overflow: None,
            waiting: Waiting::Buffers,
            features: 0,
            mtu: USUAL_MTU,
            list: Vec::new(),
        }
    }

    /// What it waits for.
    pub(super) fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Begins anew with a driver that negotiated `features`, on a network of packets of up to
    /// `mtu` bytes.
    pub(super) fn activate(&mut self, features: u64, mtu: Option<u16>) {
        self.features = features;
        self.mtu = mtu.unwrap_or(0).max(USUAL_MTU);
        self.waiting = Waiting::Buffers;
    }

    /// Ends: buffers not used go back to `queue`, and a frame half delivered is lost.
    pub(super) fn deactivate(&mut self, queue: &mut Queue) {
        self.buffers.give_back(queue);
        self.overflow = None;
    }

    /// Delivers frames until none waits, no buffer is left or `budget` is spent.
    pub(super) fn run(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemory,
        throttle: &Throttle,
        host: &mut Host,
    ) -> Result<(), QueueError> {
        queue.disable_kicks(mem)?;
        let mut wake = Wake {
            list: recycle_mut(take(&mut self.list)),
            first: 0,
            buffers: &mut self.buffers,
            reserve: &self.reserve,
            overflow: &mut self.overflow,
            features: self.features,
            mtu: self.mtu,
            queue,
            mem,
            throttle,
            host,
        };
        let result = wake.run(BUDGET);
        self.list = recycle_mut(wake.list);
        self.waiting = result?;
        Ok(())
    }
}

/// One wake of the receiver.
struct Wake<'m> {
    /// Scatter list of all parts of the buffers, from `first` on.
    list: Vec<IoSliceMut<'m>>,
    first: usize,
    buffers: &'m mut Buffers,
    reserve: &'m GuestMemory,
    overflow: &'m mut Option<Overflow>,
    features: u64,
    mtu: u16,
    queue: &'m mut Queue,
    mem: &'m GuestMemory,
    throttle: &'m Throttle,
    host: &'m mut Host,
}

impl Wake<'_> {
    fn run(&mut self, mut budget: Budget) -> Result<Waiting, QueueError> {
        let parts = self.buffers.parts.make_contiguous();
        push_io_slices_mut(self.mem, parts, &mut self.list).map_err(QueueError::Memory)?;
        loop {
            if !self.throttle.may_begin() {
                return Ok(Waiting::Time);
            }
            if !self.make_room()? {
                return Ok(Waiting::Buffers);
            }
            let moved = match self.receive_one() {
                Ok(len) => self.place(len)?,
                Err(Errno::AGAIN) => return Ok(Waiting::Frame),
                Err(Errno::INTR) => 0,
                Err(Errno::FAULT | Errno::INVAL | Errno::NOMEM | Errno::NOBUFS) => {
                    self.host.counters.rx_dropped.add(1);
                    0
                }
                Err(e) => {
                    self.host.report_gone(e);
                    return Ok(Waiting::Nothing);
                }
            };
            self.throttle.charge(moved.into());
            if !budget.spend(moved.into()) {
                return Ok(Waiting::Frame);
            }
        }
    }

    fn mergeable(&self) -> bool {
        self.features & feature::MRG_RXBUF != 0
    }

    /// Room for the frame to come. Without mergeable buffers a frame gets one, of any size.
    fn wanted(&self) -> u32 {
        if !self.mergeable() {
            1
        } else if self.features & feature::GUEST_SEGMENTS != 0 {
            MAX_RECEIVED
        } else {
            u32::from(self.mtu) + HEADERS
        }
    }

    /// Sees to it that there is a buffer for the next frame, and that the last one is delivered
    /// whole; false when the driver must give more buffers first.
    fn make_room(&mut self) -> Result<bool, QueueError> {
        loop {
            let wanted = self.overflow.map_or(self.wanted(), |overflow| overflow.len);
            self.buffers.gather(self.queue, self.mem, wanted, &mut self.list)?;
            match *self.overflow {
                None if self.buffers.room > 0 => return Ok(true),
                Some(overflow) if self.buffers.room >= overflow.len => self.complete(overflow)?,
                Some(_) if self.no_more_can_come() => self.drop_overflow(),
                _ if self.queue.enable_kicks(self.mem)? => self.queue.disable_kicks(self.mem)?,
                _ => return Ok(false),
            }
        }
    }

    /// Whether waiting for more buffers is in vain: the limit is reached, or the driver has given
    /// all its queue can hold.
    fn no_more_can_come(&self) -> bool {
        self.buffers.is_full() || self.buffers.held.len() >= usize::from(self.queue.size())
    }

    fn receive_one(&mut self) -> Result<u32, Errno> {
        let reserve = [GuestRange { addr: GuestAddress(0), len: MAX_RECEIVED }];
        push_io_slices_mut(self.reserve, &reserve, &mut self.list)
            .map_err(|_| Errno::NOTRECOVERABLE)?;
        let list = self.list.get_mut(self.first..).unwrap_or_default();
        let received = self.host.backend.receive(list);
        self.list.pop();
        Ok(u32::try_from(received?).unwrap_or(u32::MAX))
    }

    /// Takes note of a received frame of `len` bytes; tells how many were moved.
    fn place(&mut self, len: u32) -> Result<u32, QueueError> {
        let room = self.buffers.room;
        if len <= room {
            self.deliver(len)?;
        } else if self.mergeable() && len - room <= MAX_RECEIVED {
            *self.overflow = Some(Overflow { len, placed: room });
        } else {
            self.host.counters.rx_dropped.add(1);
        }
        Ok(len)
    }

    /// Copies the end of a long frame into the buffers that came for it.
    fn complete(&mut self, overflow: Overflow) -> Result<(), QueueError> {
        let Overflow { len, placed } = overflow;
        let mut rest = vec![0; usize::try_from(len - placed).unwrap_or(0)];
        self.reserve.read_slice(&mut rest, GuestAddress(0)).map_err(QueueError::Memory)?;
        write_ranges(self.mem, &self.buffers.parts, placed, &rest).map_err(QueueError::Memory)?;
        *self.overflow = None;
        self.deliver(len)
    }

    fn drop_overflow(&mut self) {
        *self.overflow = None;
        self.host.counters.rx_dropped.add(1);
    }

    /// Completes the header of the frame that lies in the first `len` bytes of the buffers, and
    /// returns them used.
    fn deliver(&mut self, len: u32) -> Result<(), QueueError> {
        let (mem, parts) = (self.mem, &self.buffers.parts);
        let mut start = [0; 2];
        read_ranges(mem, parts, &mut start).map_err(QueueError::Memory)?;
        let [flags, gso_type] = start;
        let whole = usize::try_from(len).unwrap_or(0) > HEADER_LEN;
        if !whole || !header::acceptable(flags, gso_type, self.features) {
            self.host.counters.rx_dropped.add(1);
            return Ok(());
        }
        if self.features & feature::GUEST_CSUM == 0 {
            // Section 5.1.6.4.1: no flag may be set then.
            write_ranges(mem, parts, 0, &[0]).map_err(QueueError::Memory)?;
        }
        let count = self.buffers.count(len).to_le_bytes();
        write_ranges(mem, parts, NUM_BUFFERS, &count).map_err(QueueError::Memory)?;
        self.first += self.buffers.use_up(self.queue, mem, len)?;
        self.host.counters.rx_frames.add(1);
        Ok(())
    }
}
