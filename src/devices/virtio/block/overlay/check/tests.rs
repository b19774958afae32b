use std::fs;
use std::io::{IoSlice, Write};
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::devices::virtio::block::disk::{Disk, Zeroes};

const BASE: u64 = 1 << 20;

/// Paths of a base and of an overlay that is not there yet.
struct Case(TempDir);

impl Case {
    fn new() -> Self {
        let case = Self(TempDir::new().unwrap());
        fs::write(case.path("base"), vec![0xbb; usize::try_from(BASE).unwrap()]).unwrap();
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn disk(&self) -> Disk {
        Disk::open_overlay(&self.path("base"), &self.path("overlay")).unwrap()
    }

    /// An overlay in which the first clusters of the disk are written, and one reads as zeroes.
    fn sound() -> Vec<u8> {
        let case = Self::new();
        let mut disk = case.disk();
        disk.write(&mut [IoSlice::new(&[1; 3 << 16])], 0).unwrap();
        disk.write_zeroes(3 << 16, 1 << 16, Zeroes::Keep).unwrap();
        disk.flush().unwrap();
        drop(disk);
        fs::read(case.path("overlay")).unwrap()
    }
}

fn file(image: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(image).unwrap();
    file
}

fn checked(image: &[u8]) -> Result<Sound, Unfit> {
    check(&file(image), BASE)
}

fn put(image: &mut [u8], at: u64, bytes: &[u8]) {
    image[usize::try_from(at).unwrap()..][..bytes.len()].copy_from_slice(bytes);
}

fn offset(image: &[u8], at: u64) -> u64 {
    long(image, usize::try_from(at).unwrap()) & OFFSET
}

/// The header, and an entry in each of the tables.
struct Places {
    l1: u64,
    l2: u64,
    counts: u64,
    block: u64,
}

impl Places {
    fn of(image: &[u8]) -> Self {
        let (l1, counts) = (offset(image, 40), offset(image, 48));
        Self { l1, l2: offset(image, l1), counts, block: offset(image, counts) }
    }
}

/// B18.
#[test]
fn headers_that_ask_for_anything_else_are_refused() {
    let sound = Case::sound();
    checked(&sound).unwrap();
    let word = |word: u32| word.to_be_bytes().to_vec();
    let long = |long: u64| long.to_be_bytes().to_vec();
    for (at, bytes, reason) in [
        (0, word(0), "no qcow2 file of version 3"),
        (4, word(2), "no qcow2 file of version 3"),
        (8, long(0), "an image of its own"),
        (20, word(9), "clusters of 2^9 bytes"),
        (20, word(21), "clusters of 2^21 bytes"),
        (20, word(u32::MAX), "clusters of 2^4294967295 bytes"),
        (24, long(BASE + 512), "for a base of 1049088 bytes"),
        (24, long(u64::MAX), "for a base of"),
        (32, word(1), "encrypted data"),
        (36, word(0), "not as long as the size demands"),
        (36, word(8193), "not as long as the size demands"),
        (36, word(u32::MAX), "not as long as the size demands"),
        (40, long(0), "used twice"),
        (40, long(0x1_0001), "used twice"),
        (40, long(u64::MAX), "far outside"),
        (48, long(0), "used twice"),
        (48, long(1 << 62), "far outside"),
        (56, word(0), "not as long as the size demands"),
        (56, word(u32::MAX), "not as long as the size demands"),
        (60, word(1), "snapshots"),
        (72, long(1), "features of which not all are known"),
        (72, long(4), "data in another file"),
        (72, long(1 << 4), "features of which not all are known"),
        (72, long(1 << 63), "features of which not all are known"),
        (88, long(1), "features of which not all are known"),
        (96, word(6), "another width"),
        (96, word(u32::MAX), "another width"),
        (100, word(0), "impossible length"),
        (100, word(109), "impossible length"),
        (100, word(0xffff_fff8), "longer than a cluster"),
    ] {
        let mut image = sound.clone();
        put(&mut image, at, &bytes);
        let said = checked(&image).unwrap_err().to_string();
        assert!(said.contains(reason), "{bytes:x?} at {at}: {said}");
    }
}

/// B18.
#[test]
fn extensions_that_are_cut_off_or_unknown_are_refused() {
    let sound = Case::sound();
    let (first, names) = (word(&sound, 100), FEATURE_NAMES.to_be_bytes());
    for (kind, len, reason) in [
        (names, 1, "not known"),
        (names, 49, "not known"),
        (names, 48 << 20, "longer than a cluster"),
        (names, u32::MAX / 48 * 48, "longer than a cluster"),
        (BASE_FORMAT.to_be_bytes(), 0xfff8, "longer than a cluster"),
        (0x4441_5441u32.to_be_bytes(), 8, "not known"),
        ([0xff; 4], 0, "not known"),
    ] {
        let mut image = sound.clone();
        put(&mut image, first.into(), &[kind, len.to_be_bytes()].concat());
        let said = checked(&image).unwrap_err().to_string();
        assert!(said.contains(reason), "{kind:x?} of {len}: {said}");
    }
}

/// B18.
#[test]
fn tables_that_contradict_themselves_are_refused() {
    let sound = Case::sound();
    let at = Places::of(&sound);
    let data = offset(&sound, at.l2);
    for (place, entry, reason) in [
        (at.l1, 1, "bits that mean nothing"),
        (at.l1, at.l2 | 1 << 9, "bits that mean nothing"),
        (at.l1, at.l1 | COPIED, "used twice"),
        (at.l1, CLUSTER << 30 | COPIED, "far outside"),
        (at.l1, OFFSET | COPIED, "far outside"),
        (at.l2, COMPRESSED | data, "compressed clusters"),
        (at.l2, data | 2, "bits that mean nothing"),
        // The guest would write the tables themselves.
        (at.l2, at.l1 | COPIED, "used twice"),
        (at.l2, at.l2 | COPIED, "used twice"),
        (at.l2, at.counts, "used twice"),
        (at.l2, at.block | ZERO, "used twice"),
        (at.l2 + 8, data | COPIED, "used twice"),
        (at.l2, OFFSET | COPIED, "far outside"),
        (at.counts, at.block | 1, "bits that mean nothing"),
        (at.counts, 0, "no place for its count"),
        (at.counts, at.counts, "used twice"),
        (at.counts + 8, at.block, "used twice"),
        (at.counts, OFFSET, "far outside"),
    ] {
        let mut image = sound.clone();
        put(&mut image, place, &entry.to_be_bytes());
        let said = checked(&image).unwrap_err().to_string();
        assert!(said.contains(reason), "{entry:x} at {place:x}: {said}");
    }
}

/// B18: too few, which would have a table overwritten by data; too many; and clusters lost.
#[test]
fn counts_are_made_anew() {
    let sound = Case::sound();
    let block = Places::of(&sound).block;
    for (at, counts) in [
        (0, [0; 8]),
        (8, [0; 8]),
        (0, [0xff; 8]),
        (0x4000, [0, 1, 0, 0, 0xff, 0xff, 0, 7]),
        (0xfff8, [0, 0, 0, 0, 0, 0, 0, 1]),
    ] {
        let mut image = sound.clone();
        put(&mut image, block + at, &counts);
        let file = file(&image);
        check(&file, BASE).unwrap().count_anew(&file).unwrap();
        assert_eq!(cluster(&file, block).unwrap(), cluster(&self::file(&sound), block).unwrap());
    }
}

/// B18.
#[test]
fn base_too_large_to_keep_book_of_is_refused() {
    let mut image = Case::sound();
    let size = MAX_BASE + 1;
    put(&mut image, 24, &size.to_be_bytes());
    put(&mut image, 36, &u32::try_from(size.div_ceil(CLUSTER * ENTRIES)).unwrap().to_be_bytes());
    let said = check(&file(&image), size).unwrap_err().to_string();
    assert!(said.contains("more than 16 TiB"), "{said}");
}

/// What is wrong with the overlay of a base of `size` bytes, as a machine that is killed now leaves it.
fn wrong(case: &Case, size: u64) -> Option<String> {
    let found = check(&File::open(case.path("overlay")).unwrap(), size);
    found.err().map(|unfit| unfit.to_string())
}

/// B18: a cluster that has just become free is used for a new table at once, and the machine is killed.
#[test]
fn table_in_place_of_discarded_data_is_not_data_too() {
    const REGION: u64 = 512 << 20;
    let case = Case::new();
    File::options().write(true).open(case.path("base")).unwrap().set_len(3 * REGION).unwrap();
    let mut disk = case.disk();
    disk.write(&mut [IoSlice::new(&[1; 4 << 16])], 0).unwrap();
    disk.flush().unwrap();
    disk.discard(0, 2 << 16).unwrap();
    disk.write(&mut [IoSlice::new(&[2; 512])], REGION).unwrap();
    assert_eq!(wrong(&case, 3 * REGION), None);
    disk.write_zeroes(2 << 16, 2 << 16, Zeroes::Unmap).unwrap();
    disk.discard(2 * REGION - (1 << 16), 2 << 16).unwrap();
    assert_eq!(wrong(&case, 3 * REGION), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// B18: a machine may be killed at any moment: what it leaves can be used, also without a flush.
    #[test]
    fn overlay_is_sound_at_any_moment(
        deeds in prop::collection::vec((0u8..6, 0u64..5, 0u64..2000, 1u64..300, any::<bool>()), 1..40),
    ) {
        // Five tables of the second level, and places beside their borders.
        const REGION: u64 = 512 << 20;
        let size = 5 * REGION;
        let case = Case::new();
        File::options().write(true).open(case.path("base")).unwrap().set_len(size).unwrap();
        let mut disk = case.disk();
        prop_assert_eq!(wrong(&case, size), None);
        for (deed, region, sector, sectors, reopen) in deeds {
            let at = (region * REGION + sector * 512).saturating_sub(1000 * 512);
            let len = sectors * 512;
            match deed {
                0..3 => {
                    let bytes = vec![7; usize::try_from(len).unwrap()];
                    disk.write(&mut [IoSlice::new(&bytes)], at).unwrap();
                }
                3 => disk.discard(at, len * 64).unwrap(),
                4 => disk.write_zeroes(at, len, Zeroes::Keep).unwrap(),
                _ => disk.flush().unwrap(),
            }
            prop_assert_eq!(wrong(&case, size), None);
            if reopen {
                drop(disk);
                disk = case.disk();
            }
        }
    }
}
