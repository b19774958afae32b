//! The virtio-mmio transport, version 2 (virtio 1.3, section 4.2).
//!
//! It owns what all devices share: feature negotiation, the status machine, the queues until
//! they are live, the interrupt status and the queue eventfds.

use std::sync::Arc;

use rustix::io::Errno;
use tracing::{debug, warn};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{
    Activation, BackendFd, Change, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Progress, Signal,
    UpdateError, VirtioDevice, Visible,
};
use super::metrics::DeviceMetrics;
use super::queue::{Queue, QueueConfig, QueueError, RingFeatures};
use super::throttle::{Direction, Throttle, Throttles};
use crate::bus::BusDevice;
use crate::memory::GuestMemory;
use crate::rate_limiter::RateLimiter;

/// Size of a device's register window, in bytes.
pub const MMIO_WINDOW: u64 = 0x1000;
/// Offset of QueueNotify: what an ioeventfd listens to.
pub const QUEUE_NOTIFY: u64 = 0x50;
/// Offset of InterruptStatus.
pub const INTERRUPT_STATUS: u64 = 0x60;
/// Offset of InterruptACK.
pub const INTERRUPT_ACK: u64 = 0x64;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"vmm0");
const CONFIG_SPACE: u64 = 0x100;

/// Device status bits (section 2.1).
pub mod status {
    /// The guest has noticed the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u32 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u32 = 8;
    /// The device met an error it recovers from by a reset alone.
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    /// The guest has given up on the device.
    pub const FAILED: u32 = 128;
    /// What a driver may set.
    pub const DRIVER_BITS: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// A device behind its virtio-mmio registers.
///
/// Locking: one lock around the transport and its device. vCPUs take it for register accesses
/// (see [`MmioWindow`](super::MmioWindow) for those that do without), the event loop for kicks and backend events; nothing else is locked under it.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    mem: GuestMemory,
    signal: Arc<Signal>,
    throttles: Throttles,
    /// How many of the descriptors that were last listed are the device's own.
    device_fds: usize,
    kicks: Vec<EventFd>,
    queues: Vec<QueueConfig>,
    driver_features: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    status: u32,
    config_generation: u32,
}

impl MmioTransport {
    /// Puts registers around `device`; its interrupts go through `signal`.
    ///
    /// # Errors
    /// No eventfd could be made.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        mem: GuestMemory,
        signal: Signal,
    ) -> std::io::Result<Self> {
        let count = device.queue_sizes().len();
        let kicks = (0..count).map(|_| EventFd::new(EFD_NONBLOCK)).collect::<Result<_, _>>()?;
        Ok(Self {
            device,
            mem,
            signal: Arc::new(signal),
            throttles: Throttles::default(),
            device_fds: 0,
            kicks,
            queues: vec![QueueConfig::default(); count],
            driver_features: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            status: 0,
            config_generation: 0,
        })
    }

    /// The eventfds that QueueNotify writes, one per queue, in order.
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// The device's interrupts, which need no lock.
    pub fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    /// What is counted, to be read without the lock.
    pub fn metrics(&self) -> DeviceMetrics {
        DeviceMetrics::new(self.signal.clone(), self.throttles.clone(), self.device.counters())
    }

    /// As [`VirtioDevice::thread_name`].
    pub fn thread_name(&self) -> Option<&'static str> {
        self.device.thread_name()
    }

    /// Lists the descriptors the device waits for: none unless the driver is running.
    pub fn backend_fds(&mut self, wanted: &mut Vec<BackendFd>) {
        wanted.clear();
        if self.running() {
            self.device.backend_fds(wanted);
            self.device_fds = wanted.len();
            let timers = self.throttles.both().into_iter().filter_map(Throttle::timer);
            wanted.extend(timers.map(|fd| BackendFd { fd, readable: true, writable: false }));
        }
    }

    /// Handles a kick of queue `index`: the event loop's way in.
    pub fn process_queue(&mut self, index: usize) {
        if self.running() {
            self.signal.counters().kicks.inc();
            let result = self.device.process_queue(index);
            self.settle(index, result);
        }
    }

    /// Handles readiness of the descriptor `backend_fds` listed at `index`.
    pub fn process_backend(&mut self, index: usize) {
        if !self.running() {
            return;
        }
        if index >= self.device_fds {
            self.throttles.both().into_iter().for_each(Throttle::expire);
            return self.kick_all();
        }
        if let Err(error) = self.device.process_backend(index) {
            self.need_reset(&error);
        }
    }

    /// Changes the device while the machine runs, and tells the driver what it can see of that
    /// (section 2.5.1).
    ///
    /// # Errors
    /// The device has no such property, or the host refused.
    pub fn update(&mut self, change: &Change) -> Result<(), UpdateError> {
        if let Change::Limit { direction, bytes, operations } = *change {
            return self.limit(direction, RateLimiter::new(bytes, operations));
        }
        if self.device.update(change)? == Visible::Config {
            self.config_generation = self.config_generation.wrapping_add(1);
            if self.status & status::DRIVER_OK != 0 {
                self.signal.config_change();
            }
        }
        Ok(())
    }

    fn limit(&self, direction: Direction, limiter: RateLimiter) -> Result<(), UpdateError> {
        let failed =
            |e: Errno| UpdateError::Host { what: "make a timer".to_owned(), source: e.into() };
        self.throttles.of(direction).limit(limiter).map_err(failed)?;
        // What waited for the old limit may begin now.
        self.kick_all();
        Ok(())
    }

    fn settle(&mut self, index: usize, result: Result<Progress, QueueError>) {
        match result {
            Ok(Progress::Idle) => {}
            Ok(Progress::More) => self.kick(index),
            Err(error) => self.need_reset(&error),
        }
    }

    fn kick(&self, index: usize) {
        if let Some(kick) = self.kicks.get(index) {
            // The counter is never read (see `DeviceEvents`), and 2^64 kicks are never reached.
            let _ = kick.write(1);
        }
    }

    fn kick_all(&self) {
        (0..self.kicks.len()).for_each(|index| self.kick(index));
    }

    fn running(&self) -> bool {
        let stopped = status::FAILED | status::DEVICE_NEEDS_RESET;
        self.status & status::DRIVER_OK != 0 && self.status & stopped == 0
    }

    /// Marks the device broken (section 2.1.2); only a driver reset brings it back.
    fn need_reset(&mut self, error: &dyn std::error::Error) {
        let breakdowns = &self.signal.counters().breakdowns;
        breakdowns.inc();
        let times = breakdowns.get();
        // A guest can break its device as often as it likes, but not fill the log with it.
        if times.is_power_of_two() {
            let reason = error.source().map(|s| format!(": {s}")).unwrap_or_default();
            let device = self.device.device_type();
            warn!(device, times, "device needs a reset: {error}{reason}");
        }
        self.status |= status::DEVICE_NEEDS_RESET;
        if self.status & status::DRIVER_OK != 0 {
            self.signal.config_change();
        }
    }

    fn negotiated(&self, feature: u64) -> bool {
        self.driver_features & feature != 0
    }

    /// Moves the queues into the device, and kicks them: a kick that came early is not lost.
    fn activate(&mut self) {
        let features = RingFeatures {
            indirect: self.negotiated(F_INDIRECT_DESC),
            event_idx: self.negotiated(F_EVENT_IDX),
        };
        let sizes = self.device.queue_sizes().iter().zip(&self.queues);
        let queues = sizes
            .map(|(max, config)| Queue::new(*max, *config, features, &self.mem))
            .collect::<Result<Vec<_>, _>>();
        match queues {
            Ok(queues) => {
                debug!(device = self.device.device_type(), "activated");
                self.device.activate(Activation {
                    mem: self.mem.clone(),
                    queues,
                    features: self.driver_features,
                    signal: self.signal.clone(),
                    throttles: self.throttles.clone(),
                });
                self.kick_all();
            }
            Err(error) => self.need_reset(&error),
        }
    }

    /// Back to the state after power-on (section 4.2.3.1): no queue is touched afterwards.
    fn reset(&mut self) {
        drop(self.device.deactivate());
        self.signal.acknowledge(u32::MAX);
        self.queues.fill(QueueConfig::default());
        self.driver_features = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        self.status = 0;
    }

    /// Follows the driver through section 3.1.1. Bits are added, never taken back but by a
    /// reset; a step out of order is ignored, which the driver sees when it reads back.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let added = value & status::DRIVER_BITS & !self.status;
        let has = |bits, in_status: u32| in_status & bits == bits;
        self.status |= added & (status::ACKNOWLEDGE | status::DRIVER | status::FAILED);
        if added & status::FEATURES_OK != 0
            && has(status::ACKNOWLEDGE | status::DRIVER, self.status)
            && self.features_acceptable()
        {
            self.status |= status::FEATURES_OK;
        }
        if added & status::DRIVER_OK != 0
            && has(status::FEATURES_OK, self.status)
            && self.status & (status::FAILED | status::DEVICE_NEEDS_RESET) == 0
        {
            self.status |= status::DRIVER_OK;
            self.activate();
        }
    }

    /// Section 2.2.2: a subset of what is offered, with VERSION_1.
    fn features_acceptable(&self) -> bool {
        self.negotiated(F_VERSION_1) && self.driver_features & !self.device.features() == 0
    }

    fn select_feature_word(features: u64, select: u32) -> u32 {
        match select {
            0 => (features & u64::from(u32::MAX)).try_into().unwrap_or(0),
            1 => (features >> 32).try_into().unwrap_or(0),
            _ => 0,
        }
    }

    fn write_driver_features(&mut self, value: u32) {
        // Negotiation ends with FEATURES_OK (section 2.2.1).
        if self.status & (status::DRIVER | status::FEATURES_OK) != status::DRIVER {
            return;
        }
        let shift = match self.driver_features_sel {
            0 => 0,
            1 => 32,
            _ => return,
        };
        let keep = !(u64::from(u32::MAX) << shift);
        self.driver_features = self.driver_features & keep | u64::from(value) << shift;
    }

    fn queue_index(&self) -> usize {
        usize::try_from(self.queue_sel).unwrap_or(usize::MAX)
    }

    fn queue_num_max(&self) -> u32 {
        self.device.queue_sizes().get(self.queue_index()).copied().map_or(0, u32::from)
    }

    /// Changes the selected queue while that is legal: between FEATURES_OK and DRIVER_OK.
    fn configure_queue(&mut self, change: impl FnOnce(&mut QueueConfig)) {
        let window = status::FEATURES_OK | status::DRIVER_OK | status::FAILED;
        if self.status & window != status::FEATURES_OK {
            return;
        }
        let index = self.queue_index();
        if let Some(queue) = self.queues.get_mut(index) {
            change(queue);
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.device.device_type(),
            0x0c => VENDOR,
            0x10 => Self::select_feature_word(self.device.features(), self.device_features_sel),
            0x34 => self.queue_num_max(),
            0x44 => self.queues.get(self.queue_index()).map_or(0, |q| u32::from(q.ready)),
            INTERRUPT_STATUS => self.signal.status(),
            0x70 => self.status,
            // No shared memory region exists: length and base read as all ones (4.2.2.2).
            0xb0..=0xbc => u32::MAX,
            0xfc => self.config_generation,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let low = |field: &mut u64| *field = *field & !u64::from(u32::MAX) | u64::from(value);
        let high = |field: &mut u64| *field = *field & u64::from(u32::MAX) | u64::from(value) << 32;
        match offset {
            0x14 => self.device_features_sel = value,
            0x20 => self.write_driver_features(value),
            0x24 => self.driver_features_sel = value,
            0x30 => self.queue_sel = value,
            // A size that does not fit is kept as one no ring can have, and refused at DRIVER_OK.
            0x38 => self.configure_queue(|q| q.size = value.try_into().unwrap_or(0)),
            0x44 => self.configure_queue(|q| q.ready = value & 1 != 0),
            QUEUE_NOTIFY => self.kick(value.try_into().unwrap_or(usize::MAX)),
            INTERRUPT_ACK => self.signal.acknowledge(value),
            0x70 => self.set_status(value),
            0x80 => self.configure_queue(|q| low(&mut q.desc)),
            0x84 => self.configure_queue(|q| high(&mut q.desc)),
            0x90 => self.configure_queue(|q| low(&mut q.avail)),
            0x94 => self.configure_queue(|q| high(&mut q.avail)),
            0xa0 => self.configure_queue(|q| low(&mut q.used)),
            0xa4 => self.configure_queue(|q| high(&mut q.used)),
            _ => {}
        }
    }
}

impl BusDevice for MmioTransport {
    /// Registers are read four bytes at a time, aligned (section 4.2.2.2); other reads yield 0.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            return self.device.read_config(offset, data);
        }
        data.fill(0);
        if let Ok(word) = <&mut [u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            *word = self.read_register(offset).to_le_bytes();
        }
    }

    /// As for reads; other writes are dropped.
    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            return self.device.write_config(offset, data);
        }
        if let Ok(word) = <[u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }
}

#[cfg(test)]
mod tests;
