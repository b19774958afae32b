//! Moving all of a scatter list, though the host moves a part at a time.

use std::io::{IoSlice, IoSliceMut};

use rustix::io::Errno;

use crate::memory::MAX_IOVECS;

/// A transfer that stopped early.
#[derive(Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// Bytes that were moved.
    pub done: u64,
    /// Why no more were.
    pub source: Errno,
}

/// How often a transfer that comes no further is tried again, because it was interrupted or the host
/// has no room for it just now: a file system in user space may say so for ever.
const TRIES: u32 = 100;

/// Fills `bufs` from byte `offset` on, by calls of `read`.
///
/// # Errors
/// [`Incomplete`]; an end of file counts as an I/O error.
pub(super) fn read_fully(
    mut bufs: &mut [IoSliceMut<'_>],
    offset: u64,
    mut read: impl FnMut(&mut [IoSliceMut<'_>], u64) -> Result<usize, Errno>,
) -> Result<u64, Incomplete> {
    let mut transfer = Transfer::default();
    while !bufs.is_empty() {
        let count = bufs.len().min(MAX_IOVECS);
        let batch = bufs.get_mut(..count).unwrap_or_default();
        let moved = transfer.advance(read(batch, offset.saturating_add(transfer.done)))?;
        IoSliceMut::advance_slices(&mut bufs, moved);
    }
    Ok(transfer.done)
}

/// Writes `bufs` from byte `offset` on, by calls of `write`.
///
/// # Errors
/// [`Incomplete`].
pub(super) fn write_fully(
    mut bufs: &mut [IoSlice<'_>],
    offset: u64,
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> Result<usize, Errno>,
) -> Result<u64, Incomplete> {
    let mut transfer = Transfer::default();
    while !bufs.is_empty() {
        let batch = bufs.get(..bufs.len().min(MAX_IOVECS)).unwrap_or_default();
        let moved = transfer.advance(write(batch, offset.saturating_add(transfer.done)))?;
        IoSlice::advance_slices(&mut bufs, moved);
    }
    Ok(transfer.done)
}

/// How far a transfer came.
#[derive(Debug, Default)]
pub(super) struct Transfer {
    done: u64,
    /// Tries in a row that moved nothing.
    vain: u32,
}

impl Transfer {
    /// Bytes moved so far.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Takes note of what one try came to; how many bytes it moved. After 0 it is to be tried again.
    ///
    /// # Errors
    /// The transfer ends here: [`Incomplete`].
    pub(super) fn advance(&mut self, tried: Result<usize, Errno>) -> Result<usize, Incomplete> {
        let source = match tried {
            Ok(0) => Errno::IO,
            Ok(moved) => {
                self.done += u64::try_from(moved).unwrap_or(0);
                self.vain = 0;
                return Ok(moved);
            }
            Err(Errno::INTR | Errno::AGAIN) if self.vain < TRIES => {
                self.vain += 1;
                return Ok(0);
            }
            Err(source) => source,
        };
        Err(Incomplete { done: self.done, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B10.
    #[test]
    fn short_reads_and_interruptions_are_continued_where_they_stopped() {
        let source: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let mut steps =
            [Ok(1), Err(Errno::INTR), Ok(700), Ok(4096), Err(Errno::INTR), Ok(9999)].into_iter();
        let (mut a, mut b) = ([0; 1024], [0; 3976]);
        let mut list = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        let done = read_fully(&mut list, 0, |bufs, offset| {
            let limit: usize = steps.next().unwrap()?;
            let mut from = &source[usize::try_from(offset).unwrap()..];
            from = &from[..from.len().min(limit)];
            let wanted = from.len();
            for buf in bufs {
                let len = buf.len().min(from.len());
                buf[..len].copy_from_slice(&from[..len]);
                from = &from[len..];
            }
            Ok(wanted - from.len())
        });
        assert_eq!(done, Ok(5000));
        assert_eq!([&a[..], &b[..]].concat(), source);
    }

    /// B10.
    #[test]
    fn short_writes_and_interruptions_are_continued_and_errors_tell_what_was_done() {
        let data = [3; 1000];
        let write = |steps: Vec<Result<usize, Errno>>| {
            let mut steps = steps.into_iter();
            let mut at = 100;
            write_fully(&mut [IoSlice::new(&data)], 100, |bufs, offset| {
                assert_eq!(offset, at);
                let n = steps.next().unwrap()?.min(bufs.iter().map(|b| b.len()).sum());
                at += u64::try_from(n).unwrap();
                Ok(n)
            })
        };
        assert_eq!(write(vec![Ok(999), Err(Errno::INTR), Ok(5)]), Ok(1000));
        let failed = |done, source| Err(Incomplete { done, source });
        assert_eq!(write(vec![Ok(10), Err(Errno::NOSPC)]), failed(10, Errno::NOSPC));
        assert_eq!(write(vec![Ok(10), Ok(0)]), failed(10, Errno::IO));
        assert_eq!(write(vec![Err(Errno::AGAIN), Ok(1000)]), Ok(1000));
        let vain = |n| [vec![Err(Errno::AGAIN); n], vec![Ok(1000)]].concat();
        assert_eq!(write(vain(100)), Ok(1000));
        assert_eq!(write(vain(101)), failed(0, Errno::AGAIN));
    }
}
