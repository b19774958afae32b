//! An overlay that somebody else has written: it is refused, or serves as any disk.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use arbitrary::{Result, Unstructured};
use rustix::fs::{MemfdFlags, memfd_create};

use super::sockets::Scratch;
use crate::devices::virtio::block::Disk;
use crate::devices::virtio::block::Zeroes;

/// Bytes of the base, all of them [`FILLING`].
const BASE: usize = 256 << 10;
const FILLING: u8 = 0xbb;
const CLUSTER: usize = 1 << 16;
/// Numbers in the overlay that an input changes at most, and requests it makes.
const MAX_CHANGES: usize = 16;
const MAX_REQUESTS: usize = 8;

/// An overlay of any bytes, or a sound one with some of its numbers changed.
pub fn overlay(data: &[u8]) {
    let _ = run(&mut Unstructured::new(data));
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let Some(sound) = sound() else { return Ok(()) };
    let image = if input.ratio(1, 8)? {
        input.bytes(input.len() / 2)?.to_vec()
    } else {
        let mut image = sound.clone();
        for _ in 0..input.int_in_range(0..=MAX_CHANGES)? {
            change(&mut image, input)?;
        }
        image
    };
    let (Some(base), Some(file)) = (memory(&[FILLING; BASE]), memory(&image)) else {
        return Ok(());
    };
    let (base, file) = (Memory(base), Memory(file));
    let open = || Disk::open_overlay(&base.path(), &file.path());
    let Ok(mut disk) = open() else { return Ok(()) };
    for _ in 0..MAX_REQUESTS {
        if input.is_empty() || request(&mut disk, input).is_err() {
            break;
        }
    }
    disk.flush().unwrap();
    drop(disk);
    assert!(open().is_ok(), "a sound overlay stays sound");
    let base = std::fs::read(base.path()).unwrap_or_default();
    assert!(base == [FILLING; BASE], "the base is never written");
    Ok(())
}

/// A file in memory.
struct Memory(File);

impl Memory {
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

fn memory(bytes: &[u8]) -> Option<File> {
    let mut file = File::from(memfd_create("overlay", MemfdFlags::CLOEXEC).ok()?);
    file.write_all(bytes).ok().map(|()| file)
}

/// An overlay with some data, made once.
fn sound() -> Option<&'static Vec<u8>> {
    static IMAGE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let make = || {
        let scratch = Scratch::new()?;
        let (base, path) = (scratch.path().join("base"), scratch.path().join("overlay"));
        std::fs::write(&base, vec![FILLING; BASE]).ok()?;
        let mut disk = Disk::open_overlay(&base, &path).ok()?;
        disk.write(&mut [IoSlice::new(&[1; 2 * CLUSTER])], 0).ok()?;
        disk.write_zeroes(2 * 65536, 65536, Zeroes::Keep).ok()?;
        disk.flush().ok()?;
        std::fs::read(&path).ok()
    };
    IMAGE.get_or_init(make).as_ref()
}

/// Changes one number: of the header, of its extensions, or of a table.
fn change(image: &mut [u8], input: &mut Unstructured<'_>) -> Result<()> {
    let cluster = input.int_in_range(0..=image.len() / CLUSTER)? * CLUSTER;
    let at = match input.int_in_range(0..=3)? {
        0 => cluster + usize::from(input.arbitrary::<u16>()?),
        // The tables are short.
        _ => cluster + usize::from(input.int_in_range(0..=63u8)?) * 8,
    };
    let entry = u64::from(input.int_in_range(0..=15u8)?) << 16;
    let bytes = match input.int_in_range(0..=5)? {
        0 => input.arbitrary::<u64>()?.to_be_bytes().to_vec(),
        1 => input.arbitrary::<u32>()?.to_be_bytes().to_vec(),
        2 => u16::from(input.arbitrary::<bool>()?).to_be_bytes().to_vec(),
        3 => vec![0; 8],
        4 => entry.to_be_bytes().to_vec(),
        _ => (entry | 1 << 63).to_be_bytes().to_vec(),
    };
    image.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = from);
    Ok(())
}

/// Writes and reads back, or does something else.
fn request(disk: &mut Disk, input: &mut Unstructured<'_>) -> Result<()> {
    let sector = input.int_in_range(0..=BASE / 512 - 1)?;
    let len = input.int_in_range(1..=300)? * 512;
    let (at, len) = (sector * 512, len.min(BASE - sector * 512));
    let (offset, length) = (u64::try_from(at).unwrap(), u64::try_from(len).unwrap());
    let byte = input.arbitrary()?;
    let done = match input.int_in_range(0..=5)? {
        0..=2 => {
            let done = disk.write(&mut [IoSlice::new(&vec![byte; len])], offset);
            done.is_ok().then_some(byte)
        }
        3 => disk.discard(offset, length).is_ok().then_some(0),
        4 => disk.write_zeroes(offset, length, Zeroes::Keep).is_ok().then_some(0),
        _ => disk.flush().ok().and(None),
    };
    let mut read = vec![0; len];
    let result = disk.read(&mut [IoSliceMut::new(&mut read)], offset);
    if let (Some(byte), Ok(_)) = (done, result) {
        assert!(read == vec![byte; len], "what was written is read");
    }
    Ok(())
}
