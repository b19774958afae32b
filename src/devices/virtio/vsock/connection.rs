//! One connection: a stream socket of the host on one side, packets of the guest on the other.

use std::io::{IoSlice, IoSliceMut};
use std::mem::take;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::{Errno, readv, retry_on_intr};
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown, sendmsg, shutdown as shutdown_socket};

use super::backlog::Backlog;
use super::buffers::Buffers;
use super::credit::Credit;
use super::packet::{HEADER_LEN, Header, ends, op};
use super::poller::Readiness;
use crate::devices::virtio::chain::Chain;
use crate::devices::virtio::iovec::{recycle, recycle_mut, window};
use crate::devices::virtio::queue::QueueError;
use crate::memory::{GuestMemory, GuestRange, push_io_slices, push_io_slices_mut};

/// Scatter lists and ranges, kept for their allocations.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    ranges: Vec<GuestRange>,
    from_guest: Vec<IoSlice<'static>>,
    to_guest: Vec<IoSliceMut<'static>>,
}

/// The data of a packet of the guest: they lie in a chain behind the header.
pub(super) struct Data<'a> {
    pub(super) mem: &'a GuestMemory,
    pub(super) chain: &'a Chain,
    /// Bytes behind the header; the packet may have fewer.
    pub(super) room: u32,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Keep,
    /// It ends for both sides; the guest is sent a RST.
    Reset,
    /// The guest has closed it: that is confirmed by a RST, and the host program still gets what
    /// was sent before.
    Close,
    /// It ends, and the guest knows.
    Forget,
}

/// A packet for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Produced {
    /// Its operation and flags, and how many bytes of data lie in the buffer behind its header.
    Packet { op: u16, flags: u32, len: u32 },
    /// There is none after all.
    Nothing,
    /// The host program is lost.
    Reset,
}

/// Control packets the guest is owed: each kind at most once, so that they need no queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Owed {
    request: bool,
    response: bool,
    shutdown: bool,
    credit: bool,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    credit: Credit,
    backlog: Backlog,
    owed: Owed,
    /// Whether both sides have agreed to it.
    established: bool,
    /// The socket may have something to read: it was not tried in vain since it last said so.
    readable: bool,
    /// The host program has ended its stream, and all of it was delivered.
    drained: bool,
    /// The host program has closed.
    gone: bool,
    /// What the guest will not do any more, and what it was told that the host will not.
    guest_ends: u32,
    told_ends: u32,
    /// When the guest's answer is given up.
    pub(super) deadline: Option<Instant>,
    /// Whether it is in the line for the guest's buffers.
    pub(super) queued: bool,
}

impl Connection {
    fn new(socket: OwnedFd, room: u32) -> Self {
        Self {
            socket,
            credit: Credit::with_room(room),
            backlog: Backlog::default(),
            owed: Owed::default(),
            established: false,
            readable: false,
            drained: false,
            gone: false,
            guest_ends: 0,
            told_ends: 0,
            deadline: None,
            queued: false,
        }
    }

    /// The guest has asked for it, with the packet `request`, and `socket` is connected. Up to `room`
    /// bytes of the guest are kept for a host program that does not read them.
    pub(super) fn accepted(socket: OwnedFd, request: &Header, room: u32) -> Self {
        let mut new = Self { established: true, ..Self::new(socket, room) };
        new.credit.learn(request.buf_alloc, request.fwd_cnt);
        new.owed.response = true;
        new
    }

    /// A host program asks for it at `socket`; the guest's answer is given up at `deadline`.
    /// As for [`Connection::accepted`], `room` is kept.
    pub(super) fn requested(socket: OwnedFd, deadline: Instant, room: u32) -> Self {
        let mut new = Self { deadline: Some(deadline), ..Self::new(socket, room) };
        new.owed.request = true;
        new
    }

    /// Its socket, and what the host program has not taken yet.
    pub(super) fn into_remains(self) -> (OwnedFd, Backlog) {
        (self.socket, self.backlog)
    }

    /// Whether the guest has heard of it.
    pub(super) fn is_known(&self) -> bool {
        !self.owed.request
    }

    /// Whether it has a packet for the guest, as far as is known.
    pub(super) fn has_packet(&self) -> bool {
        self.owed != Owed::default() || self.can_read()
    }

    fn can_read(&self) -> bool {
        self.established
            && self.readable
            && !self.drained
            && self.guest_ends & ends::RECEIVE == 0
            && self.credit.available() > 0
    }

    /// Handles a whole packet of the guest for it. `greeting` is what the host program is told when the
    /// guest has accepted.
    ///
    /// # Errors
    /// Guest memory that cannot be read, which a checked chain rules out.
    pub(super) fn handle(
        &mut self,
        header: &Header,
        data: &Data<'_>,
        greeting: impl FnOnce() -> String,
        scratch: &mut Scratch,
    ) -> Result<Verdict, QueueError> {
        self.credit.learn(header.buf_alloc, header.fwd_cnt);
        Ok(match (header.op, self.established) {
            (op::RST, _) => Verdict::Forget,
            (op::RESPONSE, false) if self.is_known() => self.establish(&greeting()),
            (op::RW, true) if self.guest_ends & ends::SEND == 0 => {
                self.receive(data, header.len, scratch)?
            }
            (op::SHUTDOWN, true) => self.end(header.flags & ends::BOTH),
            (op::CREDIT_UPDATE, true) => Verdict::Keep,
            (op::CREDIT_REQUEST, true) => {
                self.owed.credit = true;
                Verdict::Keep
            }
            // Anything else is out of order.
            _ => Verdict::Reset,
        })
    }

    fn establish(&mut self, greeting: &str) -> Verdict {
        self.established = true;
        self.deadline = None;
        // Nothing was written to the socket before: it takes the few bytes or is broken.
        let sent = send(&self.socket, &[IoSlice::new(greeting.as_bytes())]);
        if sent == Ok(greeting.len()) { Verdict::Keep } else { Verdict::Reset }
    }

    /// Passes data of the guest on to the host program, and keeps what it does not take now.
    fn receive(
        &mut self,
        data: &Data<'_>,
        len: u32,
        scratch: &mut Scratch,
    ) -> Result<Verdict, QueueError> {
        if !self.credit.receive(len) {
            return Ok(Verdict::Reset);
        }
        scratch.ranges.clear();
        window(data.chain.readable(), HEADER_LEN, len, &mut scratch.ranges);
        let mut sent = 0;
        if self.backlog.is_empty() && len > 0 {
            let mut list = recycle(take(&mut scratch.from_guest));
            push_io_slices(data.mem, &scratch.ranges, &mut list).map_err(QueueError::Memory)?;
            let result = send(&self.socket, &list);
            scratch.from_guest = recycle(list);
            match result {
                Ok(taken) => sent = u32::try_from(taken).unwrap_or(u32::MAX).min(len),
                Err(_) => return Ok(Verdict::Reset),
            }
        }
        self.credit.forward(sent);
        let room = self.credit.room();
        self.backlog.append(data.mem, &scratch.ranges, sent, room).map_err(QueueError::Memory)?;
        self.owed.credit |= self.credit.is_news();
        Ok(Verdict::Keep)
    }

    /// The guest will not do any more what `ends` says.
    fn end(&mut self, which: u32) -> Verdict {
        self.guest_ends |= which;
        if self.guest_ends == ends::BOTH {
            return Verdict::Close;
        }
        if self.guest_ends & ends::RECEIVE != 0 {
            // A host program that goes on writing hears of it. Of a socket that is gone already
            // there is nothing to shut down.
            let _ = shutdown_socket(&self.socket, Shutdown::Read);
        }
        self.pass_end_on();
        Verdict::Keep
    }

    /// Ends the host program's input once the guest has, and all of it was passed on.
    fn pass_end_on(&self) {
        if self.guest_ends & ends::SEND != 0 && self.backlog.is_empty() {
            let _ = shutdown_socket(&self.socket, Shutdown::Write);
        }
    }

    /// Takes note of what became of the socket.
    pub(super) fn observe(&mut self, event: &Readiness) -> Verdict {
        self.readable |= event.readable;
        self.gone |= event.gone;
        if !self.established {
            return match (self.gone, self.is_known()) {
                (false, _) => Verdict::Keep,
                (true, true) => Verdict::Reset,
                (true, false) => Verdict::Forget,
            };
        }
        if event.writable && !self.backlog.is_empty() {
            match self.backlog.flush(&self.socket) {
                Ok(len) => self.credit.forward(len),
                Err(_) => return Verdict::Reset,
            }
            self.owed.credit |= self.credit.is_news();
            self.pass_end_on();
        }
        self.note_ends();
        Verdict::Keep
    }

    /// What of the host's side is over, as the guest may be told: nothing that would make it give
    /// up data still to be delivered.
    fn host_ends(&self) -> u32 {
        let unread = !self.drained && self.guest_ends & ends::RECEIVE == 0;
        match (unread, self.gone) {
            (true, _) => 0,
            (false, true) => ends::BOTH,
            (false, false) if self.drained => ends::SEND,
            (false, false) => 0,
        }
    }

    fn note_ends(&mut self) {
        self.owed.shutdown |= self.host_ends() & !self.told_ends != 0;
    }

    /// Makes the next packet for the guest, or several of data that have all but their lengths in
    /// common: those lie in `buffers`, behind room for the headers. The answer to the last packet of all is given up at `deadline`.
    ///
    /// # Errors
    /// Guest memory that cannot be written, which a checked chain rules out.
    pub(super) fn produce(
        &mut self,
        mem: &GuestMemory,
        buffers: &Buffers,
        scratch: &mut Scratch,
        deadline: impl FnOnce() -> Instant,
    ) -> Result<Produced, QueueError> {
        let packet = |op, flags, len| Ok(Produced::Packet { op, flags, len });
        if take(&mut self.owed.request) {
            return packet(op::REQUEST, 0, 0);
        }
        if take(&mut self.owed.response) {
            return packet(op::RESPONSE, 0, 0);
        }
        if self.can_read() {
            match self.read(mem, buffers, scratch)? {
                Ok(0) => {
                    self.drained = true;
                    self.note_ends();
                }
                Ok(len) => {
                    self.credit.send(len);
                    return packet(op::RW, 0, len);
                }
                Err(Errno::AGAIN) => self.readable = false,
                Err(_) => return Ok(Produced::Reset),
            }
        }
        if take(&mut self.owed.shutdown) {
            self.told_ends |= self.host_ends();
            if self.told_ends == ends::BOTH {
                self.deadline = Some(deadline());
            }
            return packet(op::SHUTDOWN, self.told_ends, 0);
        }
        if take(&mut self.owed.credit) {
            return packet(op::CREDIT_UPDATE, 0, 0);
        }
        Ok(Produced::Nothing)
    }

    /// Reads from the host program straight into the guest's buffers, behind the headers.
    fn read(
        &self,
        mem: &GuestMemory,
        buffers: &Buffers,
        scratch: &mut Scratch,
    ) -> Result<Result<u32, Errno>, QueueError> {
        scratch.ranges.clear();
        let mut left = self.credit.available();
        for chain in buffers.held() {
            window(chain.writable(), HEADER_LEN, left, &mut scratch.ranges);
            left = left.saturating_sub(chain.writable_len().saturating_sub(HEADER_LEN));
        }
        let mut list = recycle_mut(take(&mut scratch.to_guest));
        push_io_slices_mut(mem, &scratch.ranges, &mut list).map_err(QueueError::Memory)?;
        let result = retry_on_intr(|| readv(&self.socket, &mut list));
        scratch.to_guest = recycle_mut(list);
        Ok(result.map(|len| u32::try_from(len).unwrap_or(u32::MAX)))
    }

    /// The `buf_alloc` and `fwd_cnt` of the packet that goes to the guest now.
    pub(super) fn tell_credit(&mut self) -> (u32, u32) {
        self.owed.credit = false;
        self.credit.tell()
    }
}

/// Writes to a socket, without a signal when nobody reads it; a full one takes nothing.
pub(super) fn send(socket: &OwnedFd, list: &[IoSlice<'_>]) -> Result<usize, Errno> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match retry_on_intr(|| sendmsg(socket, list, &mut SendAncillaryBuffer::default(), flags)) {
        Err(Errno::AGAIN) => Ok(0),
        result => result,
    }
}
