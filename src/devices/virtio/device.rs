//! The contract between a virtio device and the transport around it.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use thiserror::Error;

use super::queue::{Queue, QueueError};
use super::throttle::{Direction, Throttles};
use crate::bus::Interrupt;
use crate::memory::GuestMemory;
use crate::metrics::{Counters, counters};
use crate::rate_limiter::Rate;

/// VIRTIO_F_VERSION_1: every driver must accept it (virtio 1.3, section 6).
pub const F_VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_INDIRECT_DESC.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// The ring features every device here offers.
pub const RING_FEATURES: u64 = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX;

const INT_USED_BUFFER: u32 = 1;
const INT_CONFIG_CHANGE: u32 = 2;

counters! {
    /// What happens between a driver and any device.
    pub struct TransportCounters {
        /// Notifications of the driver that were handled.
        kicks,
        /// Interrupts the driver got.
        interrupts,
        /// Times the driver wanted no interrupt for what was finished.
        interrupts_suppressed,
        /// Times the device needed a reset.
        breakdowns,
    }
}

/// The interrupt status register and the line behind it, shared by a device and its transport.
pub struct Signal {
    status: AtomicU32,
    line: Box<dyn Interrupt>,
    counters: TransportCounters,
}

impl Signal {
    /// A signal that raises `line`.
    pub fn new(line: Box<dyn Interrupt>) -> Self {
        Self { status: AtomicU32::new(0), line, counters: TransportCounters::default() }
    }

    /// What has happened.
    pub fn counters(&self) -> &TransportCounters {
        &self.counters
    }

    /// Says that a queue has new used buffers.
    pub fn used_buffer(&self) {
        self.raise(INT_USED_BUFFER);
    }

    /// Says that the configuration space or the device status changed.
    pub fn config_change(&self) {
        self.raise(INT_CONFIG_CHANGE);
    }

    /// The InterruptStatus register.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// Clears the bits of `mask` (InterruptACK); bits that are not set stay so.
    pub fn acknowledge(&self, mask: u32) {
        self.status.fetch_and(!mask, Ordering::AcqRel);
    }

    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::AcqRel);
        self.counters.interrupts.inc();
        self.line.trigger();
    }
}

/// What a device gets when the driver has finished its set-up (DRIVER_OK).
pub struct Activation {
    /// Guest memory.
    pub mem: GuestMemory,
    /// The queues, in the device type's order; moved in, and out again by `deactivate`.
    pub queues: Vec<Queue>,
    /// The negotiated features: a subset of what the device offered.
    pub features: u64,
    /// How the driver is told.
    pub signal: Arc<Signal>,
    /// What may pass.
    pub throttles: Throttles,
}

/// How far a device came with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left to do until the next event.
    Idle,
    /// The budget of one wake is spent, and more is waiting: call again after the others.
    More,
}

/// A host file descriptor a device waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendFd {
    /// The descriptor; the device keeps it open while it exists.
    pub fd: RawFd,
    /// Wait until it can be read.
    pub readable: bool,
    /// Wait until it can be written.
    pub writable: bool,
}

/// What may change in a device while its machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// How much may pass; the transport's part of every device.
    Limit {
        /// In which direction.
        direction: Direction,
        /// Bytes, unlimited when absent.
        bytes: Option<Rate>,
        /// Requests, frames or packets, unlimited when absent.
        operations: Option<Rate>,
    },
    /// The memory the balloon should take from the guest, in MiB.
    BalloonTarget(u32),
    /// The size of the disk's file: the device reads it again.
    DiskSize,
    /// The size of the terminal behind the console, in characters.
    ConsoleSize {
        /// Characters of a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
}

/// What a driver sees of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visible {
    /// Nothing in the configuration space.
    Nothing,
    /// The configuration space reads differently now.
    Config,
}

/// Why a device cannot change.
#[derive(Debug, Error)]
pub enum UpdateError {
    /// Devices of this kind have no such property.
    #[error("the device has nothing like that to change")]
    Unsupported,
    /// The device is working on something that the host does not finish.
    #[error("the device waits for the host")]
    Busy,
    /// The host refused.
    #[error("{what}")]
    Host {
        /// What was being done, and to what.
        what: String,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}

/// What a device does, apart from its registers, rings and events, which the transport owns.
///
/// An error from a `process_*` function means a broken ring or backend: the transport then sets
/// DEVICE_NEEDS_RESET on this device alone, and a driver reset brings it back.
pub trait VirtioDevice: Send {
    /// Device type number (virtio 1.3, section 5).
    fn device_type(&self) -> u32;

    /// Features offered, ring features included.
    fn features(&self) -> u64;

    /// The largest size of each queue, in entries; a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the device configuration space; what lies past its end reads as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the device configuration space; a device without a field for drivers to write
    /// drops it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Takes over a change while the machine runs, whether a driver is active or not.
    ///
    /// # Errors
    /// [`UpdateError`]; the device is as before.
    fn update(&mut self, _change: &Change) -> Result<Visible, UpdateError> {
        Err(UpdateError::Unsupported)
    }

    /// What the thread is called that serves the device, for a device whose work may wait for the
    /// host longer than others should wait for theirs; `None` when the event loop serves it.
    fn thread_name(&self) -> Option<&'static str> {
        None
    }

    /// Takes the queues; from here on chains are processed.
    fn activate(&mut self, activation: Activation);

    /// Gives the queues back, once nothing of theirs is in flight any more; `None` when the
    /// device was not active.
    fn deactivate(&mut self) -> Option<Vec<Queue>>;

    /// What the device counts, to be read at any time without a lock.
    fn counters(&self) -> Option<Arc<dyn Counters>> {
        None
    }

    /// Works on queue `index` after a kick.
    ///
    /// # Errors
    /// The device needs a reset.
    fn process_queue(&mut self, index: usize) -> Result<Progress, QueueError>;

    /// Lists the descriptors the device waits for now; asked again after every event. One that is
    /// neither to be read nor to be written is not waited for, and keeps the places of others.
    fn backend_fds(&self, _wanted: &mut Vec<BackendFd>) {}

    /// Works on the descriptor listed at `index`, which is ready; what is left when the budget of
    /// one wake is spent keeps it ready.
    ///
    /// # Errors
    /// The device needs a reset.
    fn process_backend(&mut self, _index: usize) -> Result<(), QueueError> {
        Ok(())
    }
}

/// Copies from a configuration space `config` what lies at `offset`; zero past its end.
pub fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Some(rest) = usize::try_from(offset).ok().and_then(|at| config.get(at..)) else { return };
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}
