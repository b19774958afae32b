//! All connections of the guest, and the line in which they wait for its buffers.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tracing::debug;

use super::VsockCounters;
use super::backlog::Backlog;
use super::buffers::Buffers;
use super::connection::{Connection, Data, Produced, Scratch, Verdict};
use super::credit::{BUF_ALLOC, CROWDED_BUF_ALLOC, SHARED_BUF_ALLOC};
use super::handshake::Handshake;
use super::packet::{ANY_PORT, HEADER_LEN, HOST_CID, Header, STREAM, op};
use super::poller::{FIRST_LOOSE, Key, Poller, Token};
use super::unix::connect;
use crate::devices::virtio::queue::QueueError;
use crate::listener::Listener;
use crate::memory::GuestMemory;

/// What is bounded from outside of this file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most sockets of host programs at a time, whatever they are for.
    pub(super) sockets: u16,
    /// How long a program or the guest may take to answer.
    pub(super) patience: Duration,
}

/// Most RST packets the guest is owed before no more of its packets are looked at.
const MAX_RESETS: usize = 256;
/// Ports of host programs that connect to the guest: from here on, to twice that.
const FIRST_PORT: u32 = 1 << 30;

/// A socket of the host that belongs to no connection.
#[derive(Debug)]
pub(super) enum Loose {
    /// A host program that has not said yet where it wants to connect to.
    Handshake(Handshake),
    /// The guest has closed; the host program has not taken all it was sent.
    Leaving { socket: OwnedFd, backlog: Backlog },
}

/// With so many sockets a new connection keeps less: 16 of 256 KiB, 64 of 64 KiB and the rest of 4 KiB
/// are 24 MiB.
const SEVERAL: usize = 16;
const CROWD: usize = 80;

/// The connections.
#[derive(Debug)]
pub(super) struct Muxer {
    pub(super) listener: Listener,
    pub(super) poller: Poller,
    pub(super) connections: HashMap<Key, Connection>,
    pub(super) loose: HashMap<u32, Loose>,
    /// Host programs may wait at the listener.
    pub(super) accepting: bool,
    pub(super) counters: Arc<VsockCounters>,
    limits: Limits,
    /// Connections with a packet for the guest: each once, in the order of their turns.
    ready: VecDeque<Key>,
    resets: VecDeque<Header>,
    guest_cid: u64,
    next_port: u32,
    next_loose: u32,
    scratch: Scratch,
}

impl Muxer {
    /// What the next connection keeps of the guest: little when there are many already.
    fn room(&self) -> u32 {
        match self.connections.len() + self.loose.len() {
            ..SEVERAL => BUF_ALLOC,
            SEVERAL..CROWD => SHARED_BUF_ALLOC,
            _ => CROWDED_BUF_ALLOC,
        }
    }

    pub(super) fn new(listener: Listener, guest_cid: u64, limits: Limits) -> Result<Self, Errno> {
        let poller = Poller::new()?;
        poller.watch(&listener, Token::Listener)?;
        Ok(Self {
            listener,
            poller,
            connections: HashMap::new(),
            loose: HashMap::new(),
            accepting: false,
            counters: Arc::default(),
            limits,
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            guest_cid,
            next_port: FIRST_PORT,
            next_loose: FIRST_LOOSE,
            scratch: Scratch::default(),
        })
    }

    /// The descriptor that is readable when the host has something for the device.
    pub(super) fn fd(&self) -> RawFd {
        self.poller.fd()
    }

    /// Ends all connections: the guest does not know of them any more.
    pub(super) fn reset(&mut self) {
        self.connections.clear();
        self.ready.clear();
        self.resets.clear();
        self.loose.retain(|_, loose| matches!(loose, Loose::Leaving { .. }));
    }

    /// How many more packets of the guest may be handled: each may be answered by a RST.
    pub(super) fn room_for_resets(&self) -> usize {
        MAX_RESETS.saturating_sub(self.resets.len())
    }

    /// Whether one more socket may be opened.
    pub(super) fn has_room(&self) -> bool {
        self.connections.len() + self.loose.len() < usize::from(self.limits.sockets)
    }

    /// Handles a packet of the guest: `header`, with the data in `data`.
    ///
    /// # Errors
    /// Guest memory that cannot be read, which a checked chain rules out.
    pub(super) fn handle(&mut self, header: &Header, data: &Data<'_>) -> Result<(), QueueError> {
        if (header.src_cid, header.dst_cid) != (self.guest_cid, HOST_CID) {
            self.counters.dropped_foreign.inc();
            return Ok(());
        }
        if header.kind != STREAM {
            self.counters.unknown_types.inc();
            self.answer_with_reset(header);
            return Ok(());
        }
        let key = Key { host_port: header.dst_port, guest_port: header.src_port };
        let whole = header.len <= data.room;
        if !whole {
            self.counters.malformed.inc();
        }
        let Some(connection) = self.connections.get_mut(&key) else {
            match header.op {
                op::REQUEST if whole => self.open(key, header),
                _ => self.answer_with_reset(header),
            }
            return Ok(());
        };
        let greeting = || format!("OK {}\n", key.host_port);
        let verdict = if whole {
            connection.handle(header, data, greeting, &mut self.scratch)?
        } else {
            Verdict::Reset
        };
        match header.op {
            op::RW if verdict == Verdict::Keep => self.counters.tx_bytes.add(header.len.into()),
            op::RESPONSE if verdict == Verdict::Keep => self.counters.connections.inc(),
            _ => {}
        }
        self.settle(key, verdict);
        Ok(())
    }

    /// Connects the guest to the host program it asks for.
    fn open(&mut self, key: Key, request: &Header) {
        let result = match key {
            Key { host_port: ANY_PORT, .. } | Key { guest_port: ANY_PORT, .. } => {
                Err(Errno::ADDRNOTAVAIL)
            }
            _ if !self.has_room() => Err(Errno::MFILE),
            _ => connect(self.listener.path(), key.host_port),
        };
        let connected = result.and_then(|socket| {
            self.poller.watch(&socket, Token::Connection(key))?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => {
                self.counters.connections.inc();
                self.connections.insert(key, Connection::accepted(socket, request, self.room()));
                self.enqueue(key);
            }
            Err(e) => {
                debug!(port = key.host_port, "the guest is not connected: {e}");
                self.counters.refused.inc();
                self.answer_with_reset(request);
            }
        }
    }

    /// Asks the guest to connect a host program to its port `guest_port`.
    pub(super) fn request(&mut self, socket: OwnedFd, guest_port: u32) {
        let key = self.free_key(guest_port);
        if let Err(e) = self.poller.rename(&socket, Token::Connection(key)) {
            debug!("a host program is not connected: {e}");
            return self.counters.refused.inc();
        }
        let deadline = self.deadline();
        self.connections.insert(key, Connection::requested(socket, deadline, self.room()));
        self.enqueue(key);
    }

    /// A connection to `guest_port` that does not exist.
    fn free_key(&mut self, guest_port: u32) -> Key {
        // There are more ports than connections: one is free.
        loop {
            let key = Key { host_port: self.next_port, guest_port };
            self.next_port = FIRST_PORT | self.next_port.wrapping_add(1) & (FIRST_PORT - 1);
            if !self.connections.contains_key(&key) {
                return key;
            }
        }
    }

    /// Keeps a socket that belongs to no connection; tells its number.
    pub(super) fn keep_loose(&mut self, loose: Loose) -> u32 {
        loop {
            let number = self.next_loose;
            self.next_loose = number.checked_add(1).unwrap_or(FIRST_LOOSE);
            if let Entry::Vacant(place) = self.loose.entry(number) {
                place.insert(loose);
                return number;
            }
        }
    }

    /// When somebody who is waited for from now on has had time enough; sees to it that it is
    /// noticed.
    pub(super) fn deadline(&mut self) -> Instant {
        self.look_at_the_clock_soon();
        Instant::now() + self.limits.patience
    }

    /// Has the clock looked at after a part of the time that anybody gets.
    pub(super) fn look_at_the_clock_soon(&mut self) {
        self.poller.arm(self.limits.patience / 4);
    }

    /// Acts on what a connection came to.
    pub(super) fn settle(&mut self, key: Key, verdict: Verdict) {
        let connection = match verdict {
            Verdict::Keep => return self.enqueue(key),
            _ => self.remove(key),
        };
        if verdict == Verdict::Reset {
            self.counters.resets.inc();
        }
        if verdict != Verdict::Forget {
            let (src_port, dst_port) = (key.host_port, key.guest_port);
            let (src_cid, dst_cid, kind) = (HOST_CID, self.guest_cid, STREAM);
            let header = Header { src_cid, dst_cid, src_port, dst_port, kind, ..Header::default() };
            self.resets.push_back(Header { op: op::RST, ..header });
        }
        if verdict == Verdict::Close
            && let Some((socket, backlog)) = connection.map(Connection::into_remains)
            && !backlog.is_empty()
        {
            let number = self.keep_loose(Loose::Leaving { socket, backlog });
            if let Some(Loose::Leaving { socket, .. }) = self.loose.get(&number)
                && self.poller.rename(socket, Token::Loose(number)).is_err()
            {
                self.loose.remove(&number);
            }
        }
    }

    fn remove(&mut self, key: Key) -> Option<Connection> {
        let connection = self.connections.remove(&key)?;
        if connection.queued {
            // Its place in the line goes with it, or the line would grow without a bound.
            self.ready.retain(|other| *other != key);
        }
        Some(connection)
    }

    /// Puts a connection into the line if it has a packet for the guest.
    fn enqueue(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(&key)
            && !connection.queued
            && connection.has_packet()
        {
            connection.queued = true;
            self.ready.push_back(key);
        }
    }

    /// A RST is never answered with another.
    fn answer_with_reset(&mut self, header: &Header) {
        if header.op != op::RST {
            self.counters.unmatched.inc();
            self.resets.push_back(header.reset());
        }
    }

    /// Whether there may be a packet for the guest.
    pub(super) fn has_packet(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// Whether one connection alone is in line: nobody waits when it gets much at once.
    pub(super) fn one_is_ready(&self) -> bool {
        self.ready.len() == 1
    }

    /// Makes packets for the guest: their data lie in `buffers` already, each behind room for its header,
    /// and what is returned is the header of all of them together. `None` when there is none after all: one connection less is in line then.
    ///
    /// # Errors
    /// Guest memory that cannot be written, which a checked chain rules out.
    pub(super) fn produce(
        &mut self,
        mem: &GuestMemory,
        buffers: &Buffers,
    ) -> Result<Option<Header>, QueueError> {
        if let Some(reset) = self.resets.pop_front() {
            return Ok(Some(reset));
        }
        let Some(key) = self.ready.pop_front() else { return Ok(None) };
        let Some(connection) = self.connections.get_mut(&key) else { return Ok(None) };
        connection.queued = false;
        let (poller, patience) = (&mut self.poller, self.limits.patience);
        let deadline = || {
            poller.arm(patience / 4);
            Instant::now() + patience
        };
        let produced = connection.produce(mem, buffers, &mut self.scratch, deadline)?;
        let (op, flags, len) = match produced {
            Produced::Packet { op, flags, len } => (op, flags, len),
            Produced::Nothing => return Ok(None),
            Produced::Reset => {
                self.settle(key, Verdict::Reset);
                return Ok(self.resets.pop_back());
            }
        };
        let (buf_alloc, fwd_cnt) = connection.tell_credit();
        self.counters.rx_bytes.add(len.into());
        self.enqueue(key);
        let Key { host_port: src_port, guest_port: dst_port } = key;
        let (src_cid, dst_cid, kind) = (HOST_CID, self.guest_cid, STREAM);
        let header = Header {
            src_cid,
            dst_cid,
            src_port,
            dst_port,
            len,
            kind,
            op,
            flags,
            buf_alloc,
            fwd_cnt,
        };
        Ok(Some(header))
    }
}

/// Bytes of a packet with `len` bytes of data.
pub(super) fn packet_len(len: u32) -> u32 {
    HEADER_LEN.saturating_add(len)
}
