//! The virtio socket device (virtio 1.3, section 5.10): streams between programs of the guest and
//! of the host, over Unix sockets.
//!
//! A host program connects to the device's socket, says `CONNECT <port>` and a line break, and is
//! told `OK <port>` once a guest program has accepted. A guest program that connects to port P of
//! the host reaches the socket that has `_P` after the device's path.

mod backlog;
mod buffers;
mod connection;
mod credit;
mod handshake;
mod host;
mod muxer;
mod packet;
mod poller;
#[cfg(test)]
mod tests;
mod unix;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use thiserror::Error;

use super::batch::{Budget, Done, show};
use super::chain::Chain;
use super::device::{
    Activation, BackendFd, Progress, RING_FEATURES, VirtioDevice, read_config_bytes,
};
use super::iovec::read_ranges;
use super::queue::{Queue, QueueError};
use super::throttle::Throttle;
use crate::listener::{ListenError, Listener};
use crate::memory::GuestMemory;
use crate::metrics::{Counters, counters};
use buffers::Buffers;
use connection::Data;
use muxer::{Limits, Muxer, packet_len};
use packet::{HEADER_LEN, Header};
use unix::raise_descriptor_limit;

const DEVICE_TYPE: u32 = 19;
/// Receive, transmit, events. Of events there are none: the guest never changes its host.
const QUEUE_SIZES: [u16; 3] = [256, 256, 64];
const RX: usize = 0;
const TX: usize = 1;
const EVENTS: usize = 2;

const SEND_BUDGET: Budget = Budget { chains: 128, bytes: 1 << 20 };
const RECEIVE_BUDGET: Budget = Budget { chains: 256, bytes: 1 << 20 };
const LIMITS: Limits = Limits { sockets: 4096, patience: Duration::from_secs(5) };
/// Host programs that wait to be accepted.
const BACKLOG: i32 = 128;
/// Descriptors the rest of the process may need, where there are plenty and where there are few.
const OTHER_DESCRIPTORS: u64 = 1024;
const KEPT_DESCRIPTORS: u64 = 128;

/// Why a socket device cannot be had.
#[derive(Debug, Error)]
pub enum VsockError {
    /// Its socket cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The host gave no descriptor to wait for sockets with.
    #[error("set up waiting for sockets")]
    Poller(#[source] Errno),
}

counters! {
    /// What a socket device has done.
    pub struct VsockCounters {
        /// Packets delivered to the guest.
        rx_packets,
        /// Bytes of data in them.
        rx_bytes,
        /// Packets the guest sent.
        tx_packets,
        /// Bytes of data in them that were accepted.
        tx_bytes,
        /// Connections that both sides agreed to.
        connections,
        /// Connections and host programs that were turned away.
        refused,
        /// Connections ended because one side broke the rules, or was lost.
        resets,
        /// Packets that belong to no connection, and were answered with a RST.
        unmatched,
        /// Packets shorter than their header, or than it says.
        malformed,
        /// Packets of a type other than stream.
        unknown_types,
        /// Packets from or to an address that is not the guest's or the host's.
        dropped_foreign,
        /// Answers that were given up.
        timeouts,
    }
}

/// A socket device.
pub struct Vsock {
    muxer: Muxer,
    counters: Arc<VsockCounters>,
    config: [u8; 8],
    active: Option<Activation>,
    buffers: Buffers,
    chain: Chain,
}

impl Vsock {
    /// A socket device for a guest with the address `cid`, which host programs reach at the Unix
    /// socket `path`. The socket is created for this user alone, and removed with the device.
    ///
    /// # Errors
    /// [`VsockError`]; nothing is left behind.
    pub fn open(cid: u32, path: &Path) -> Result<Self, VsockError> {
        Self::with_limits(cid, path, LIMITS)
    }

    fn with_limits(cid: u32, path: &Path, limits: Limits) -> Result<Self, VsockError> {
        let descriptors = raise_descriptor_limit(u64::from(limits.sockets) + OTHER_DESCRIPTORS);
        // A guest that opens all it may leaves some to everything else in the process.
        let sockets = descriptors.saturating_sub(KEPT_DESCRIPTORS).max(descriptors / 4);
        let sockets = u16::try_from(sockets).unwrap_or(u16::MAX);
        let limits = Limits { sockets: limits.sockets.min(sockets), ..limits };
        let listener = Listener::open(path, BACKLOG)?;
        let muxer = Muxer::new(listener, cid.into(), limits).map_err(VsockError::Poller)?;
        Ok(Self {
            counters: muxer.counters.clone(),
            muxer,
            config: u64::from(cid).to_le_bytes(),
            active: None,
            buffers: Buffers::default(),
            chain: Chain::default(),
        })
    }

    /// Handles what the guest sends, then delivers what there is for it.
    fn work(&mut self) -> Result<Progress, QueueError> {
        let room = self.muxer.room_for_resets();
        let sent = if room > 0 { self.transmit(room)? } else { Progress::Idle };
        let received = self.receive()?;
        // A guest that takes none of its answers is not listened to until it does.
        let resumed = room == 0 && self.muxer.room_for_resets() > 0;
        let more = resumed || sent == Progress::More || received == Progress::More;
        Ok(if more { Progress::More } else { Progress::Idle })
    }

    fn transmit(&mut self, most: usize) -> Result<Progress, QueueError> {
        let Some(active) = &mut self.active else { return Ok(Progress::Idle) };
        let chains = SEND_BUDGET.chains.min(u32::try_from(most).unwrap_or(u32::MAX));
        let budget = Budget { chains, ..SEND_BUDGET };
        let (muxer, counters) = (&mut self.muxer, &self.counters);
        active.drain(TX, budget, &mut self.chain, |mem, chain| {
            counters.tx_packets.inc();
            transmit(mem, chain, muxer)
        })
    }

    fn receive(&mut self) -> Result<Progress, QueueError> {
        let Some(active) = &mut self.active else { return Ok(Progress::Idle) };
        let Some(queue) = active.queues.get_mut(RX) else { return Ok(Progress::Idle) };
        let (mem, muxer, buffers) = (&active.mem, &mut self.muxer, &mut self.buffers);
        let throttle = &*active.throttles.receive;
        let result = receive(queue, mem, muxer, buffers, throttle);
        show(queue, mem, &active.signal)?;
        result
    }
}

/// Handles the packet in `chain`, or drops it when there is no whole header.
fn transmit(mem: &GuestMemory, chain: &Chain, muxer: &mut Muxer) -> Result<Done, QueueError> {
    let Some(room) = chain.readable_len().checked_sub(HEADER_LEN) else {
        muxer.counters.malformed.inc();
        return Ok(Done::default());
    };
    // This copy is what counts, whatever the guest makes of the original meanwhile.
    let mut header = [0; 44];
    read_ranges(mem, chain.readable(), &mut header).map_err(QueueError::Memory)?;
    let header = Header::parse(&header);
    muxer.handle(&header, &Data { mem, chain, room })?;
    Ok(Done { used_len: 0, moved: header.len.min(room).into() })
}

/// Delivers packets until there are none, no buffer is left or the budget is spent.
fn receive(
    queue: &mut Queue,
    mem: &GuestMemory,
    muxer: &mut Muxer,
    buffers: &mut Buffers,
    throttle: &Throttle,
) -> Result<Progress, QueueError> {
    let mut budget = RECEIVE_BUDGET;
    queue.disable_kicks(mem)?;
    // Refused, the transport kicks the queue when it is time.
    while buffers.take(queue, mem)? && muxer.has_packet() && throttle.may_begin() {
        // A limit counts every packet before the next one is made, and those in line take turns.
        if muxer.one_is_ready() && !throttle.is_limited() {
            buffers.gather(queue, mem)?;
        }
        let mut more = true;
        match muxer.produce(mem, buffers)? {
            None => more = budget.spend(0),
            Some(header) => buffers.fill(queue, mem, &header, |len| {
                muxer.counters.rx_packets.inc();
                throttle.charge(len.into());
                more &= budget.spend(packet_len(len).into());
            })?,
        }
        if !more {
            return Ok(Progress::More);
        }
    }
    Ok(Progress::Idle)
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    /// Streams need no feature of their own (section 5.10.3).
    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) {
        self.active = Some(activation);
    }

    fn deactivate(&mut self) -> Option<Vec<Queue>> {
        let mut queues = self.active.take()?.queues;
        self.buffers.give_back(queues.get_mut(RX));
        self.muxer.reset();
        Some(queues)
    }

    fn counters(&self) -> Option<Arc<dyn Counters>> {
        Some(self.counters.clone())
    }

    fn process_queue(&mut self, index: usize) -> Result<Progress, QueueError> {
        match index {
            EVENTS => Ok(Progress::Idle),
            _ => self.work(),
        }
    }

    fn backend_fds(&self, wanted: &mut Vec<BackendFd>) {
        wanted.push(BackendFd { fd: self.muxer.fd(), readable: true, writable: false });
    }

    fn process_backend(&mut self, _index: usize) -> Result<(), QueueError> {
        self.muxer.handle_host();
        if self.work()? == Progress::More {
            self.muxer.poller.wake();
        }
        Ok(())
    }
}
