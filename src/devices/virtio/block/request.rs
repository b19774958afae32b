//! One block request: what it asks for, and doing it (virtio 1.3, section 5.2.6).

use std::io::{IoSlice, IoSliceMut};

use tracing::debug;

use super::answer::{
    Answer, Failure, Outcome, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT, T_WRITE_ZEROES,
    io_failure, write_status,
};
use super::disk::{Disk, SECTOR, Zeroes};
use super::{
    F_DISCARD, F_FLUSH, F_WRITE_ZEROES, MAX_DATA_LEN, MAX_DISCARD_SECTORS, MAX_SEGMENTS,
    MAX_WRITE_ZEROES_SECTORS, MAX_WRITE_ZEROES_SEGMENTS,
};
use crate::devices::virtio::chain::{Chain, take_header};
use crate::devices::virtio::iovec::{recycle, recycle_mut, take_last_byte, write_ranges};
use crate::devices::virtio::queue::QueueError;
use crate::memory::{GuestMemory, GuestRange, push_io_slices, push_io_slices_mut};

/// Length of the device identity string (section 5.2.6).
pub const ID_LEN: usize = 20;

const SEGMENT_LEN: u32 = 16;
const SEGMENT_UNMAP: u32 = 1;

/// The header of a request.
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: u32,
    sector: u64,
}

impl Header {
    fn parse(raw: [u8; 16]) -> Self {
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = raw;
        Self { kind: u32::from_le_bytes([k0, k1, k2, k3]), sector: u64::from_le_bytes(sector) }
    }
}

/// One range of a discard or write-zeroes request.
#[derive(Clone, Copy, Debug)]
struct Segment {
    sector: u64,
    sectors: u32,
    flags: u32,
}

impl Segment {
    fn parse(raw: [u8; 16]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = raw;
        Self {
            sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            sectors: u32::from_le_bytes([n0, n1, n2, n3]),
            flags: u32::from_le_bytes(flags),
        }
    }

    fn len(self) -> u64 {
        u64::from(self.sectors) * SECTOR
    }
}

/// What remains to be done for a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// Read from byte `offset` into the buffers.
    Read { offset: u64 },
    /// Write the buffers from byte `offset` on; `durable`: and flush.
    Write { offset: u64, durable: bool },
    /// Make completed writes durable.
    Flush,
    /// Nothing.
    Finished(Outcome),
}

/// Understands requests to a disk, and does those that are done at once. Keeps its lists so that no
/// request allocates.
pub(super) struct Executor {
    disk: Disk,
    id: [u8; ID_LEN],
    features: u64,
    readable: Vec<GuestRange>,
    writable: Vec<GuestRange>,
    segments: Vec<Segment>,
    read_list: Vec<IoSliceMut<'static>>,
    write_list: Vec<IoSlice<'static>>,
}

impl Executor {
    /// An executor on `disk` that reports `id`.
    pub(super) fn new(disk: Disk, id: [u8; ID_LEN]) -> Self {
        Self {
            disk,
            id,
            features: 0,
            readable: Vec::new(),
            writable: Vec::new(),
            segments: Vec::new(),
            read_list: Vec::new(),
            write_list: Vec::new(),
        }
    }

    /// The disk.
    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The disk, for what comes of its transfers.
    pub(super) fn disk_mut(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// Takes the negotiated features, which decide what is allowed.
    pub(super) fn negotiate(&mut self, features: u64) {
        self.features = features;
    }

    /// The buffers of the request begun last, for its task.
    pub(super) fn buffers(&self, task: Task) -> &[GuestRange] {
        match task {
            Task::Read { .. } => &self.writable,
            Task::Write { .. } => &self.readable,
            Task::Flush | Task::Finished(_) => &[],
        }
    }

    /// Checks what `chain` asks for, and does it unless it moves data or waits for data.
    ///
    /// # Errors
    /// A chain that is no block request: without a status byte, or without a whole header.
    pub(super) fn begin(
        &mut self,
        mem: &GuestMemory,
        chain: &Chain,
    ) -> Result<(Task, Answer), QueueError> {
        self.writable.clear();
        self.writable.extend_from_slice(chain.writable());
        let status_at = take_last_byte(&mut self.writable)
            .ok_or(QueueError::Device("block request without a status byte"))?;
        let header = take_header(mem, chain.readable(), &mut self.readable);
        let Some(header) = header.map_err(QueueError::Memory)?.map(Header::parse) else {
            write_status(mem, status_at, Err(Failure::Io)).map_err(QueueError::Memory)?;
            return Err(QueueError::Device("block request without a whole header"));
        };
        let before_status = u64::from(chain.writable_len()) - 1;
        let moved = total(&self.readable) + before_status;
        let answer = Answer { kind: header.kind, status_at, before_status, moved };
        let task = self.task(mem, header).unwrap_or_else(|failure| {
            debug!("block request {header:?}: {failure:?}");
            Task::Finished(Outcome { written: 0, result: Err(failure) })
        });
        Ok((task, answer))
    }

    fn task(&mut self, mem: &GuestMemory, header: Header) -> Result<Task, Failure> {
        let durable = self.features & F_FLUSH == 0;
        match header.kind {
            T_IN => self
                .data_offset(header.sector, total(&self.writable))
                .map(|offset| Task::Read { offset }),
            T_OUT => {
                self.refuse_readonly()?;
                let offset = self.data_offset(header.sector, total(&self.readable))?;
                Ok(Task::Write { offset, durable })
            }
            T_FLUSH => Ok(Task::Flush),
            T_GET_ID => self.get_id(mem),
            T_DISCARD if self.features & F_DISCARD != 0 => {
                self.discard(mem).map(|()| self.changed())
            }
            T_WRITE_ZEROES if self.features & F_WRITE_ZEROES != 0 => {
                self.write_zeroes(mem).map(|()| self.changed())
            }
            _ => Err(Failure::Unsupported),
        }
    }

    /// What is left after a change: a driver that cannot flush relies on completed writes being
    /// durable (section 5.2.6.2).
    fn changed(&self) -> Task {
        match self.features & F_FLUSH {
            0 => Task::Flush,
            _ => Task::Finished(Outcome { written: 0, result: Ok(()) }),
        }
    }

    /// Does `task` of the request begun last, and waits for that.
    pub(super) fn run(&mut self, mem: &GuestMemory, task: Task) -> Outcome {
        let mut written = 0;
        let result = match task {
            Task::Read { offset } => self.read(mem, offset, &mut written),
            Task::Write { offset, durable } => self.write(mem, offset, durable),
            Task::Flush => self.disk.flush().map_err(io_failure),
            Task::Finished(outcome) => return outcome,
        };
        Outcome { written, result }
    }

    fn read(&mut self, mem: &GuestMemory, offset: u64, written: &mut u64) -> Result<(), Failure> {
        let mut list = recycle_mut(std::mem::take(&mut self.read_list));
        push_io_slices_mut(mem, &self.writable, &mut list).map_err(|_| Failure::Io)?;
        let result = self.disk.read(&mut list, offset);
        self.read_list = recycle_mut(list);
        let (done, result) = match result {
            Ok(done) => (done, Ok(())),
            Err(incomplete) => (incomplete.done, Err(io_failure(incomplete.source))),
        };
        *written = done;
        result
    }

    fn write(&mut self, mem: &GuestMemory, offset: u64, durable: bool) -> Result<(), Failure> {
        let mut list = recycle(std::mem::take(&mut self.write_list));
        push_io_slices(mem, &self.readable, &mut list).map_err(|_| Failure::Io)?;
        let result = self.disk.write(&mut list, offset);
        self.write_list = recycle(list);
        result.map_err(|incomplete| io_failure(incomplete.source))?;
        if durable { self.disk.flush().map_err(io_failure) } else { Ok(()) }
    }

    fn get_id(&self, mem: &GuestMemory) -> Result<Task, Failure> {
        if total(&self.writable) < u64::try_from(ID_LEN).unwrap_or(u64::MAX) {
            return Err(Failure::Io);
        }
        let len = write_ranges(mem, &self.writable, 0, &self.id).map_err(|_| Failure::Io)?;
        Ok(Task::Finished(Outcome { written: u64::from(len), result: Ok(()) }))
    }

    fn discard(&mut self, mem: &GuestMemory) -> Result<(), Failure> {
        self.refuse_readonly()?;
        self.load_segments(mem, MAX_SEGMENTS)?;
        self.check_segments(MAX_DISCARD_SECTORS, 0)?;
        for segment in &self.segments {
            let offset = self.disk.offset_of(segment.sector, segment.len()).ok_or(Failure::Io)?;
            self.disk.discard(offset, segment.len()).map_err(io_failure)?;
        }
        Ok(())
    }

    fn write_zeroes(&mut self, mem: &GuestMemory) -> Result<(), Failure> {
        self.refuse_readonly()?;
        self.load_segments(mem, MAX_WRITE_ZEROES_SEGMENTS)?;
        self.check_segments(MAX_WRITE_ZEROES_SECTORS, SEGMENT_UNMAP)?;
        for segment in &self.segments {
            let offset = self.disk.offset_of(segment.sector, segment.len()).ok_or(Failure::Io)?;
            let mode = match segment.flags & SEGMENT_UNMAP {
                0 => Zeroes::Keep,
                _ => Zeroes::Unmap,
            };
            self.disk.write_zeroes(offset, segment.len(), mode).map_err(io_failure)?;
        }
        Ok(())
    }

    fn load_segments(&mut self, mem: &GuestMemory, max: u32) -> Result<(), Failure> {
        let len = total(&self.readable);
        let count = len / u64::from(SEGMENT_LEN);
        if count == 0 || count > u64::from(max) || !len.is_multiple_of(SEGMENT_LEN.into()) {
            return Err(Failure::Io);
        }
        self.segments.clear();
        let mut rest = Vec::new();
        for _ in 0..count {
            let raw = take_header(mem, &self.readable, &mut rest).map_err(|_| Failure::Io)?;
            self.segments.push(Segment::parse(raw.ok_or(Failure::Io)?));
            std::mem::swap(&mut self.readable, &mut rest);
        }
        Ok(())
    }

    /// Checks all segments before any is acted on.
    fn check_segments(&self, max_sectors: u32, known_flags: u32) -> Result<(), Failure> {
        for segment in &self.segments {
            if segment.flags & !known_flags != 0 {
                return Err(Failure::Unsupported);
            }
            let inside = self.disk.offset_of(segment.sector, segment.len()).is_some();
            if segment.sectors > max_sectors || !inside {
                return Err(Failure::Io);
            }
        }
        Ok(())
    }

    fn refuse_readonly(&self) -> Result<(), Failure> {
        if self.disk.readonly() { Err(Failure::Io) } else { Ok(()) }
    }

    /// Where a transfer of `len` bytes at `sector` begins, once it is checked.
    fn data_offset(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        if len == 0 || !len.is_multiple_of(SECTOR) || len > MAX_DATA_LEN {
            return Err(Failure::Io);
        }
        self.disk.offset_of(sector, len).ok_or(Failure::Io)
    }
}

fn total(ranges: &[GuestRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.len)).sum()
}
