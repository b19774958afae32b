//! The virtio network device (virtio 1.3, section 5.1) with one pair of queues.

mod backend;
mod filter;
mod header;
mod headers;
mod receive;
mod send;
mod tap;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustix::io::Errno;
use tracing::{debug, warn};

pub use backend::Backend;
pub use filter::Filter;
pub use tap::{Tap, TapError};

use super::batch::{Budget, show};
use super::chain::Chain;
use super::device::{
    Activation, BackendFd, Progress, RING_FEATURES, VirtioDevice, read_config_bytes,
};
use super::queue::{Queue, QueueError};
use crate::metrics::{Counters, counters};
use filter::Refusal;
use receive::{Receiver, Waiting};
use send::Sender;

const DEVICE_TYPE: u32 = 1;
const QUEUE_SIZES: [u16; 2] = [256, 256];
const RX: usize = 0;
const TX: usize = 1;

const CONFIG_LEN: usize = 12;
const BUDGET: Budget = Budget { chains: 128, bytes: 2 << 20 };

/// Feature bits of a network device (section 5.1.3).
pub mod feature {
    /// The device completes checksums of frames the driver sends.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes frames with partial checksums.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The device tells the MTU.
    pub const MTU: u64 = 1 << 3;
    /// The device tells the address.
    pub const MAC: u64 = 1 << 5;
    /// The driver takes TCP over IPv4 in segments to be cut.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The driver takes TCP over IPv6 in segments to be cut.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The driver takes such segments with ECN.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// The device cuts TCP over IPv4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The device cuts TCP over IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// The device cuts such segments with ECN.
    pub const HOST_ECN: u64 = 1 << 13;
    /// A frame may be spread over several receive buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The driver takes UDP over IPv4 in segments to be cut.
    pub const GUEST_USO4: u64 = 1 << 54;
    /// The driver takes UDP over IPv6 in segments to be cut.
    pub const GUEST_USO6: u64 = 1 << 55;
    /// The device cuts UDP.
    pub const HOST_USO: u64 = 1 << 56;

    /// What makes received frames longer than the MTU.
    pub const GUEST_SEGMENTS: u64 = GUEST_TSO4 | GUEST_TSO6 | GUEST_USO4 | GUEST_USO6;
    /// What a host network that knows TCP segmentation carries.
    pub const TCP_OFFLOADS: u64 =
        CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | HOST_TSO4 | HOST_TSO6 | HOST_ECN;
    /// What a host network that knows UDP segmentation carries besides.
    pub const UDP_OFFLOADS: u64 = GUEST_USO4 | GUEST_USO6 | HOST_USO;
}

counters! {
    /// What a network device has done.
    pub struct NetCounters {
        /// Frames delivered to the guest.
        rx_frames,
        /// Frames from the host that were lost here.
        rx_dropped,
        /// Frames the host took.
        tx_frames,
        /// Frames of the guest that were malformed, or not taken by the host.
        tx_dropped,
        /// Frames refused because their source hardware address is not the guest's.
        tx_foreign_mac,
        /// Frames refused because of a VLAN tag.
        tx_vlan,
        /// Frames refused because they speak to switches: spanning tree, LLDP, 802.3.
        tx_link_local,
        /// Frames refused because ARP or neighbour discovery in them claims a foreign address.
        tx_foreign_neighbour,
        /// Frames refused because their source IP address is not the guest's.
        tx_foreign_ip,
        /// Frames refused because routers or DHCP servers send such.
        tx_service,
        /// Frames refused because their headers are cut off, or too long to be checked.
        tx_unreadable,
    }
}

/// The host's side of a network device.
struct Host {
    backend: Box<dyn Backend>,
    counters: Arc<NetCounters>,
    /// What the guest may send; everything without one.
    filter: Option<Filter>,
    gone: bool,
    /// Whether the guest's frames were refused before.
    refused: bool,
}

impl Host {
    /// Says once that no more frames can come: a guest that resets the device runs into it again.
    fn report_gone(&mut self, why: Errno) {
        if !self.gone {
            warn!("the host network is gone, nothing is received any more: {why}");
        }
        self.gone = true;
    }

    /// Counts a frame that is not sent, and says once that there are such.
    fn refuse(&mut self, refusal: Refusal) {
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

/// A network device.
pub struct Net {
    host: Host,
    features: u64,
    config: [u8; CONFIG_LEN],
    active: Option<Activation>,
    chain: Chain,
    receiver: Receiver,
    sender: Sender,
}

impl Net {
    /// A network device on `backend` with the address `mac`; `mtu` is the largest packet the
    /// guest should send, in bytes.
    pub fn new(backend: impl Backend + 'static, mac: [u8; 6], mtu: Option<u16>) -> Self {
        let mut features = RING_FEATURES | feature::MAC | feature::MRG_RXBUF | backend.features();
        if mtu.is_some() {
            features |= feature::MTU;
        }
        // struct virtio_net_config (section 5.1.4): mac, status, max_virtqueue_pairs, mtu.
        let ([m0, m1, m2, m3, m4, m5], [t0, t1]) = (mac, mtu.unwrap_or(0).to_le_bytes());
        Self {
            host: Host {
                backend: Box::new(backend),
                counters: Arc::default(),
                filter: None,
                gone: false,
                refused: false,
            },
            features,
            config: [m0, m1, m2, m3, m4, m5, 0, 0, 0, 0, t0, t1],
            active: None,
            chain: Chain::default(),
            receiver: Receiver::new(),
            sender: Sender::default(),
        }
    }

    /// The same device, that sends only what `filter` lets pass.
    #[must_use]
    pub fn with_filter(mut self, filter: Filter) -> Self {
        self.host.filter = Some(filter);
        self
    }

    fn receive(&mut self) -> Result<(), QueueError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let Some(queue) = active.queues.get_mut(RX) else { return Ok(()) };
        let result =
            self.receiver.run(queue, &active.mem, &active.throttles.receive, &mut self.host);
        show(queue, &active.mem, &active.signal)?;
        result
    }

    fn transmit(&mut self) -> Result<Progress, QueueError> {
        let Some(active) = &mut self.active else { return Ok(Progress::Idle) };
        let (sender, host) = (&mut self.sender, &mut self.host);
        active.drain(TX, BUDGET, &mut self.chain, |mem, chain| sender.send(mem, chain, host))
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) {
        if let Err(e) = self.host.backend.set_offloads(activation.features) {
            debug!("host network offloads cannot be set: {e}");
        }
        self.receiver.activate(activation.features);
        self.sender.activate(activation.features);
        self.active = Some(activation);
    }

    fn deactivate(&mut self) -> Option<Vec<Queue>> {
        let mut queues = self.active.take()?.queues;
        if let Some(queue) = queues.get_mut(RX) {
            self.receiver.deactivate(queue);
        }
        Some(queues)
    }

    fn counters(&self) -> Option<Arc<dyn Counters>> {
        Some(self.host.counters.clone())
    }

    fn process_queue(&mut self, index: usize) -> Result<Progress, QueueError> {
        match index {
            // Other kicks find frames being waited for, or nothing to wait for.
            RX if matches!(self.receiver.waiting(), Waiting::Buffers | Waiting::Time) => {
                self.receive()?;
                Ok(Progress::Idle)
            }
            TX => self.transmit(),
            _ => Ok(Progress::Idle),
        }
    }

    fn backend_fds(&self, wanted: &mut Vec<BackendFd>) {
        if self.receiver.waiting() == Waiting::Frame {
            wanted.push(BackendFd { fd: self.host.backend.fd(), readable: true, writable: false });
        }
    }

    fn process_backend(&mut self, _index: usize) -> Result<(), QueueError> {
        match self.receiver.waiting() {
            Waiting::Frame => self.receive(),
            _ => Ok(()),
        }
    }
}
