//! The image file, written from its beginning to its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::BLOCK;
use crate::layer::Fault;

/// Bytes written at once.
const BUFFER_BYTES: usize = 1 << 20;
const ZEROES: [u8; 4096] = [0; 4096];

/// A file written in order, with holes where nothing is.
pub(super) struct Output<'a> {
    file: &'a File,
    /// Where the buffer goes.
    start: u64,
    buffer: Vec<u8>,
    limit: u64,
}

impl<'a> Output<'a> {
    /// Empties `file` and begins to write at `start`.
    pub(super) fn new(file: &'a File, start: u64, limit: u64) -> Result<Self, Fault> {
        file.set_len(0).map_err(Fault::Write)?;
        Ok(Self { file, start, buffer: Vec::with_capacity(BUFFER_BYTES), limit })
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.start.saturating_add(u64::try_from(self.buffer.len()).unwrap_or(u64::MAX))
    }

    /// The block that begins here, where one does.
    pub(super) fn block(&self) -> Result<u32, Fault> {
        u32::try_from(self.position() / BLOCK).map_err(|_| Fault::ImageTooLarge(self.limit))
    }

    /// Refuses what would reach beyond the limit, `bytes` after `start`.
    pub(super) fn reserve(&self, start: u64, bytes: u64) -> Result<(), Fault> {
        let end = start.checked_add(bytes).filter(|end| *end <= self.limit);
        end.map(|_| ()).ok_or(Fault::ImageTooLarge(self.limit))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            self.file.write_all_at(bytes, self.start).map_err(Fault::Write)?;
            self.start += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Goes on at `position`; what lies between is a hole if it is large.
    pub(super) fn go_on_at(&mut self, position: u64) -> Result<(), Fault> {
        let distance = position.saturating_sub(self.position());
        match usize::try_from(distance).ok().and_then(|distance| ZEROES.get(..distance)) {
            Some(zeroes) => self.write(zeroes),
            None => {
                self.flush()?;
                self.start = position;
                Ok(())
            }
        }
    }

    /// Goes on at the next block.
    pub(super) fn pad(&mut self) -> Result<(), Fault> {
        self.go_on_at(self.position().next_multiple_of(BLOCK))
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.file.write_all_at(&self.buffer, self.start).map_err(Fault::Write)?;
        self.start = self.position();
        self.buffer.clear();
        Ok(())
    }

    /// Gives blocks that were written back to the host; they read as zeroes.
    pub(super) fn punch(&mut self, start: u64, len: u64) -> Result<(), Fault> {
        if start.saturating_add(len) > self.start {
            self.flush()?;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(self.file, flags, start, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.zero(start, len),
            other => other.map_err(|error| Fault::Write(io::Error::from(error))),
        }
    }

    /// The same on a file system without holes: the image must not depend on it.
    fn zero(&self, start: u64, len: u64) -> Result<(), Fault> {
        let mut at = start;
        let end = start.saturating_add(len);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROES.len());
            let zeroes = ZEROES.get(..most).unwrap_or_default();
            self.file.write_all_at(zeroes, at).map_err(Fault::Write)?;
            at += u64::try_from(most).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    /// Writes what is left, and `head` at the beginning; the file ends where writing has come to.
    pub(super) fn finish(mut self, head: &[u8]) -> Result<(), Fault> {
        self.flush()?;
        self.file.set_len(self.start).map_err(Fault::Write)?;
        self.file.write_all_at(head, 0).map_err(Fault::Write)
    }
}
