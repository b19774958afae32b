//! The uncompressed bytes of a layer: counted, hashed and bounded on their way.

use std::io::Read;

use sha2::{Digest, Sha256};

use super::decompress::{self, Uncompressed};
use super::fault::Fault;

/// Bytes decompressed at once.
const BUFFER_BYTES: usize = 256 << 10;

/// How much may still come, for all layers of an image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// Of all layers.
    pub(crate) limit: u64,
    /// Of those that are not read yet.
    pub(crate) left: u64,
    /// How much larger than its compressed form a layer may be.
    pub(crate) ratio: u64,
    /// Bytes of a layer that may come from however little.
    pub(crate) ratio_from: u64,
}

/// The uncompressed bytes of one layer.
pub(crate) struct Stream<'a> {
    source: Uncompressed<'a>,
    hash: Sha256,
    allowance: &'a mut Allowance,
    produced: u64,
    buffer: Vec<u8>,
    /// What of the buffer is not taken yet.
    start: usize,
    end: usize,
}

impl<'a> Stream<'a> {
    /// Finds out how `compressed` is compressed.
    pub(crate) fn open<R: Read + 'a>(
        compressed: R,
        allowance: &'a mut Allowance,
    ) -> Result<Self, Fault> {
        let source = decompress::open(compressed)?;
        let buffer = vec![0; BUFFER_BYTES];
        let hash = Sha256::new();
        Ok(Self { source, hash, allowance, produced: 0, buffer, start: 0, end: 0 })
    }

    /// The next bytes, as many as there are at hand and at most `most`; none at the end.
    pub(crate) fn take(&mut self, most: u64) -> Result<&[u8], Fault> {
        if self.start == self.end {
            self.refill()?;
        }
        let start = self.start;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        self.start = start.saturating_add(most).min(self.end);
        Ok(self.buffer.get(start..self.start).unwrap_or_default())
    }

    fn refill(&mut self) -> Result<(), Fault> {
        (self.start, self.end) = (0, 0);
        let read = loop {
            match self.source.bytes.read(&mut self.buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other.map_err(Fault::Read)?,
            }
        };
        self.end = read;
        self.hash.update(self.buffer.get(..read).unwrap_or_default());
        let read = u64::try_from(read).unwrap_or(u64::MAX);
        let limit = self.allowance.limit;
        let left = self.allowance.left.checked_sub(read).ok_or(Fault::TooLarge(limit))?;
        self.allowance.left = left;
        self.produced = self.produced.saturating_add(read);
        let Allowance { ratio, ratio_from, .. } = *self.allowance;
        let most = self.source.taken.get().saturating_mul(ratio).saturating_add(ratio_from);
        if self.produced > most {
            return Err(Fault::Ratio(ratio));
        }
        Ok(())
    }

    /// Fills `buffer`; `false` if the layer has ended before its first byte.
    pub(crate) fn read_exact(&mut self, buffer: &mut [u8]) -> Result<bool, Fault> {
        let mut rest = &mut *buffer;
        let whole = rest.len();
        while !rest.is_empty() {
            let left = rest.len();
            let taken = self.take(u64::try_from(left).unwrap_or(u64::MAX))?;
            if taken.is_empty() {
                return if left == whole { Ok(false) } else { Err(Fault::Truncated) };
            }
            let (filled, more) = rest.split_at_mut(taken.len().min(left));
            filled.copy_from_slice(taken);
            rest = more;
        }
        Ok(true)
    }

    /// Drops the next `count` bytes.
    pub(crate) fn skip(&mut self, mut count: u64) -> Result<(), Fault> {
        while count > 0 {
            let taken = self.take(count)?.len();
            if taken == 0 {
                return Err(Fault::Truncated);
            }
            count -= u64::try_from(taken).unwrap_or(count);
        }
        Ok(())
    }

    /// Reads what follows the archive and compares all of it with `diff_id`.
    pub(crate) fn finish(mut self, diff_id: &[u8; 32]) -> Result<(), Fault> {
        while !self.take(u64::MAX)?.is_empty() {}
        let digest: [u8; 32] = self.hash.finalize().into();
        if digest == *diff_id { Ok(()) } else { Err(Fault::DiffId) }
    }
}
