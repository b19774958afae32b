//! The first process of a guest that measures something: its disk, network, sockets or memory.
//!
//! It is this very program, started by the guest's kernel under the name [`PATH`]. What it finds it
//! prints on the console, as `bench: name value`.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::OFlags;

use super::random::SplitMix;
use super::{balloon, network, storage, vsock};

/// Where the program lies in the guest, and how it knows its role.
pub(super) const PATH: &str = "/init";

/// How long each measurement lasts.
const SPAN: Duration = Duration::from_millis(1000);

/// What precedes a finding on the console.
pub(super) const MARK: &str = "bench:";

/// The last line when all went well.
pub(super) const DONE: &str = "bench: done";

/// The disk that is read.
pub(super) const DISK: &str = "/dev/vdb";

/// Size of one sequential read, in bytes.
pub(super) const CHUNK: usize = 1 << 20;

/// Size of one random read, and the alignment of every buffer, in bytes.
pub(super) const BLOCK: usize = 4096;

/// Whether this process was started as the first one of a measured guest.
pub(crate) fn is_our_role() -> bool {
    std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == PATH)
}

/// Measures, reports and waits for the monitor to be ended.
pub(crate) fn main() -> ! {
    match measure() {
        Ok(()) => println!("{DONE}"),
        Err(error) => println!("{MARK} failed: {error:#}"),
    }
    loop {
        std::thread::park();
    }
}

fn measure() -> Result<()> {
    if let Ok(work) = std::env::var(balloon::WORK) {
        return balloon::in_guest(&work);
    }
    if std::env::var_os(storage::ROLE).is_some() {
        return storage::measure();
    }
    if let Ok(host) = std::env::var(network::HOST) {
        return network::in_guest(&host);
    }
    if std::env::var_os(vsock::ROLE).is_some() {
        return vsock::in_guest();
    }
    let disk = File::options().read(true).custom_flags(OFlags::DIRECT.bits() as i32).open(DISK);
    let disk = disk.with_context(|| format!("open {DISK}"))?;
    println!("{MARK} sequential {:.3}", sequential(&disk)?);
    println!("{MARK} random {:.3}", random(&disk)?);
    Ok(())
}

/// Reads the disk from its start to its end, again and again; MiB a second.
fn sequential(disk: &File) -> Result<f64> {
    let mut buffer = Aligned::new(CHUNK);
    let (start, mut bytes, mut offset) = (Instant::now(), 0, 0);
    while start.elapsed() < SPAN {
        let count = disk.read_at(buffer.bytes(), offset).context("read")? as u64;
        bytes += count;
        offset = if count == 0 { 0 } else { offset + count };
    }
    Ok(bytes as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64())
}

/// Reads 4 KiB at random places, one at a time; reads a second.
fn random(disk: &File) -> Result<f64> {
    let blocks = size(disk)? / BLOCK as u64;
    let blocks = usize::try_from(blocks).context("size of the disk")?;
    ensure!(blocks > 0, "{DISK} is empty");
    let mut buffer = Aligned::new(BLOCK);
    let mut random = SplitMix(1);
    let (start, mut reads) = (Instant::now(), 0_u32);
    while start.elapsed() < SPAN {
        let offset = (random.below(blocks) * BLOCK) as u64;
        disk.read_exact_at(buffer.bytes(), offset).context("read")?;
        reads += 1;
    }
    Ok(f64::from(reads) / start.elapsed().as_secs_f64())
}

/// The size of a block device: its metadata says nothing.
pub(super) fn size(mut disk: &File) -> Result<u64> {
    use std::io::Seek;
    Ok(disk.seek(std::io::SeekFrom::End(0))?)
}

/// A buffer at an address that direct I/O accepts.
pub(super) struct Aligned {
    room: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    pub(super) fn new(length: usize) -> Self {
        let room = vec![0; length + BLOCK];
        let start = room.as_ptr().align_offset(BLOCK);
        Self { room, start, length }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        self.room.get_mut(self.start..self.start + self.length).unwrap_or_default()
    }
}

/// The command line of a kernel whose first process is this program, with `more` words: they say what
/// it is to do.
pub(super) fn cmdline(more: &str) -> String {
    let line = format!("console=ttyS0 quiet panic=-1 root=/dev/vda ro init={PATH} {more}");
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_for_direct_io_are_aligned() {
        let mut buffer = Aligned::new(BLOCK);
        assert_eq!(buffer.bytes().len(), BLOCK);
        assert_eq!(buffer.bytes().as_ptr() as usize % BLOCK, 0);
    }

    #[test]
    fn reads_stay_inside_the_disk() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(3 * BLOCK as u64).unwrap();
        let disk = File::open(disk.path()).unwrap();
        assert!(sequential(&disk).unwrap() > 0.0);
        assert!(random(&disk).unwrap() > 0.0);
    }
}
