//! The virtio network device (virtio 1.3, section 5.1), with one pair of queues or several.

mod backend;
mod control;
pub mod feature;
mod filter;
mod header;
mod headers;
mod pair;
mod passt;
mod receive;
mod send;
mod stream;
mod tap;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tracing::debug;

pub use backend::Backend;
pub use filter::Filter;
pub use passt::{Passt, PasstError};
pub use tap::{Tap, TapError};

use super::batch::Budget;
use super::device::{
    Activation, BackendFd, Progress, RING_FEATURES, VirtioDevice, read_config_bytes,
};
use super::queue::{Queue, QueueError};
use crate::metrics::{Counters, counters};
use control::Control;
use pair::Pair;

const DEVICE_TYPE: u32 = 1;
/// Entries of a receive or transmit queue.
const QUEUE_SIZE: u16 = 256;
/// Entries of the queue for commands.
const CONTROL_QUEUE_SIZE: u16 = 64;

const CONFIG_LEN: usize = 12;
const BUDGET: Budget = Budget { chains: 128, bytes: 2 << 20 };

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

/// A network device.
pub struct Net {
    pairs: Vec<Pair>,
    queue_sizes: Vec<u16>,
    features: u64,
    mtu: Option<u16>,
    config: [u8; CONFIG_LEN],
    counters: Arc<NetCounters>,
    active: Option<Activation>,
    control: Control,
}

/// What a queue is for (section 5.1.2).
enum Role {
    Receive(usize),
    Send(usize),
    Control,
}

impl Net {
    /// A network device on `backend` with the address `mac`; `mtu` is the largest packet the
    /// guest should send, in bytes.
    pub fn new(backend: impl Backend + 'static, mac: [u8; 6], mtu: Option<u16>) -> Self {
        Self::with_queues(vec![Box::new(backend)], mac, mtu)
    }

    /// The same with a pair of queues for each of `backends`, which are connections to one host
    /// network; all but the first are detached from it.
    pub fn with_queues(backends: Vec<Box<dyn Backend>>, mac: [u8; 6], mtu: Option<u16>) -> Self {
        let mut features = RING_FEATURES | feature::MAC | feature::MRG_RXBUF;
        features |= backends.first().map_or(0, |backend| backend.features());
        let mut queue_sizes = vec![QUEUE_SIZE; backends.len() * 2];
        let mut pairs = 0;
        if backends.len() > 1 {
            features |= feature::MQ | feature::CTRL_VQ;
            queue_sizes.push(CONTROL_QUEUE_SIZE);
            pairs = u16::try_from(backends.len()).unwrap_or(u16::MAX);
        }
        if mtu.is_some() {
            features |= feature::MTU;
        }
        // struct virtio_net_config (section 5.1.4): mac, status, max_virtqueue_pairs, mtu.
        let ([m0, m1, m2, m3, m4, m5], [p0, p1]) = (mac, pairs.to_le_bytes());
        let [t0, t1] = mtu.unwrap_or(0).to_le_bytes();
        let counters = Arc::<NetCounters>::default();
        let pair = |(index, backend)| Pair::new(index, backend, counters.clone());
        Self {
            pairs: backends.into_iter().enumerate().map(pair).collect(),
            queue_sizes,
            features,
            mtu,
            config: [m0, m1, m2, m3, m4, m5, 0, 0, p0, p1, t0, t1],
            counters,
            active: None,
            control: Control::default(),
        }
    }

    /// The same device, that sends only what `filter` lets pass.
    #[must_use]
    pub fn with_filter(mut self, filter: Filter) -> Self {
        self.pairs.iter_mut().for_each(|pair| pair.host.filter = Some(filter));
        self
    }

    /// What queue `index` is for; `None` for those that the driver has no use for.
    fn role(&self, index: usize, features: u64) -> Option<Role> {
        // Without MQ the queue for commands follows the first pair.
        let pairs = if features & feature::MQ == 0 { 1 } else { self.pairs.len() };
        match (index / 2, index % 2) {
            (pair, 0) if pair < pairs => Some(Role::Receive(pair)),
            (pair, _) if pair < pairs => Some(Role::Send(pair)),
            _ if index == pairs * 2 && features & feature::CTRL_VQ != 0 => Some(Role::Control),
            _ => None,
        }
    }

    /// Uses the first pair alone, as after every reset.
    fn use_one_pair(&mut self) {
        if let Err(e) = control::use_pairs(&mut self.pairs, 1) {
            debug!("queues cannot be detached: {e}");
        }
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
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) {
        if let Some(first) = self.pairs.first_mut()
            && let Err(e) = first.host.backend.set_offloads(activation.features)
        {
            debug!("host network offloads cannot be set: {e}");
        }
        let (features, mtu) = (activation.features, self.mtu);
        self.pairs.iter_mut().for_each(|pair| pair.activate(features, mtu));
        self.active = Some(activation);
    }

    fn deactivate(&mut self) -> Option<Vec<Queue>> {
        let mut queues = self.active.take()?.queues;
        self.pairs.iter_mut().for_each(|pair| pair.deactivate(&mut queues));
        self.use_one_pair();
        Some(queues)
    }

    fn counters(&self) -> Option<Arc<dyn Counters>> {
        Some(self.counters.clone())
    }

    fn process_queue(&mut self, index: usize) -> Result<Progress, QueueError> {
        let features = self.active.as_ref().map_or(0, |active| active.features);
        let role = self.role(index, features);
        let Some(active) = &mut self.active else { return Ok(Progress::Idle) };
        match role {
            Some(Role::Receive(pair)) => {
                if let Some(pair) = self.pairs.get_mut(pair) {
                    pair.buffers_came(active)?;
                }
                Ok(Progress::Idle)
            }
            Some(Role::Send(pair)) => match self.pairs.get_mut(pair) {
                Some(pair) => pair.transmit(active),
                None => Ok(Progress::Idle),
            },
            Some(Role::Control) => self.control.run(index, active, &mut self.pairs),
            None => Ok(Progress::Idle),
        }
    }

    fn backend_fds(&self, wanted: &mut Vec<BackendFd>) {
        wanted.extend(self.pairs.iter().map(Pair::backend_fd));
    }

    fn process_backend(&mut self, index: usize) -> Result<(), QueueError> {
        match (&mut self.active, self.pairs.get_mut(index)) {
            (Some(active), Some(pair)) => pair.host_ready(active),
            _ => Ok(()),
        }
    }
}
