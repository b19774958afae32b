//! One block request: what it asks for, and doing it (virtio 1.3, section 5.2.6).

use std::io::{IoSlice, IoSliceMut};

use tracing::debug;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::disk::{Disk, SECTOR, Zeroes};
use super::{
    F_DISCARD, F_FLUSH, F_WRITE_ZEROES, MAX_DATA_LEN, MAX_DISCARD_SECTORS, MAX_SEGMENTS,
    MAX_WRITE_ZEROES_SECTORS, MAX_WRITE_ZEROES_SEGMENTS,
};
use crate::devices::virtio::batch::Done;
use crate::devices::virtio::chain::{Chain, take_header};
use crate::devices::virtio::iovec::{recycle, recycle_mut, take_last_byte, write_ranges};
use crate::devices::virtio::queue::QueueError;
use crate::memory::{GuestMemory, GuestRange, push_io_slices, push_io_slices_mut};

/// Length of the device identity string (section 5.2.6).
pub const ID_LEN: usize = 20;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;
const SEGMENT_LEN: u32 = 16;
const SEGMENT_UNMAP: u32 = 1;

/// How a request failed, as its status byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// VIRTIO_BLK_S_IOERR: an error of the disk or of the driver.
    Io,
    /// VIRTIO_BLK_S_UNSUPP: not a request this device knows.
    Unsupported,
}

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

/// Executes requests on a disk; keeps its lists so that no request allocates.
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

    /// Takes the negotiated features, which decide what is allowed.
    pub(super) fn negotiate(&mut self, features: u64) {
        self.features = features;
    }

    /// Does what `chain` asks and writes its status byte.
    ///
    /// # Errors
    /// A chain that is no block request: without a status byte, or without a whole header.
    pub(super) fn execute(&mut self, mem: &GuestMemory, chain: &Chain) -> Result<Done, QueueError> {
        self.writable.clear();
        self.writable.extend_from_slice(chain.writable());
        let status_at = take_last_byte(&mut self.writable)
            .ok_or(QueueError::Device("block request without a status byte"))?;
        let header = take_header(mem, chain.readable(), &mut self.readable);
        let Some(header) = header.map_err(QueueError::Memory)?.map(Header::parse) else {
            write_status(mem, status_at, Err(Failure::Io)).map_err(QueueError::Memory)?;
            return Err(QueueError::Device("block request without a whole header"));
        };
        let mut written = 0;
        let result = self.perform(mem, header, &mut written);
        if let Err(failure) = result {
            debug!("block request {header:?}: {failure:?}");
        }
        write_status(mem, status_at, result).map_err(QueueError::Memory)?;
        // The status byte lies behind the data: it counts only when no gap is before it.
        let before_status = u64::from(chain.writable_len()) - 1;
        let used_len = if written == before_status { written + 1 } else { written };
        Ok(Done {
            used_len: u32::try_from(used_len).unwrap_or(u32::MAX),
            moved: total(&self.readable) + before_status,
        })
    }

    /// Does the request; `written` tells how many bytes of guest memory it filled, even when it
    /// failed.
    fn perform(
        &mut self,
        mem: &GuestMemory,
        header: Header,
        written: &mut u64,
    ) -> Result<(), Failure> {
        match header.kind {
            T_IN => self.read(mem, header.sector, written),
            T_OUT => self.write(mem, header.sector),
            T_FLUSH => self.disk.flush().map_err(io_failure),
            T_GET_ID => self.get_id(mem, written),
            T_DISCARD if self.features & F_DISCARD != 0 => self.discard(mem),
            T_WRITE_ZEROES if self.features & F_WRITE_ZEROES != 0 => self.write_zeroes(mem),
            _ => Err(Failure::Unsupported),
        }
    }

    fn read(&mut self, mem: &GuestMemory, sector: u64, written: &mut u64) -> Result<(), Failure> {
        let offset = self.data_offset(sector, total(&self.writable))?;
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

    fn write(&mut self, mem: &GuestMemory, sector: u64) -> Result<(), Failure> {
        self.refuse_readonly()?;
        let offset = self.data_offset(sector, total(&self.readable))?;
        let mut list = recycle(std::mem::take(&mut self.write_list));
        push_io_slices(mem, &self.readable, &mut list).map_err(|_| Failure::Io)?;
        let result = self.disk.write(&mut list, offset);
        self.write_list = recycle(list);
        result.map_err(|incomplete| io_failure(incomplete.source))?;
        self.commit()
    }

    /// A driver that cannot flush relies on completed writes being durable (section 5.2.6.2).
    fn commit(&mut self) -> Result<(), Failure> {
        match self.features & F_FLUSH {
            0 => self.disk.flush().map_err(io_failure),
            _ => Ok(()),
        }
    }

    fn get_id(&self, mem: &GuestMemory, written: &mut u64) -> Result<(), Failure> {
        if total(&self.writable) < u64::try_from(ID_LEN).unwrap_or(u64::MAX) {
            return Err(Failure::Io);
        }
        let len = write_ranges(mem, &self.writable, 0, &self.id).map_err(|_| Failure::Io)?;
        *written = u64::from(len);
        Ok(())
    }

    fn discard(&mut self, mem: &GuestMemory) -> Result<(), Failure> {
        self.refuse_readonly()?;
        self.load_segments(mem, MAX_SEGMENTS)?;
        self.check_segments(MAX_DISCARD_SECTORS, 0)?;
        for segment in &self.segments {
            let offset = self.disk.offset_of(segment.sector, segment.len()).ok_or(Failure::Io)?;
            self.disk.discard(offset, segment.len()).map_err(io_failure)?;
        }
        self.commit()
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
        self.commit()
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

fn io_failure(source: rustix::io::Errno) -> Failure {
    debug!("disk: {source}");
    Failure::Io
}

fn write_status(
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
