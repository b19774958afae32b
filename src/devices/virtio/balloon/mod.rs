//! The virtio memory balloon (virtio 1.3, section 5.5): memory the guest can do without goes back to
//! the host.

mod pages;
mod statistics;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use super::batch::{Budget, Done};
use super::chain::Chain;
use super::device::{
    Activation, BackendFd, Change, Progress, RING_FEATURES, UpdateError, VirtioDevice, Visible,
    read_config_bytes,
};
use super::queue::{Queue, QueueError};
use crate::config;
use crate::metrics::{Counters, counters};
use pages::Pages;
use statistics::Statistics;

const DEVICE_TYPE: u32 = 5;
/// Linux wants at least 32 entries for what it reports at once.
const QUEUE_SIZES: [u16; 4] = [64; 4];
/// The queue of the statistics, where it exists.
const STATISTICS: usize = 2;

/// Bytes of the page a page frame number stands for, whatever the page sizes of guest and host
/// (section 5.5.6).
const PAGE: u64 = 4096;
const PAGES_PER_MIB: u32 = 256;

const CONFIG_LEN: usize = 8;
/// Where `actual`, the one field a driver writes, lies in struct virtio_balloon_config.
const ACTUAL: usize = 4;

/// Bytes count as those of the memory that is given back.
const BUDGET: Budget = Budget { chains: 64, bytes: 4 << 20 };

/// Feature bits of a balloon (section 5.5.3).
///
/// MUST_TELL_HOST is not offered: memory that is touched again comes back by itself, so nobody needs
/// to ask first.
pub mod feature {
    /// The driver supplies statistics.
    pub const STATS_VQ: u64 = 1 << 1;
    /// The driver takes memory back when it runs out.
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    /// The driver tells which memory is free.
    pub const PAGE_REPORTING: u64 = 1 << 5;
}

counters! {
    /// What a balloon has done, and what was last heard of the guest's memory. The gauges after
    /// `host_errors` are the statistics of section 5.5.6.4, in bytes or in events since the guest's
    /// start.
    pub struct BalloonCounters {
        /// Bytes of the pages the driver has put into the balloon.
        inflated_bytes,
        /// Bytes of the pages the driver has taken out of the balloon.
        deflated_bytes,
        /// Bytes the driver has reported to be free.
        reported_bytes,
        /// Bytes the host got back by either way.
        discarded_bytes,
        /// Bytes of either way that stayed: named twice, outside of memory, parts of pages, beyond
        /// what one request may name, or refused by the host.
        ignored_bytes,
        /// How often the host refused to take memory back.
        host_errors,
        /// Statistics received.
        statistics,
        /// What the balloon should take.
        target_bytes: Gauge,
        /// What the driver says the balloon has.
        actual_bytes: Gauge,
        /// Memory swapped in.
        swap_in_bytes: Gauge,
        /// Memory swapped out.
        swap_out_bytes: Gauge,
        /// Page faults that had to wait for a disk.
        major_faults: Gauge,
        /// Other page faults.
        minor_faults: Gauge,
        /// Memory used for nothing.
        free_bytes: Gauge,
        /// Memory there is.
        total_bytes: Gauge,
        /// Memory new programs could have without swapping.
        available_bytes: Gauge,
        /// Memory of caches that can be dropped.
        cache_bytes: Gauge,
        /// Huge pages allocated.
        huge_page_allocations: Gauge,
        /// Huge pages that could not be had.
        huge_page_failures: Gauge,
    }
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
}

impl Role {
    /// The role of queue `index`. A driver does not count the queues whose feature it did not
    /// accept, as drivers and devices alike do it in practice; without free page hints the numbers
    /// of section 5.5.2 mean nothing else.
    fn of(index: usize, features: u64) -> Option<Self> {
        let has = |feature| features & feature != 0;
        let roles = [
            (Self::Inflate, true),
            (Self::Deflate, true),
            (Self::Statistics, has(feature::STATS_VQ)),
            (Self::Reporting, has(feature::PAGE_REPORTING)),
        ];
        roles.into_iter().filter(|(_, exists)| *exists).nth(index).map(|(role, _)| role)
    }
}

/// A memory balloon.
pub struct Balloon {
    features: u64,
    /// struct virtio_balloon_config (section 5.5.4): `num_pages`, then `actual`.
    config: [u8; CONFIG_LEN],
    active: Option<Activation>,
    chain: Chain,
    pages: Pages,
    statistics: Option<Statistics>,
    counters: Arc<BalloonCounters>,
}

impl Balloon {
    /// A balloon as `config` wants it.
    ///
    /// # Errors
    /// There is no timer for the statistics.
    pub fn open(config: &config::Balloon) -> io::Result<Self> {
        let counters = Arc::<BalloonCounters>::default();
        let interval = config.statistics.map(config::Interval::duration);
        let statistics = interval.map(|interval| Statistics::open(interval, counters.clone()));
        let offered = [
            (config.statistics.is_some(), feature::STATS_VQ),
            (config.deflate_on_oom, feature::DEFLATE_ON_OOM),
            (config.free_page_reporting, feature::PAGE_REPORTING),
        ];
        let features = offered.iter().filter(|(on, _)| *on).map(|(_, feature)| feature);
        let mut balloon = Self {
            features: features.fold(RING_FEATURES, |all, feature| all | feature),
            config: [0; CONFIG_LEN],
            active: None,
            chain: Chain::default(),
            pages: Pages::new(counters.clone()),
            statistics: statistics.transpose()?,
            counters,
        };
        balloon.set_target(config.size_mib());
        Ok(balloon)
    }

    /// Asks for statistics more often than a user may want them.
    #[cfg(test)]
    pub(crate) fn ask_every(&mut self, interval: std::time::Duration) {
        if let Some(statistics) = &mut self.statistics {
            statistics.interval = interval;
        }
    }

    fn num_pages(&self) -> u32 {
        let [a, b, c, d, ..] = self.config;
        u32::from_le_bytes([a, b, c, d])
    }

    fn actual(&self) -> u32 {
        let [.., a, b, c, d] = self.config;
        u32::from_le_bytes([a, b, c, d])
    }

    fn set_target(&mut self, mib: u32) {
        let ([a, b, c, d], [.., e, f, g, h]) =
            (mib.saturating_mul(PAGES_PER_MIB).to_le_bytes(), self.config);
        self.config = [a, b, c, d, e, f, g, h];
        self.counters.target_bytes.set(u64::from(self.num_pages()) * PAGE);
    }

    /// Reads a new `actual` from `config`, which may be whatever the driver likes.
    fn set_config(&mut self, config: [u8; CONFIG_LEN]) {
        self.config = config;
        self.counters.actual_bytes.set(u64::from(self.actual()) * PAGE);
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        let roles = (0..QUEUE_SIZES.len()).map_while(|index| Role::of(index, self.features));
        QUEUE_SIZES.get(..roles.count()).unwrap_or_default()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    /// Takes `actual`, also byte by byte, from a driver at work; the rest is read-only.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if self.active.is_none() {
            return;
        }
        let mut config = self.config;
        let Ok(offset) = usize::try_from(offset) else { return };
        for (at, byte) in config.iter_mut().enumerate().skip(ACTUAL) {
            if let Some(new) = at.checked_sub(offset).and_then(|index| data.get(index)) {
                *byte = *new;
            }
        }
        self.set_config(config);
    }

    fn update(&mut self, change: &Change) -> Result<Visible, UpdateError> {
        let Change::BalloonTarget(mib) = *change else { return Err(UpdateError::Unsupported) };
        let before = self.num_pages();
        self.set_target(mib);
        Ok(if self.num_pages() == before { Visible::Nothing } else { Visible::Config })
    }

    fn activate(&mut self, activation: Activation) {
        self.active = Some(activation);
    }

    fn deactivate(&mut self) -> Option<Vec<Queue>> {
        let mut queues = self.active.take()?.queues;
        if let (Some(statistics), Some(queue)) = (&mut self.statistics, queues.get_mut(STATISTICS))
        {
            statistics.deactivate(queue);
        }
        let [a, b, c, d, ..] = self.config;
        self.set_config([a, b, c, d, 0, 0, 0, 0]);
        Some(queues)
    }

    fn counters(&self) -> Option<Arc<dyn Counters>> {
        Some(self.counters.clone())
    }

    fn process_queue(&mut self, index: usize) -> Result<Progress, QueueError> {
        let Some(active) = &mut self.active else { return Ok(Progress::Idle) };
        let (chain, pages, counters) = (&mut self.chain, &mut self.pages, &*self.counters);
        match Role::of(index, active.features) {
            Some(Role::Inflate) => {
                active.drain(index, BUDGET, chain, |mem, chain| pages.inflate(mem, chain))
            }
            Some(Role::Deflate) => {
                active.drain(index, BUDGET, chain, |_, chain| deflate(chain, counters))
            }
            Some(Role::Reporting) => {
                active.drain(index, BUDGET, chain, |mem, chain| pages.report(mem, chain))
            }
            Some(Role::Statistics) => match &mut self.statistics {
                Some(statistics) => statistics.collect(active, chain),
                None => Ok(Progress::Idle),
            },
            None => Ok(Progress::Idle),
        }
    }

    fn backend_fds(&self, wanted: &mut Vec<BackendFd>) {
        wanted.extend(self.statistics.as_ref().and_then(Statistics::wanted));
    }

    fn process_backend(&mut self, _index: usize) -> Result<(), QueueError> {
        match (&mut self.statistics, &mut self.active) {
            (Some(statistics), Some(active)) => statistics.ask(active),
            _ => Ok(()),
        }
    }
}

/// Takes note of pages that leave the balloon. They are the guest's all the time, and come back when
/// it touches them.
fn deflate(chain: &Chain, counters: &BalloonCounters) -> Result<Done, QueueError> {
    let bytes = pages::named(chain)? * PAGE;
    counters.deflated_bytes.add(bytes);
    Ok(Done { used_len: 0, moved: 0 })
}
