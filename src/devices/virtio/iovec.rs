//! Small tools around scatter lists: keeping their allocation, cutting ranges, writing into them.

use std::io::{IoSlice, IoSliceMut};

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::{GuestMemory, GuestRange};

/// Empties `list`, whose allocation may then serve borrows of another lifetime.
///
/// The standard library collects in place when the layouts agree, as they do here.
pub fn recycle<'to>(mut list: Vec<IoSlice<'_>>) -> Vec<IoSlice<'to>> {
    list.clear();
    list.into_iter().map(|_| IoSlice::new(&[])).collect()
}

/// As [`recycle`], for lists the kernel writes to.
pub fn recycle_mut<'to>(mut list: Vec<IoSliceMut<'_>>) -> Vec<IoSliceMut<'to>> {
    list.clear();
    list.into_iter().map(|_| IoSliceMut::new(&mut [])).collect()
}

/// `range` without its first `by` bytes, or `None` when nothing is left.
pub fn cut_front(range: GuestRange, by: u32) -> Option<GuestRange> {
    let len = range.len.checked_sub(by).filter(|len| *len > 0)?;
    let addr = GuestAddress(range.addr.0.checked_add(u64::from(by))?);
    Some(GuestRange { addr, len })
}

/// Drops the last byte of `ranges` and tells where it lay; `None` when there is none.
pub fn take_last_byte(ranges: &mut Vec<GuestRange>) -> Option<GuestAddress> {
    let last = ranges.last_mut()?;
    last.len = last.len.checked_sub(1)?;
    let at = GuestAddress(last.addr.0.checked_add(u64::from(last.len))?);
    if last.len == 0 {
        ranges.pop();
    }
    Some(at)
}

/// The part of `ranges` from byte `skip` on, in order.
fn skipped<'r>(
    ranges: impl IntoIterator<Item = &'r GuestRange>,
    skip: u32,
) -> impl Iterator<Item = GuestRange> {
    let mut skip = skip;
    ranges.into_iter().filter_map(move |range| {
        let by = skip.min(range.len);
        skip -= by;
        cut_front(*range, by)
    })
}

/// Appends to `out` what of `ranges` lies in the `len` bytes from byte `skip` on.
pub fn window<'r>(
    ranges: impl IntoIterator<Item = &'r GuestRange>,
    skip: u32,
    len: u32,
    out: &mut Vec<GuestRange>,
) {
    let mut left = len;
    for range in skipped(ranges, skip) {
        let len = range.len.min(left);
        if len == 0 {
            break;
        }
        out.push(GuestRange { len, ..range });
        left -= len;
    }
}

/// Appends to `out` the bytes of `ranges` from byte `skip` on.
///
/// # Errors
/// Guest memory that cannot be read, which a checked chain rules out.
pub fn read_window<'r>(
    mem: &GuestMemory,
    ranges: impl IntoIterator<Item = &'r GuestRange>,
    skip: u32,
    out: &mut Vec<u8>,
) -> Result<(), GuestMemoryError> {
    for range in skipped(ranges, skip) {
        let start = out.len();
        out.resize(start.saturating_add(usize::try_from(range.len).unwrap_or(0)), 0);
        mem.read_slice(out.get_mut(start..).unwrap_or_default(), range.addr)?;
    }
    Ok(())
}

/// Copies `bytes` into `ranges` from their byte `skip` on, as far as they reach; tells how many
/// went in.
///
/// # Errors
/// Guest memory that cannot be written, which a checked chain rules out.
pub fn write_ranges<'r>(
    mem: &GuestMemory,
    ranges: impl IntoIterator<Item = &'r GuestRange>,
    skip: u32,
    mut bytes: &[u8],
) -> Result<u32, GuestMemoryError> {
    let mut written = 0u32;
    for range in skipped(ranges, skip) {
        let len = bytes.len().min(usize::try_from(range.len).unwrap_or(usize::MAX));
        let (now, later) = bytes.split_at(len);
        mem.write_slice(now, range.addr)?;
        written = written.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        bytes = later;
        if bytes.is_empty() {
            break;
        }
    }
    Ok(written)
}

/// Copies the start of `ranges` to `bytes`, as far as they reach.
///
/// # Errors
/// Guest memory that cannot be read, which a checked chain rules out.
pub fn read_ranges<'r>(
    mem: &GuestMemory,
    ranges: impl IntoIterator<Item = &'r GuestRange>,
    mut bytes: &mut [u8],
) -> Result<(), GuestMemoryError> {
    for range in ranges {
        let len = bytes.len().min(usize::try_from(range.len).unwrap_or(usize::MAX));
        let (now, later) = bytes.split_at_mut(len);
        mem.read_slice(now, range.addr)?;
        bytes = later;
        if bytes.is_empty() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recycled_list_keeps_its_allocation() {
        let mut list: Vec<IoSlice<'_>> = Vec::with_capacity(64);
        list.push(IoSlice::new(b"abc"));
        let (before, capacity) = (list.as_ptr().addr(), list.capacity());
        let list: Vec<IoSlice<'static>> = recycle(list);
        assert!(list.is_empty());
        assert_eq!((list.as_ptr().addr(), list.capacity()), (before, capacity));

        let list: Vec<IoSliceMut<'_>> = Vec::with_capacity(64);
        let before = list.as_ptr().addr();
        let list: Vec<IoSliceMut<'static>> = recycle_mut(list);
        assert_eq!((list.as_ptr().addr(), list.capacity()), (before, 64));
    }

    #[test]
    fn last_byte_is_found_behind_the_data_and_alone() {
        let range = |addr, len| GuestRange { addr: GuestAddress(addr), len };
        let mut ranges = vec![range(0x1000, 512), range(0x3000, 1)];
        assert_eq!(take_last_byte(&mut ranges), Some(GuestAddress(0x3000)));
        assert_eq!(ranges, [range(0x1000, 512)]);
        assert_eq!(take_last_byte(&mut ranges), Some(GuestAddress(0x11ff)));
        assert_eq!(ranges, [range(0x1000, 511)]);
        assert_eq!(take_last_byte(&mut Vec::new()), None);
    }

    #[test]
    fn write_stops_at_the_end_of_the_ranges() {
        let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let ranges =
            [(0x10, 3), (0x20, 2)].map(|(addr, len)| GuestRange { addr: GuestAddress(addr), len });
        assert_eq!(write_ranges(&mem, &ranges, 0, b"abcdefg").unwrap(), 5);
        let mut seen = [0; 0x20];
        mem.read_slice(&mut seen, GuestAddress(0x10)).unwrap();
        assert_eq!(&seen[..4], b"abc\0");
        assert_eq!(&seen[0x10..0x13], b"de\0");
        assert_eq!(write_ranges(&mem, &ranges, 2, b"xyz").unwrap(), 3);
        assert_eq!(write_ranges(&mem, &ranges, 5, b"xyz").unwrap(), 0);
        let mut seen = [0; 5];
        read_ranges(&mem, &ranges, &mut seen).unwrap();
        assert_eq!(&seen, b"abxyz");
        for (skip, len, expected) in
            [(0, 9, "abxyz"), (0, 5, "abxyz"), (1, 3, "bxy"), (4, 1, "z"), (3, 0, ""), (5, 1, "")]
        {
            let (mut part, mut bytes) = (Vec::new(), b"<".to_vec());
            window(&ranges, skip, len, &mut part);
            read_window(&mem, &part, 0, &mut bytes).unwrap();
            assert_eq!(bytes, format!("<{expected}").into_bytes());
        }
        let mut rest = Vec::new();
        read_window(&mem, &ranges, 2, &mut rest).unwrap();
        assert_eq!(rest, b"xyz");
    }
}
