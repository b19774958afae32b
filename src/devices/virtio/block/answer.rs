//! How a request ends: its status byte, its used length, and what is counted.

use tracing::debug;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::devices::virtio::batch::Done;
use crate::devices::virtio::queue::QueueError;
use crate::memory::GuestMemory;
use crate::metrics::counters;

pub(super) const T_IN: u32 = 0;
pub(super) const T_OUT: u32 = 1;
pub(super) const T_FLUSH: u32 = 4;
pub(super) const T_GET_ID: u32 = 8;
pub(super) const T_DISCARD: u32 = 11;
pub(super) const T_WRITE_ZEROES: u32 = 13;

/// How a request failed, as its status byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// VIRTIO_BLK_S_IOERR: an error of the disk or of the driver.
    Io,
    /// VIRTIO_BLK_S_UNSUPP: not a request this device knows.
    Unsupported,
}

counters! {
    /// What a disk has done for its guest.
    pub struct BlockCounters {
        /// Reads that succeeded.
        reads,
        /// Writes that succeeded.
        writes,
        /// Flushes that succeeded.
        flushes,
        /// Discards that succeeded.
        discards,
        /// Write-zeroes requests that succeeded.
        write_zeroes,
        /// Bytes read.
        read_bytes,
        /// Bytes written, without zeroes.
        written_bytes,
        /// Requests answered IOERR.
        errors,
        /// Requests answered UNSUPP.
        unsupported,
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// Bytes of guest memory filled without a gap, also when it failed.
    pub(super) written: u64,
    pub(super) result: Result<(), Failure>,
}

/// Where the answer to a request goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) kind: u32,
    pub(super) status_at: GuestAddress,
    /// Writable bytes in front of the status byte.
    pub(super) before_status: u64,
    /// Bytes the request moves, for the budget.
    pub(super) moved: u64,
}

impl Answer {
    /// Bytes of data in a read or a write.
    pub(super) fn data_len(self) -> u64 {
        match self.kind {
            T_OUT => self.moved.saturating_sub(self.before_status),
            _ => self.before_status,
        }
    }

    /// Writes the status byte.
    ///
    /// # Errors
    /// Guest memory that cannot be written, which a checked chain rules out.
    pub(super) fn give(
        self,
        mem: &GuestMemory,
        outcome: Outcome,
        counters: &BlockCounters,
    ) -> Result<Done, QueueError> {
        self.count(outcome, counters);
        write_status(mem, self.status_at, outcome.result).map_err(QueueError::Memory)?;
        // The status byte lies behind the data: it counts only when no gap is before it.
        let written = outcome.written;
        let used_len = if written == self.before_status { written + 1 } else { written };
        Ok(Done { used_len: u32::try_from(used_len).unwrap_or(u32::MAX), moved: self.moved })
    }

    fn count(self, outcome: Outcome, counters: &BlockCounters) {
        let count = match (outcome.result, self.kind) {
            (Err(Failure::Io), _) => &counters.errors,
            (Err(Failure::Unsupported), _) => &counters.unsupported,
            (Ok(()), T_IN) => {
                counters.read_bytes.add(outcome.written);
                &counters.reads
            }
            (Ok(()), T_OUT) => {
                counters.written_bytes.add(self.data_len());
                &counters.writes
            }
            (Ok(()), T_FLUSH) => &counters.flushes,
            (Ok(()), T_DISCARD) => &counters.discards,
            (Ok(()), T_WRITE_ZEROES) => &counters.write_zeroes,
            (Ok(()), _) => return,
        };
        count.inc();
    }
}

pub(super) fn io_failure(source: rustix::io::Errno) -> Failure {
    debug!("disk: {source}");
    Failure::Io
}

pub(super) fn write_status(
    mem: &GuestMemory,
    at: GuestAddress,
    result: Result<(), Failure>,
) -> Result<(), GuestMemoryError> {
    let status: u8 = match result {
        Ok(()) => 0,
        Err(Failure::Io) => 1,
        Err(Failure::Unsupported) => 2,
    };
    mem.write_obj(status, at)
}
