//! What the guest of the group `block` does with its disk: one kind of access after the other.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::OFlags;

use super::aio;
use super::guest::{Aligned, BLOCK, CHUNK, DISK, MARK, size};
use super::random::SplitMix;

/// The variable that asks for this; the kernel passes it on from its command line.
pub(super) const ROLE: &str = "BENCH_BLOCK";

/// How long each takes.
const SPAN: Duration = Duration::from_millis(500);

/// A kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// How the guest reports it.
    pub(super) name: &'static str,
    /// How the report of the measurements names it.
    pub(super) title: &'static str,
    write: bool,
    /// Bytes at a time; random places unless it is [`CHUNK`].
    pub(super) length: usize,
    /// How many at a time.
    pub(super) depth: usize,
}

const fn random(name: &'static str, title: &'static str, write: bool, depth: usize) -> Access {
    Access { name, title, write, length: BLOCK, depth }
}

const fn sequential(name: &'static str, title: &'static str, write: bool) -> Access {
    Access { name, title, write, length: CHUNK, depth: 1 }
}

/// What is measured, in this order.
pub(super) const ACCESSES: [Access; 6] = [
    random("read-1", "4 KiB random read, depth 1", false, 1),
    random("read-32", "4 KiB random read, depth 32", false, 32),
    random("write-1", "4 KiB random write, depth 1", true, 1),
    random("write-32", "4 KiB random write, depth 32", true, 32),
    sequential("sequential-read", "1 MiB sequential read", false),
    sequential("sequential-write", "1 MiB sequential write", true),
];

/// Measures each access for a while and prints what was done, and in which time.
///
/// # Errors
/// The disk cannot be used.
pub(super) fn measure() -> Result<()> {
    let direct = OFlags::DIRECT.bits() as i32;
    let disk = File::options().read(true).write(true).custom_flags(direct).open(DISK);
    let disk = disk.with_context(|| format!("open {DISK}"))?;
    // The host takes the time of its own at each line: one before the first access.
    println!("{MARK} ready");
    for access in ACCESSES {
        let start = Instant::now();
        let count = access.perform(&disk, start)?;
        println!("{MARK} {} {count} {:.6}", access.name, start.elapsed().as_secs_f64());
    }
    Ok(())
}

impl Access {
    /// Does as many as [`SPAN`] holds, `depth` at a time; tells how many.
    fn perform(self, disk: &File, start: Instant) -> Result<u64> {
        let places = size(disk)? / self.length as u64;
        ensure!(places > 0, "{DISK} is too small");
        let (mut random, mut number) = (SplitMix(1), 0);
        let next = || {
            let place = if self.length == CHUNK { number } else { random.next() };
            number += 1;
            (start.elapsed() < SPAN).then(|| place % places * self.length as u64)
        };
        let done = match self.depth {
            1 => self.one_by_one(disk, next),
            depth => aio::perform(disk, self.write, (self.length, depth), next),
        };
        done.context(self.name)
    }

    fn one_by_one(self, disk: &File, mut next: impl FnMut() -> Option<u64>) -> Result<u64> {
        let mut buffer = Aligned::new(self.length);
        let mut count = 0;
        while let Some(offset) = next() {
            match self.write {
                true => disk.write_all_at(buffer.bytes(), offset)?,
                false => disk.read_exact_at(buffer.bytes(), offset)?,
            }
            count += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_access_is_done_and_counted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        let disk = File::options().read(true).write(true).open(file.path()).unwrap();
        for access in ACCESSES {
            assert!(
                access.perform(&disk, Instant::now()).unwrap() >= access.depth as u64,
                "{access:?}"
            );
        }
        assert_eq!(size(&disk).unwrap(), 4 << 20, "it grew");
    }
}
