//! One pair of queues, and the host network behind it.

use std::sync::Arc;

use rustix::io::Errno;
use tracing::warn;

use super::backend::Backend;
use super::filter::{Filter, Refusal};
use super::receive::{Receiver, Waiting};
use super::send::Sender;
use super::{BUDGET, NetCounters};
use crate::devices::virtio::batch::{Begun, show};
use crate::devices::virtio::chain::Chain;
use crate::devices::virtio::device::{Activation, BackendFd, Progress};
use crate::devices::virtio::queue::{Queue, QueueError};

/// The host's side of a network device.
pub(super) struct Host {
    pub(super) backend: Box<dyn Backend>,
    pub(super) counters: Arc<NetCounters>,
    /// What the guest may send; everything without one.
    pub(super) filter: Option<Filter>,
    gone: bool,
    /// Whether the guest's frames were refused before.
    refused: bool,
}

impl Host {
    /// Says once that no more frames can come: a guest that resets the device runs into it again.
    pub(super) fn report_gone(&mut self, why: Errno) {
        if !self.gone {
            warn!("the host network is gone, nothing is received any more: {why}");
        }
        self.gone = true;
    }

    /// Counts a frame that is not sent, and says once that there are such.
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        let counters = &self.counters;
        let (count, what) = match refusal {
            Refusal::Mac => (&counters.tx_foreign_mac, "its source MAC is not the guest's own"),
            Refusal::Vlan => (&counters.tx_vlan, "it has a VLAN tag"),
            Refusal::LinkLocal => (&counters.tx_link_local, "it speaks to switches"),
            Refusal::Neighbour => (&counters.tx_foreign_neighbour, "it claims another's address"),
            Refusal::Ip => (&counters.tx_foreign_ip, "its source IP is not the guest's own"),
            Refusal::Service => (&counters.tx_service, "only routers and DHCP servers send it"),
            Refusal::Unreadable => (&counters.tx_unreadable, "its headers cannot be checked"),
        };
        count.inc();
        if !self.refused {
            warn!("a frame of the guest was refused: {what}; a --net with filter=off takes all");
        }
        self.refused = true;
    }
}

/// A receive queue, a transmit queue and what they are connected to.
pub(super) struct Pair {
    /// The number of the receive queue; the transmit queue is the next one.
    rx: usize,
    pub(super) host: Host,
    receiver: Receiver,
    sender: Sender,
    chain: Chain,
    /// Whether the driver uses the pair (section 5.1.6.5.5). Frames it sends all the same are sent.
    in_use: bool,
    /// Whether frames of the guest wait for room at the host.
    stalled: bool,
}

impl Pair {
    /// Pair number `index`, on `backend`. The first one is always in use.
    pub(super) fn new(index: usize, backend: Box<dyn Backend>, counters: Arc<NetCounters>) -> Self {
        let host = Host { backend, counters, filter: None, gone: false, refused: false };
        Self {
            rx: index * 2,
            host,
            receiver: Receiver::new(),
            sender: Sender::default(),
            chain: Chain::default(),
            in_use: index == 0,
            stalled: false,
        }
    }

    /// Begins anew with a driver that negotiated `features`, on a network of packets of up to
    /// `mtu` bytes.
    pub(super) fn activate(&mut self, features: u64, mtu: Option<u16>) {
        self.receiver.activate(features, mtu);
        self.sender.activate(features);
    }

    /// Ends: what the receiver holds goes back to its queue.
    pub(super) fn deactivate(&mut self, queues: &mut [Queue]) {
        if let Some(queue) = queues.get_mut(self.rx) {
            self.receiver.deactivate(queue);
        }
    }

    /// Whether the driver uses the pair.
    pub(super) fn in_use(&self) -> bool {
        self.in_use
    }

    /// Attaches the pair to the host network, or detaches it, so that no frame waits where nobody
    /// looks.
    ///
    /// # Errors
    /// What the host says; the pair is as before.
    pub(super) fn set_in_use(&mut self, in_use: bool) -> Result<(), Errno> {
        if self.in_use != in_use {
            self.host.backend.set_attached(in_use)?;
            self.in_use = in_use;
        }
        Ok(())
    }

    /// Works on receive buffers after a kick: otherwise frames are waited for, or nothing is.
    pub(super) fn buffers_came(&mut self, active: &mut Activation) -> Result<(), QueueError> {
        match self.receiver.waiting() {
            Waiting::Buffers | Waiting::Time if self.in_use => self.receive(active),
            _ => Ok(()),
        }
    }

    /// Works on what the host network is ready for.
    pub(super) fn host_ready(&mut self, active: &mut Activation) -> Result<(), QueueError> {
        if self.stalled && self.transmit(active)? == Progress::More {
            // The descriptor can still be written.
            self.stalled = true;
        }
        match self.receiver.waiting() {
            Waiting::Frame if self.in_use => self.receive(active),
            _ => Ok(()),
        }
    }

    fn receive(&mut self, active: &mut Activation) -> Result<(), QueueError> {
        let Some(queue) = active.queues.get_mut(self.rx) else { return Ok(()) };
        let result =
            self.receiver.run(queue, &active.mem, &active.throttles.receive, &mut self.host);
        show(queue, &active.mem, &active.signal)?;
        result
    }

    /// Works on the transmit queue, as long as the host has room.
    pub(super) fn transmit(&mut self, active: &mut Activation) -> Result<Progress, QueueError> {
        let (sender, host, stalled) = (&mut self.sender, &mut self.host, &mut self.stalled);
        *stalled = false;
        let progress = active.begin(self.rx + 1, BUDGET, &mut self.chain, |mem, chain| {
            *stalled = host.backend.congested();
            if *stalled {
                Ok(Begun::NotYet)
            } else {
                sender.send(mem, chain, host).map(Begun::Done)
            }
        });
        // The end of the last frame may wait as well.
        *stalled |= host.backend.congested();
        progress
    }

    /// What it waits for; listed also when that is nothing, so that places in the list stay.
    pub(super) fn backend_fd(&self) -> BackendFd {
        let readable = self.in_use && self.receiver.waiting() == Waiting::Frame;
        BackendFd { fd: self.host.backend.fd(), readable, writable: self.stalled }
    }
}
