//! What the guest of the group `block` does with its disk: one kind of access after the other.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::OFlags;

use super::guest::{Aligned, BLOCK, CHUNK, DISK, MARK, SPAN, size};
use super::stats::SplitMix;

/// The variable that asks for this; the kernel passes it on from its command line.
pub(super) const ROLE: &str = "BENCH_BLOCK";

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
    pub(super) depth: u64,
}

const fn random(name: &'static str, title: &'static str, write: bool, depth: u64) -> Access {
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
    /// Does as many as [`SPAN`] holds, each of `depth` threads one at a time; tells how many.
    fn perform(self, disk: &File, start: Instant) -> Result<u64> {
        let places = size(disk)? / self.length as u64;
        ensure!(places > 0, "{DISK} is too small");
        let count = AtomicU64::new(0);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..self.depth)
                .map(|seed| {
                    let count = &count;
                    scope.spawn(move || self.work(disk, (places, seed), start, count))
                })
                .collect();
            let mut ended = workers.into_iter().map(|worker| worker.join());
            ended.try_for_each(|result| result.map_err(|_| anyhow!("a worker died"))?)
        })?;
        Ok(count.into_inner())
    }

    fn work(
        self,
        disk: &File,
        (places, seed): (u64, u64),
        start: Instant,
        count: &AtomicU64,
    ) -> Result<()> {
        let mut buffer = Aligned::new(self.length);
        let mut random = SplitMix(seed + 1);
        let mut next = 0;
        while start.elapsed() < SPAN {
            let place = if self.length == CHUNK { next % places } else { random.next() % places };
            next += 1;
            let offset = place * self.length as u64;
            match self.write {
                true => disk.write_all_at(buffer.bytes(), offset),
                false => disk.read_exact_at(buffer.bytes(), offset),
            }
            .with_context(|| self.name)?;
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
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
            assert!(access.perform(&disk, Instant::now()).unwrap() >= access.depth, "{access:?}");
        }
        assert_eq!(size(&disk).unwrap(), 4 << 20, "it grew");
    }
}
