//! Whether the file of an overlay is sound (QEMU, `docs/interop/qcow2.rst`): what serves it
//! afterwards meets no number that was not looked at here, and the guest's data lie beside the
//! tables, so that the guest cannot write those either.
//!
//! Which clusters are in use is counted anew: a machine that was killed leaves counts that are too
//! low, and clusters that were lost.

use std::fs::File;
use std::io;
use std::iter::repeat;
use std::os::unix::fs::FileExt;

use thiserror::Error;

/// Bytes of a cluster, and of every table but those that the header names: what everybody makes by
/// default, and so all that is taken.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const CLUSTER_LEN: usize = 1 << CLUSTER_BITS;
/// Entries of a cluster of a table.
const ENTRIES: u64 = CLUSTER / 8;
/// Clusters that a cluster of counts speaks of; counts have 16 bits.
const COUNTS: usize = CLUSTER_LEN / 2;
const COUNT_ORDER: u32 = 4;
/// Largest base: what is kept here is a bit for each cluster of an overlay.
const MAX_BASE: u64 = 16 << 40;
/// What an overlay may have beside a cluster for each of the base and as much again, which machines
/// that were killed have lost.
const SLACK: u64 = 16 << 20;
/// Clusters of the table of counts: enough for 256 TiB.
const MAX_COUNT_TABLE: u32 = 16;

/// Where a cluster begins, in any entry.
const OFFSET: u64 = (1 << 56) - CLUSTER;
/// The cluster belongs to nobody else.
const COPIED: u64 = 1 << 63;
/// It reads as zeroes.
const ZERO: u64 = 1;
const COMPRESSED: u64 = 1 << 62;

const MAGIC: u32 = 0x5146_49fb;
/// Fixed fields of the header, in bytes.
const FIXED: u32 = 104;
/// A file beside this one has the data.
const DATA_FILE: u64 = 1 << 2;
/// Extensions of the header.
const END: u32 = 0;
const BASE_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const FEATURE_NAME: u32 = 48;

/// Why a file is no overlay that can be used.
#[derive(Debug, Error)]
pub(super) enum Unfit {
    #[error("it is no qcow2 file of version 3")]
    Format,
    #[error("it has clusters of 2^{0} bytes; make it with clusters of 64 KiB")]
    Clusters(u32),
    #[error("it is an image of its own and no overlay")]
    Alone,
    #[error("it has {0}, as an overlay does not")]
    Feature(&'static str),
    #[error("it is for a base of {own} bytes, and this one has {base}")]
    Size { own: u64, base: u64 },
    #[error("its base has more than 16 TiB")]
    Large,
    #[error("it contradicts itself: {0}; `qemu-img check -r all` may repair it")]
    Damaged(&'static str),
    #[error(transparent)]
    Read(#[from] io::Error),
}

use Unfit::Damaged;

/// An overlay whose tables were all looked at.
#[derive(Debug)]
pub(super) struct Sound {
    used: Used,
    /// Where the counts of each [`COUNTS`] clusters are.
    blocks: Vec<Option<u64>>,
}

/// Looks at all of the tables in `file`, for a base of `size` bytes; its data are not read.
///
/// # Errors
/// [`Unfit`].
pub(super) fn check(file: &File, size: u64) -> Result<Sound, Unfit> {
    let header = Header::read(file, size)?;
    let mut used = Used::new(size)?;
    used.take(0)?;
    used.take_all(header.l1, header.l1_entries.div_ceil(ENTRIES))?;
    used.take_all(header.counts, header.count_clusters)?;
    let mut blocks = Vec::new();
    for n in 0..header.count_clusters {
        for entry in entries(&cluster(file, header.counts.saturating_add(n * CLUSTER))?) {
            let block = pointer(entry, 0)?;
            block.map_or(Ok(()), |block| used.take(block))?;
            blocks.push(block);
        }
    }
    for n in 0..header.l1_entries.div_ceil(ENTRIES) {
        let left = usize::try_from(header.l1_entries - n * ENTRIES).unwrap_or(usize::MAX);
        let table = cluster(file, header.l1.saturating_add(n * CLUSTER))?;
        for entry in entries(&table).take(left) {
            if let Some(table) = pointer(entry, COPIED)? {
                used.take(table)?;
                check_table(&cluster(file, table)?, &mut used)?;
            }
        }
    }
    let sound = Sound { used, blocks };
    let unused = |part: &[u64]| part.iter().all(|word| *word == 0);
    if sound.parts().any(|(part, block)| block.is_none() && !unused(part)) {
        return Err(Damaged("a cluster in use has no place for its count"));
    }
    Ok(sound)
}

impl Sound {
    /// Which clusters are in use, and where that is counted.
    fn parts(&self) -> impl Iterator<Item = (&[u64], Option<u64>)> {
        let blocks = self.blocks.iter().copied().chain(repeat(None));
        self.used.words.chunks(COUNTS / 64).zip(blocks)
    }

    /// Sets the counts that are wrong.
    ///
    /// # Errors
    /// What the host says.
    pub(super) fn count_anew(&self, file: &File) -> io::Result<()> {
        let mut changed = false;
        for (part, block) in self.parts() {
            let Some(block) = block else { continue };
            let bits = part.iter().flat_map(|word| (0..64).map(move |bit| word >> bit & 1 == 1));
            let mut counts: Vec<u8> = bits.flat_map(|used| u16::from(used).to_be_bytes()).collect();
            counts.resize(CLUSTER_LEN, 0);
            if cluster(file, block)? != counts {
                file.write_all_at(&counts, block)?;
                changed = true;
            }
        }
        if changed { file.sync_data() } else { Ok(()) }
    }
}

/// A table of the second level: each entry is a cluster of the guest's data.
fn check_table(table: &[u8], used: &mut Used) -> Result<(), Unfit> {
    for entry in entries(table) {
        if entry & COMPRESSED != 0 {
            return Err(Unfit::Feature("compressed clusters"));
        }
        if let Some(data) = pointer(entry, COPIED | ZERO)? {
            used.take(data)?;
        }
    }
    Ok(())
}

/// What the header says of the tables.
struct Header {
    l1: u64,
    l1_entries: u64,
    counts: u64,
    count_clusters: u64,
}

impl Header {
    fn read(file: &File, size: u64) -> Result<Self, Unfit> {
        let bytes = cluster(file, 0)?;
        let (word, long) = (|at| word(&bytes, at), |at| long(&bytes, at));
        if (word(0), word(4)) != (MAGIC, 3) {
            return Err(Unfit::Format);
        }
        if word(20) != CLUSTER_BITS {
            return Err(Unfit::Clusters(word(20)));
        }
        for (present, what) in [
            (long(72) & DATA_FILE != 0, "its data in another file"),
            (long(72) | long(88) != 0, "features of which not all are known"),
            (word(32) != 0, "encrypted data"),
            (word(60) != 0, "snapshots"),
            (word(96) != COUNT_ORDER, "counts of another width than 16 bits"),
        ] {
            if present {
                return Err(Unfit::Feature(what));
            }
        }
        if long(8) == 0 {
            return Err(Unfit::Alone);
        }
        if long(24) != size {
            return Err(Unfit::Size { own: long(24), base: size });
        }
        check_extensions(&bytes)?;
        let header = Self {
            l1: long(40),
            l1_entries: word(36).into(),
            counts: long(48),
            count_clusters: word(56).into(),
        };
        // A table of the second level has as many entries as a cluster of one of the first.
        let needed = size.div_ceil(CLUSTER * ENTRIES);
        if !(needed..=needed.next_multiple_of(ENTRIES)).contains(&header.l1_entries)
            || !(1..=MAX_COUNT_TABLE).contains(&word(56))
        {
            return Err(Damaged("a table is not as long as the size demands"));
        }
        Ok(header)
    }
}

/// The extensions lie in the first cluster, and are of a kind that changes nothing.
fn check_extensions(bytes: &[u8]) -> Result<(), Unfit> {
    const OUTSIDE: Unfit = Damaged("its header is longer than a cluster");
    let mut at = word(bytes, 100);
    if at < FIXED || !at.is_multiple_of(8) {
        return Err(Damaged("its header has an impossible length"));
    }
    loop {
        let index = usize::try_from(at).map_err(|_| OUTSIDE)?;
        let rest = bytes.get(index..).filter(|rest| rest.len() >= 8).ok_or(OUTSIDE)?;
        let (kind, len) = (word(rest, 0), word(rest, 4));
        match kind {
            END => return Ok(()),
            BASE_FORMAT => {}
            FEATURE_NAMES if len.is_multiple_of(FEATURE_NAME) => {}
            _ => return Err(Unfit::Feature("an extension that is not known")),
        }
        let step = len.checked_next_multiple_of(8).and_then(|len| len.checked_add(8));
        at = step.and_then(|step| at.checked_add(step)).ok_or(OUTSIDE)?;
    }
}

/// Clusters of the file that have a use: each has one.
#[derive(Debug)]
struct Used {
    /// A bit for each.
    words: Vec<u64>,
}

impl Used {
    /// Of an overlay over `size` bytes. Memory is taken where it is touched.
    fn new(size: u64) -> Result<Self, Unfit> {
        if size > MAX_BASE {
            return Err(Unfit::Large);
        }
        let clusters = (2 * size + SLACK) / CLUSTER;
        let words = usize::try_from(clusters.div_ceil(64)).map_err(|_| Unfit::Large)?;
        Ok(Self { words: vec![0; words] })
    }

    /// Finds a use for the cluster at `offset`.
    fn take(&mut self, offset: u64) -> Result<(), Unfit> {
        let number = offset / CLUSTER;
        let word = usize::try_from(number / 64).ok().and_then(|index| self.words.get_mut(index));
        let word = word.ok_or(Damaged("a cluster is far outside of the file"))?;
        let bit = 1 << (number % 64);
        if !offset.is_multiple_of(CLUSTER) || *word & bit != 0 {
            return Err(Damaged("a cluster is used twice"));
        }
        *word |= bit;
        Ok(())
    }

    /// The same for `count` clusters from `offset` on.
    fn take_all(&mut self, offset: u64, count: u64) -> Result<(), Unfit> {
        (0..count).try_for_each(|n| self.take(offset.saturating_add(n * CLUSTER)))
    }
}

/// The cluster an entry points to, if any; `flags` may be set besides.
fn pointer(entry: u64, flags: u64) -> Result<Option<u64>, Unfit> {
    match entry & !(OFFSET | flags) {
        0 => Ok(Some(entry & OFFSET).filter(|offset| *offset != 0)),
        _ => Err(Damaged("an entry has bits that mean nothing")),
    }
}

/// The cluster at `offset`; what lies past the end of the file reads as zeroes.
fn cluster(file: &File, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; CLUSTER_LEN];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX))) {
            Ok(0) => break,
            Ok(len) => done += len,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(bytes)
}

fn entries(table: &[u8]) -> impl Iterator<Item = u64> {
    table.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.copied().map_or(0, u32::from_be_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.copied().map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests;
