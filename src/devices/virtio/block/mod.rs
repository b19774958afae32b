//! The virtio block device (virtio 1.3, section 5.2) on a raw image.

mod answer;
mod disk;
mod files;
mod overlay;
mod pending;
mod request;
#[cfg(test)]
pub(crate) mod tests;
mod transfer;
mod uring;

pub use answer::BlockCounters;
#[cfg(any(test, fuzzing))]
pub(crate) use disk::Zeroes;
pub use disk::{Disk, DiskError, SECTOR};
pub use request::ID_LEN;

use std::sync::Arc;

use tracing::warn;

use super::batch::{Begun, Budget};
use super::chain::Chain;
use super::device::{
    Activation, BackendFd, Change, Progress, RING_FEATURES, UpdateError, VirtioDevice, Visible,
    read_config_bytes,
};
use super::queue::{Queue, QueueError};
use crate::config::{self, Engine};
use crate::metrics::Counters;
use pending::Pending;
use request::{Executor, Task};

const DEVICE_TYPE: u32 = 2;
const QUEUE_SIZE: u16 = 256;

const F_SIZE_MAX: u64 = 1 << 1;
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// Longest data segment of a request, in bytes.
const SIZE_MAX: u32 = 128 << 10;
/// Most data segments of a request: what the queue holds besides header and status.
const SEG_MAX: u32 = 254;
/// Most data of a request, in bytes: what a driver within the two limits above can ask for,
/// rounded up. It bounds the time one request holds the event loop.
const MAX_DATA_LEN: u64 = 32 << 20;
/// Most sectors of one discard segment (1 GiB).
const MAX_DISCARD_SECTORS: u32 = 2 << 20;
/// Most segments of a discard.
const MAX_SEGMENTS: u32 = 16;
/// Most sectors of a write-zeroes segment (16 MiB), which may have to be written out in full.
const MAX_WRITE_ZEROES_SECTORS: u32 = 32 << 10;
/// Most segments of a write-zeroes request.
const MAX_WRITE_ZEROES_SEGMENTS: u32 = 1;
/// Discards are best aligned to 4 KiB, the block of the usual host file systems.
const DISCARD_ALIGNMENT: u32 = 8;

const CONFIG_LEN: usize = 60;
const BUDGET: Budget = Budget { chains: 64, bytes: 4 << 20 };

/// A block device.
pub struct Block {
    executor: Executor,
    config: [u8; CONFIG_LEN],
    queue_sizes: Vec<u16>,
    engine: Engine,
    /// Made when it is first needed.
    pending: Option<Pending>,
    active: Option<Activation>,
    chain: Chain,
    counters: Arc<BlockCounters>,
}

impl Block {
    /// A block device on `disk` that reports `id` as its identity: at most [`ID_LEN`] bytes are
    /// used.
    pub fn new(disk: Disk, id: &str) -> Self {
        let mut padded = [0; ID_LEN];
        padded.iter_mut().zip(id.bytes()).for_each(|(to, from)| *to = from);
        Self {
            config: config_space(&disk, 1),
            queue_sizes: vec![QUEUE_SIZE],
            executor: Executor::new(disk, padded),
            engine: Engine::Sync,
            pending: None,
            active: None,
            chain: Chain::default(),
            counters: Arc::default(),
        }
    }

    /// Moves data by `engine`, where the host has it.
    #[must_use]
    pub fn with_engine(self, engine: Engine) -> Self {
        Self { engine, ..self }
    }

    /// Has `count` queues, for a driver with many CPUs: 1 to [`config::Disk::MAX_QUEUES`].
    #[must_use]
    pub fn with_queues(self, count: u16) -> Self {
        let count = usize::from(count.clamp(1, config::Disk::MAX_QUEUES));
        let config = config_space(self.executor.disk(), count);
        Self { config, queue_sizes: vec![QUEUE_SIZE; count], ..self }
    }

    /// The size of the blocks the host does well, where that is more than a sector and fits the disk.
    fn block_size(disk: &Disk) -> Option<u32> {
        let size = disk.block_size();
        let fits = (disk.sectors() * SECTOR).is_multiple_of(size.into());
        (u64::from(size) > SECTOR && fits).then_some(size)
    }

    /// Gets the ring that `engine` asks for. Without one the device works all the same.
    fn prepare_ring(&mut self) {
        if self.engine != Engine::IoUring
            || self.pending.is_some()
            || self.executor.disk().is_overlay()
        {
            return;
        }
        match Pending::new(self.executor.disk(), &self.queue_sizes) {
            Ok(pending) => self.pending = Some(pending),
            Err(e) => {
                let path = self.executor.disk().path().display();
                warn!("disk image {path}: no io_uring ({e}): using engine=sync");
                self.engine = Engine::Sync;
            }
        }
    }

    /// Puts the available requests of queue `index` under way.
    fn begin(&mut self, index: usize) -> Result<Progress, QueueError> {
        let (Some(active), Some(pending)) = (&mut self.active, &mut self.pending) else {
            return Ok(Progress::Idle);
        };
        let (executor, counters) = (&mut self.executor, &*self.counters);
        let progress = active.begin(index, BUDGET, &mut self.chain, |mem, chain| {
            let place = (index, chain.head());
            if pending.has(place.0, place.1) {
                return Err(QueueError::Device("chain is offered while it is under way"));
            }
            let (task, answer) = executor.begin(mem, chain)?;
            match task {
                Task::Finished(outcome) => answer.give(mem, outcome, counters).map(Begun::Done),
                task => {
                    pending.start(executor, place, (task, answer))?;
                    Ok(Begun::UnderWay { moves: answer.moved })
                }
            }
        });
        pending.submit_all(executor, active, counters)?;
        progress
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        let mut common = RING_FEATURES | F_SIZE_MAX | F_SEG_MAX | F_FLUSH;
        if self.queue_sizes.len() > 1 {
            common |= F_MQ;
        }
        if Self::block_size(self.executor.disk()).is_some() {
            common |= F_BLK_SIZE;
        }
        match self.executor.disk().readonly() {
            true => common | F_RO,
            false => common | F_DISCARD | F_WRITE_ZEROES,
        }
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn update(&mut self, change: &Change) -> Result<Visible, UpdateError> {
        if *change != Change::DiskSize {
            return Err(UpdateError::Unsupported);
        }
        let changed = self.executor.disk_mut().measure().map_err(|e| cannot_measure(&e))?;
        self.config = config_space(self.executor.disk(), self.queue_sizes.len());
        Ok(if changed { Visible::Config } else { Visible::Nothing })
    }

    fn thread_name(&self) -> Option<&'static str> {
        Some("disk")
    }

    fn activate(&mut self, activation: Activation) {
        self.executor.negotiate(activation.features);
        self.prepare_ring();
        if let Some(pending) = &mut self.pending {
            pending.activate(&activation.mem);
        }
        self.active = Some(activation);
    }

    fn deactivate(&mut self) -> Option<Vec<Queue>> {
        if let Some(pending) = &mut self.pending {
            pending.drain();
        }
        self.active.take().map(|active| active.queues)
    }

    fn process_queue(&mut self, index: usize) -> Result<Progress, QueueError> {
        if self.pending.is_some() {
            return self.begin(index);
        }
        let Some(active) = &mut self.active else { return Ok(Progress::Idle) };
        let (executor, counters) = (&mut self.executor, &*self.counters);
        active.drain(index, BUDGET, &mut self.chain, |mem, chain| {
            let (task, answer) = executor.begin(mem, chain)?;
            answer.give(mem, executor.run(mem, task), counters)
        })
    }

    fn backend_fds(&self, wanted: &mut Vec<BackendFd>) {
        wanted.extend(self.pending.as_ref().map(Pending::backend_fd));
    }

    fn process_backend(&mut self, _index: usize) -> Result<(), QueueError> {
        match (&mut self.active, &mut self.pending) {
            (Some(active), Some(pending)) => {
                pending.complete(&mut self.executor, active, &self.counters)
            }
            _ => Ok(()),
        }
    }

    fn counters(&self) -> Option<Arc<dyn Counters>> {
        Some(self.counters.clone())
    }
}

fn cannot_measure(error: &DiskError) -> UpdateError {
    let what = error.to_string();
    let source = match error {
        DiskError::Size { source, .. } => (*source).into(),
        // Too small: the message says it all.
        _ => std::io::ErrorKind::InvalidInput.into(),
    };
    UpdateError::Host { what, source }
}

/// struct virtio_blk_config (section 5.2.4), little endian.
fn config_space(disk: &Disk, queues: usize) -> [u8; CONFIG_LEN] {
    let mut config = [0; CONFIG_LEN];
    let words = [
        (8, SIZE_MAX),
        (12, SEG_MAX),
        (20, Block::block_size(disk).unwrap_or(0)),
        (36, MAX_DISCARD_SECTORS),
        (40, MAX_SEGMENTS),
        (44, DISCARD_ALIGNMENT),
        (48, MAX_WRITE_ZEROES_SECTORS),
        (52, MAX_WRITE_ZEROES_SEGMENTS),
        // write_zeroes_may_unmap, with its padding.
        (56, 1),
    ];
    put(&mut config, 0, &disk.sectors().to_le_bytes());
    put(&mut config, 34, &u16::try_from(queues).unwrap_or(1).to_le_bytes());
    for (offset, word) in words {
        put(&mut config, offset, &word.to_le_bytes());
    }
    config
}

fn put(config: &mut [u8], offset: usize, bytes: &[u8]) {
    config.iter_mut().skip(offset).zip(bytes).for_each(|(to, from)| *to = *from);
}
