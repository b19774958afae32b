//! The first part of an image: what files contain, written while the layers are read.

use std::fs::File;

use super::output::Output;
use super::{BLOCK, BLOCK_BITS, INLINE_BYTES};
use crate::layer::{Fault, SparseMap};
use crate::tree::{FileData, Place, Run};

/// Bytes of small files kept in memory at most, to be written beside their inodes. Those after them
/// get a block each.
const INLINE_TOTAL: u64 = 64 << 20;
/// Holes of fewer bytes are part of the image.
const MIN_HOLES: u64 = 1 << 20;
/// Chunks of one file at most; larger files have larger chunks.
const MAX_CHUNKS: u64 = 1 << 14;

/// Runs of chunks of all files at most: they are kept in memory.
const MAX_RUNS: u64 = 1 << 20;

/// Where the bytes of a file come from.
pub(crate) trait Source {
    /// Bytes that are left.
    fn left(&self) -> u64;
    /// The next of them, at least one and at most `most` while any are left.
    fn data(&mut self, most: u64) -> Result<&[u8], Fault>;
}

/// The image while layers are read.
pub(crate) struct Data<'a> {
    out: Output<'a>,
    inline_left: u64,
    runs_left: u64,
    discarded: u64,
}

impl<'a> Data<'a> {
    /// Empties `file`. The image will not be larger than `limit` bytes.
    pub(crate) fn new(file: &'a File, limit: u64) -> Result<Self, Fault> {
        let out = Output::new(file, BLOCK, limit)?;
        Ok(Self { out, inline_left: INLINE_TOTAL, runs_left: MAX_RUNS, discarded: 0 })
    }

    /// Bytes of the image that belong to files which later layers took away.
    pub(crate) fn discarded(&self) -> u64 {
        self.discarded
    }

    pub(super) fn into_output(self) -> Output<'a> {
        self.out
    }

    /// Takes all data of a file with `xattr_bytes` bytes of extended attributes.
    pub(crate) fn store(
        &mut self,
        source: &mut impl Source,
        sparse: Option<SparseMap>,
        xattr_bytes: usize,
    ) -> Result<FileData, Fault> {
        let size = sparse.as_ref().map_or(source.left(), |map| map.size);
        // An inode with its attributes and contents must fit into a block.
        let fits = size <= INLINE_BYTES && xattr_bytes < 1024;
        let place = match sparse {
            None if fits && size <= self.inline_left => self.store_inline(source)?,
            None => self.store_blocks(source)?,
            Some(map) if holes(&map) < MIN_HOLES => self.store_filled(source, &map)?,
            Some(map) => self.store_chunks(source, &map)?,
        };
        Ok(FileData { size, place })
    }

    fn store_inline(&mut self, source: &mut impl Source) -> Result<Place, Fault> {
        self.inline_left = self.inline_left.saturating_sub(source.left());
        let mut bytes = Vec::new();
        while source.left() > 0 {
            bytes.extend_from_slice(source.data(u64::MAX)?);
        }
        Ok(Place::Inline(bytes.into()))
    }

    fn store_blocks(&mut self, source: &mut impl Source) -> Result<Place, Fault> {
        self.out.reserve(self.out.position(), source.left())?;
        let block = self.out.block()?;
        self.copy(source, source.left())?;
        self.out.pad()?;
        Ok(Place::Blocks(block))
    }

    fn copy(&mut self, source: &mut impl Source, len: u64) -> Result<(), Fault> {
        let mut left = len;
        while left > 0 {
            let bytes = source.data(left)?;
            left = left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(left));
            self.out.write(bytes)?;
        }
        Ok(())
    }

    /// A file whose holes are not worth a map of their own.
    fn store_filled(&mut self, source: &mut impl Source, map: &SparseMap) -> Result<Place, Fault> {
        let (block, start) = (self.out.block()?, self.out.position());
        self.out.reserve(start, map.size)?;
        for stretch in &map.stretches {
            self.out.go_on_at(start + stretch.offset)?;
            self.copy(source, stretch.len)?;
        }
        self.out.go_on_at(start + map.size)?;
        self.out.pad()?;
        Ok(Place::Blocks(block))
    }

    /// A file with large holes, in chunks. Chunks that follow each other in the file do so in the image.
    fn store_chunks(&mut self, source: &mut impl Source, map: &SparseMap) -> Result<Place, Fault> {
        let bits = chunk_bits(map.size)?;
        let end = map.size.next_multiple_of(BLOCK);
        let mut runs: Vec<Run> = Vec::new();
        // Where the image has the last run, and the first chunk after it.
        let (mut start, mut after) = (self.out.position(), 0);
        for stretch in &map.stretches {
            let first = stretch.offset >> bits;
            let last = (stretch.offset + stretch.len - 1) >> bits;
            if runs.is_empty() || first > after {
                self.end_run(start, runs.last(), bits, end)?;
                start = self.out.position();
                let left = self.runs_left.checked_sub(1);
                self.runs_left = left.ok_or(Fault::TooManyStretches(MAX_RUNS))?;
                runs.push(Run { chunk: first, chunks: 0, block: self.out.block()? });
            }
            after = last + 1;
            if let Some(run) = runs.last_mut() {
                run.chunks = after - run.chunk;
                let run_start = run.chunk << bits;
                self.out.reserve(start, run_bytes(run, bits, end))?;
                self.out.go_on_at(start + (stretch.offset - run_start))?;
            }
            self.copy(source, stretch.len)?;
        }
        self.end_run(start, runs.last(), bits, end)?;
        Ok(Place::Chunks { bits, runs: runs.into() })
    }

    /// Leaves a run, the last chunk of which may have a hole at its end.
    fn end_run(&mut self, start: u64, run: Option<&Run>, bits: u32, end: u64) -> Result<(), Fault> {
        let Some(run) = run else { return Ok(()) };
        self.out.go_on_at(start + run_bytes(run, bits, end))
    }

    /// Frees what a file has that is in no directory any more.
    pub(crate) fn discard(&mut self, file: FileData) -> Result<(), Fault> {
        let end = file.size.next_multiple_of(BLOCK);
        match file.place {
            Place::Inline(bytes) => {
                self.inline_left += u64::try_from(bytes.len()).unwrap_or_default();
            }
            Place::Blocks(block) => self.free(block, end)?,
            Place::Chunks { bits, runs } => {
                for run in &runs {
                    self.free(run.block, run_bytes(run, bits, end))?;
                }
            }
        }
        Ok(())
    }

    fn free(&mut self, block: u32, bytes: u64) -> Result<(), Fault> {
        self.discarded += bytes;
        if bytes > 0 { self.out.punch(u64::from(block) * BLOCK, bytes) } else { Ok(()) }
    }
}

fn holes(map: &SparseMap) -> u64 {
    map.size - map.stretches.iter().map(|stretch| stretch.len).sum::<u64>()
}

/// Bytes of the image a run takes: the last chunk of a file ends with the file's last block.
fn run_bytes(run: &Run, bits: u32, end: u64) -> u64 {
    ((run.chunk + run.chunks) << bits).min(end) - (run.chunk << bits)
}

/// Chunks as small as possible, but not too many.
fn chunk_bits(size: u64) -> Result<u32, Fault> {
    // What an inode can say at most.
    let mut all = BLOCK_BITS..=BLOCK_BITS + 31;
    let bits = all.find(|bits| size.div_ceil(1 << bits) <= MAX_CHUNKS);
    bits.ok_or(Fault::Tar("a sparse file is too large"))
}
