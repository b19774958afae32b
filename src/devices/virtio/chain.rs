//! The one checked reader of descriptor chains (virtio 1.3, section 2.7.5).
//!
//! Every descriptor is copied out of guest memory once and checked before anything acts on it:
//! what the guest writes afterwards is never looked at again.

use thiserror::Error;
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::iovec::cut_front;
use crate::memory::{GuestMemory, GuestRange};

const DESC_SIZE: u64 = 16;
const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const F_INDIRECT: u16 = 4;

/// A chain that breaks the rules. The device that meets one needs a reset; nothing else does.
#[derive(Debug, Error)]
pub enum ChainError {
    /// An index names a descriptor beyond the table.
    #[error("descriptor index {index} is beyond the table of {size}")]
    Index {
        /// The index the guest gave.
        index: u16,
        /// Number of descriptors in the table.
        size: u16,
    },
    /// More descriptors than the queue has: a loop, or a driver that ignores the limit.
    #[error("chain is longer than the queue ({0} descriptors)")]
    TooLong(u16),
    /// A descriptor of no bytes.
    #[error("descriptor of zero length")]
    Empty,
    /// The lengths add up to more than 32 bits hold.
    #[error("chain holds more than 4 GiB")]
    TooLarge,
    /// A device-readable descriptor behind a device-writable one (section 2.7.4.2).
    #[error("device-readable descriptor follows a device-writable one")]
    Order,
    /// A descriptor outside guest memory, or across two regions of it.
    #[error("descriptor at {addr:#x} with {len} bytes is not guest memory")]
    Range {
        /// Guest physical address.
        addr: u64,
        /// Length in bytes.
        len: u32,
        /// What guest memory said.
        #[source]
        source: GuestMemoryError,
    },
    /// An indirect table where none may be, or one of a wrong size.
    #[error("indirect descriptor: {0}")]
    Indirect(&'static str),
    /// The descriptor table itself cannot be read.
    #[error("descriptor table cannot be read")]
    Table(#[source] GuestMemoryError),
}

/// A descriptor as it lies in guest memory (section 2.7.5), little endian.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// Where a chain starts and what limits it.
#[derive(Clone, Copy, Debug)]
pub struct ChainStart {
    /// Guest physical address of the descriptor table.
    pub table: GuestAddress,
    /// Number of descriptors in the table: also the longest chain.
    pub size: u16,
    /// Index of the first descriptor.
    pub head: u16,
    /// Whether the driver negotiated indirect descriptors.
    pub indirect: bool,
}

/// A checked chain: what the device may read, then what it may write.
///
/// Kept and refilled by its device, so that no request allocates.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    readable: Vec<GuestRange>,
    writable: Vec<GuestRange>,
    readable_len: u32,
    writable_len: u32,
}

impl Chain {
    /// Index that identifies the chain in the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Device-readable parts, in order.
    pub fn readable(&self) -> &[GuestRange] {
        &self.readable
    }

    /// Device-writable parts, in order.
    pub fn writable(&self) -> &[GuestRange] {
        &self.writable
    }

    /// Bytes in the device-readable parts.
    pub fn readable_len(&self) -> u32 {
        self.readable_len
    }

    /// Bytes in the device-writable parts.
    pub fn writable_len(&self) -> u32 {
        self.writable_len
    }

    /// Reads the chain that begins at `start` into `self`, replacing what it held.
    ///
    /// # Errors
    /// [`ChainError`]; `self` then holds no usable chain.
    pub fn read(&mut self, mem: &GuestMemory, start: ChainStart) -> Result<(), ChainError> {
        self.clear(start.head);
        let mut left = start.size;
        let mut table = Table { addr: start.table, size: start.size, indirect: false };
        let mut index = start.head;
        loop {
            left = left.checked_sub(1).ok_or(ChainError::TooLong(start.size))?;
            let desc = table.get(mem, index)?;
            if desc.flags & F_INDIRECT != 0 {
                table = table.indirect(desc, start)?;
                left = left.checked_add(1).ok_or(ChainError::TooLong(start.size))?;
                index = 0;
                continue;
            }
            self.push(mem, desc)?;
            if desc.flags & F_NEXT == 0 {
                return Ok(());
            }
            index = desc.next;
        }
    }

    fn clear(&mut self, head: u16) {
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        self.readable_len = 0;
        self.writable_len = 0;
    }

    fn push(&mut self, mem: &GuestMemory, desc: Descriptor) -> Result<(), ChainError> {
        if desc.len == 0 {
            return Err(ChainError::Empty);
        }
        let range = GuestRange { addr: GuestAddress(desc.addr), len: desc.len };
        let len = usize::try_from(desc.len).unwrap_or(usize::MAX);
        mem.get_slice(range.addr, len).map_err(|source| ChainError::Range {
            addr: desc.addr,
            len: desc.len,
            source,
        })?;
        let (ranges, total) = match desc.flags & F_WRITE {
            0 if !self.writable.is_empty() => return Err(ChainError::Order),
            0 => (&mut self.readable, &mut self.readable_len),
            _ => (&mut self.writable, &mut self.writable_len),
        };
        *total = total.checked_add(desc.len).ok_or(ChainError::TooLarge)?;
        ranges.push(range);
        self.readable_len.checked_add(self.writable_len).ok_or(ChainError::TooLarge).map(drop)
    }
}

/// The descriptor table a walk is in: the queue's own, or the one indirect table of the chain.
struct Table {
    addr: GuestAddress,
    size: u16,
    indirect: bool,
}

impl Table {
    fn get(&self, mem: &GuestMemory, index: u16) -> Result<Descriptor, ChainError> {
        if index >= self.size {
            return Err(ChainError::Index { index, size: self.size });
        }
        let addr = self
            .addr
            .0
            .checked_add(u64::from(index) * DESC_SIZE)
            .ok_or(ChainError::Index { index, size: self.size })?;
        let mut raw = [0; 16];
        mem.read_slice(&mut raw, GuestAddress(addr)).map_err(ChainError::Table)?;
        Ok(Descriptor::from_bytes(raw))
    }

    /// Enters the table `desc` points to. The WRITE flag of `desc` is ignored (2.7.5.3.2).
    fn indirect(&self, desc: Descriptor, start: ChainStart) -> Result<Self, ChainError> {
        let refuse = |why| Err(ChainError::Indirect(why));
        if !start.indirect {
            return refuse("the feature was not negotiated");
        }
        if self.indirect {
            return refuse("a table inside a table");
        }
        if desc.flags & F_NEXT != 0 {
            return refuse("it must end the chain");
        }
        let len = u64::from(desc.len);
        match u16::try_from(len / DESC_SIZE) {
            Ok(0) => refuse("the table is empty"),
            _ if len % DESC_SIZE != 0 => refuse("the table is not a multiple of 16 bytes"),
            Ok(size) if size <= start.size => {
                Ok(Self { addr: GuestAddress(desc.addr), size, indirect: true })
            }
            _ => refuse("the table is longer than the queue"),
        }
    }
}

impl Descriptor {
    fn from_bytes(raw: [u8; 16]) -> Self {
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = raw;
        Self {
            addr: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }
}

/// Copies the first `T` out of `ranges`, and cuts it off them; `None` when they hold less.
///
/// The header is copied once: a guest that changes it afterwards changes nothing.
///
/// # Errors
/// Guest memory that cannot be read, which a checked chain rules out.
pub fn take_header<T: ByteValued + Default>(
    mem: &GuestMemory,
    ranges: &[GuestRange],
    rest: &mut Vec<GuestRange>,
) -> Result<Option<T>, GuestMemoryError> {
    let mut header = T::default();
    let bytes = header.as_mut_slice();
    let whole = take_bytes(mem, ranges, bytes, rest)? == bytes.len();
    Ok(whole.then_some(header))
}

/// Copies the start of `ranges` to `bytes`, as far as they reach, and puts what they hold besides
/// into `rest`; tells how many bytes were copied.
///
/// # Errors
/// Guest memory that cannot be read, which a checked chain rules out.
pub fn take_bytes(
    mem: &GuestMemory,
    ranges: &[GuestRange],
    bytes: &mut [u8],
    rest: &mut Vec<GuestRange>,
) -> Result<usize, GuestMemoryError> {
    let mut filled = 0usize;
    rest.clear();
    for range in ranges {
        let wanted = bytes.len() - filled;
        let len = usize::try_from(range.len).unwrap_or(usize::MAX);
        let taken = wanted.min(len);
        if let Some(part) = bytes.get_mut(filled..filled + taken) {
            mem.read_slice(part, range.addr)?;
        }
        filled += taken;
        if let Some(left) = cut_front(*range, u32::try_from(taken).unwrap_or(u32::MAX)) {
            rest.push(left);
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
