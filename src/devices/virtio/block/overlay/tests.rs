use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::devices::virtio::block::disk::{Disk, DiskError, Zeroes};

const SIZE: usize = 1 << 20;
const FILLING: u8 = 0xbb;

struct Case {
    directory: TempDir,
}

impl Case {
    fn new() -> Self {
        let case = Self { directory: TempDir::new().unwrap() };
        fs::write(case.base(), vec![FILLING; SIZE]).unwrap();
        case
    }

    fn base(&self) -> PathBuf {
        self.directory.path().join("base")
    }

    fn overlay(&self) -> PathBuf {
        self.directory.path().join("overlay")
    }

    fn disk(&self) -> Disk {
        Disk::open_overlay(&self.base(), &self.overlay()).unwrap()
    }

    /// Why an overlay of these contents is refused.
    fn refused(&self) -> String {
        let error = Disk::open_overlay(&self.base(), &self.overlay()).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", cause.unwrap_or_default())
    }
}

fn size() -> u64 {
    u64::try_from(SIZE).unwrap()
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

fn write(disk: &Disk, offset: u64, bytes: &[u8]) {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let done = disk.write(&mut [IoSlice::new(first), IoSlice::new(second)], offset).unwrap();
    assert_eq!(done, u64::try_from(bytes.len()).unwrap());
}

fn read(disk: &Disk, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let (first, second) = bytes.split_at_mut(len / 2);
    disk.read(&mut [IoSliceMut::new(first), IoSliceMut::new(second)], offset).unwrap();
    bytes
}

#[test]
fn what_is_written_goes_to_the_overlay_and_stays_there() {
    let case = Case::new();
    let mut disk = case.disk();
    assert!(!disk.readonly());
    assert_eq!(disk.sectors(), 2048);
    write(&disk, 4096, &[1; 1024]);
    assert_eq!(
        read(&disk, 3584, 2048),
        [vec![FILLING; 512], vec![1; 1024], vec![FILLING; 512]].concat()
    );
    disk.flush().unwrap();
    drop(disk);
    assert_eq!(fs::read(case.base()).unwrap(), vec![FILLING; SIZE]);
    let disk = case.disk();
    assert_eq!(read(&disk, 4096, 1024), [1; 1024]);
    let about = fs::metadata(case.overlay()).unwrap();
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
    assert!(about.blocks() * 512 < 512 << 10, "it is sparse: {} blocks", about.blocks());
    let names: Vec<_> = fs::read_dir(case.directory.path()).unwrap().map(Result::unwrap).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn base_is_shared_by_overlays_and_each_overlay_has_one_writer() {
    let case = Case::new();
    let disk = case.disk();
    let other = case.directory.path().join("other");
    let second = Disk::open_overlay(&case.base(), &other).unwrap();
    write(&disk, 0, &[1; 512]);
    write(&second, 0, &[2; 512]);
    assert_eq!((read(&disk, 0, 512)[0], read(&second, 0, 512)[0]), (1, 2));
    let again = Disk::open_overlay(&case.base(), &case.overlay());
    assert!(matches!(again, Err(DiskError::Locked { .. })), "{again:?}");
    assert!(matches!(Disk::open(&case.base(), false), Err(DiskError::Locked { .. })));
    Disk::open(&case.base(), true).unwrap();
    // An overlay over itself.
    let itself = Disk::open_overlay(&case.base(), &case.base());
    assert!(matches!(itself, Err(DiskError::Locked { .. })), "{itself:?}");
}

#[test]
fn discarded_clusters_read_as_zeroes_and_are_used_again() {
    let case = Case::new();
    let mut disk = case.disk();
    write(&disk, 0, &vec![1; 512 << 10]);
    disk.flush().unwrap();
    let used = || fs::metadata(case.overlay()).unwrap().blocks();
    let before = used();
    disk.discard(0, 256 << 10).unwrap();
    disk.write_zeroes(256 << 10, 64 << 10, Zeroes::Unmap).unwrap();
    disk.write_zeroes(320 << 10, 512, Zeroes::Keep).unwrap();
    disk.flush().unwrap();
    assert_eq!(read(&disk, 0, 320 << 10), vec![0; 320 << 10]);
    assert_eq!(read(&disk, 320 << 10, 1024), [vec![0; 512], vec![1; 512]].concat());
    write(&disk, 512 << 10, &vec![2; 320 << 10]);
    disk.flush().unwrap();
    assert!(used() <= before, "{} blocks instead of {before}", used());
    drop(disk);
    assert_eq!(read(&case.disk(), 0, 512), [0; 512]);
}

#[test]
fn files_that_are_no_overlay_of_this_base_are_refused_and_left_alone() {
    let case = Case::new();
    fs::write(case.overlay(), [0x5a; 4096]).unwrap();
    let said = case.refused();
    assert!(said.contains("overlay") && !said.ends_with(": "), "{said}");
    assert_eq!(fs::read(case.overlay()).unwrap(), [0x5a; 4096]);
    fs::write(case.overlay(), b"").unwrap();
    case.refused();

    fs::remove_file(case.overlay()).unwrap();
    drop(case.disk());
    let whole = fs::read(case.overlay()).unwrap();
    for cut in [1, 4, 71] {
        fs::write(case.overlay(), &whole[..cut]).unwrap();
        case.refused();
    }
    for cut in (72..whole.len()).step_by(4093) {
        fs::write(case.overlay(), &whole[..cut]).unwrap();
        // Its tables may be gone and its header sound: that is an empty overlay.
        if let Ok(disk) = Disk::open_overlay(&case.base(), &case.overlay()) {
            let _ = disk.read(&mut [IoSliceMut::new(&mut [0; 512])], 0);
        }
    }
    fs::write(case.overlay(), &whole).unwrap();
    fs::write(case.base(), vec![FILLING; SIZE * 2]).unwrap();
    assert!(case.refused().contains("it is for a base of 1048576 bytes, and this one has 2097152"));

    fs::remove_file(case.overlay()).unwrap();
    fs::create_dir(case.overlay()).unwrap();
    assert!(case.refused().contains("is a directory"));
}

/// B15: an overlay that names another file gets the base that was given and nothing else.
#[test]
fn names_in_the_header_of_an_overlay_are_not_followed() {
    let case = Case::new();
    let secret = case.directory.path().join("secret");
    fs::write(&secret, vec![0x11; SIZE]).unwrap();
    drop(Overlay::create(&case.overlay(), &secret, size()).unwrap());
    assert_eq!(read(&case.disk(), 0, 512), [FILLING; 512]);

    fs::remove_file(case.overlay()).unwrap();
    let file = fs::File::create_new(case.overlay()).unwrap();
    let data = fs::File::options().read(true).write(true).open(&secret).unwrap();
    Qcow2::<Storage>::create_builder(storage(file.into()).unwrap())
        .size(size())
        .backing("base".to_owned(), "raw".to_owned())
        .data_file("secret".to_owned(), storage(data.into()).unwrap())
        .create()
        .unwrap();
    assert!(case.refused().contains("data"), "{}", case.refused());
}

/// B18: the table of a machine that was killed before its first flush is in use, and counted as free.
#[test]
fn tables_of_a_killed_machine_are_not_overwritten() {
    let case = Case::new();
    let disk = case.disk();
    write(&disk, 0, &[1; 512]);
    let killed = case.directory.path().join("killed");
    fs::copy(case.overlay(), &killed).unwrap();
    let open = || Disk::open_overlay(&case.base(), &killed).unwrap();
    for round in 2..5 {
        let mut disk = open();
        write(&disk, 0, &vec![round; SIZE]);
        disk.flush().unwrap();
        drop(disk);
        assert!(read(&open(), 0, SIZE).iter().all(|byte| *byte == round), "round {round}");
    }
}

#[test]
fn base_that_ends_amid_a_sector_has_overlays() {
    let case = Case::new();
    fs::write(case.base(), vec![FILLING; SIZE + 1024 + 100]).unwrap();
    for _ in 0..2 {
        let disk = case.disk();
        assert_eq!(disk.sectors(), 2050);
        write(&disk, size() + 512, &[1; 512]);
        assert_eq!(read(&disk, size(), 1024), [[FILLING; 512], [1; 512]].concat());
    }
}

#[test]
fn image_without_a_base_is_no_overlay() {
    let case = Case::new();
    let file = fs::File::options().read(true).write(true).create_new(true).open(case.overlay());
    Qcow2::<Storage>::create_builder(storage(file.unwrap().into()).unwrap())
        .size(size())
        .create()
        .unwrap();
    assert!(case.refused().contains("no overlay"), "{}", case.refused());
}

#[test]
fn overlay_that_cannot_be_made_leaves_nothing() {
    let case = Case::new();
    let missing = case.directory.path().join("missing").join("overlay");
    let error = Disk::open_overlay(&case.base(), &missing).unwrap_err();
    assert!(matches!(error, DiskError::Overlay { .. }), "{error:?}");
    assert!(!missing.exists());
    assert_eq!(fs::read_dir(case.directory.path()).unwrap().count(), 1);
}

#[derive(Clone, Debug)]
enum Deed {
    Write(u64, usize, u8),
    Discard(u64, usize),
    Zero(u64, usize),
    Flush,
    Reopen,
}

fn deed() -> impl Strategy<Value = Deed> {
    let place = (0u64..2000, 1usize..48).prop_map(|(at, len)| (at * 512, len * 512));
    prop_oneof![
        4 => (place.clone(), 1u8..).prop_map(|((at, len), byte)| Deed::Write(at, len, byte)),
        1 => place.clone().prop_map(|(at, len)| Deed::Discard(at, len)),
        1 => place.prop_map(|(at, len)| Deed::Zero(at, len)),
        1 => Just(Deed::Flush),
        1 => Just(Deed::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// An overlay reads as a plain disk would, whatever is done to it, also when it is opened anew.
    #[test]
    fn overlay_reads_as_what_was_done_to_it(deeds in prop::collection::vec(deed(), 1..40)) {
        let case = Case::new();
        let mut disk = case.disk();
        let mut model = vec![FILLING; SIZE];
        for deed in deeds {
            match deed {
                Deed::Write(at, len, byte) => {
                    write(&disk, at, &vec![byte; len]);
                    model[index(at)..][..len].fill(byte);
                }
                Deed::Discard(at, len) => {
                    disk.discard(at, u64::try_from(len).unwrap()).unwrap();
                    model[index(at)..][..len].fill(0);
                }
                Deed::Zero(at, len) => {
                    disk.write_zeroes(at, u64::try_from(len).unwrap(), Zeroes::Keep).unwrap();
                    model[index(at)..][..len].fill(0);
                }
                Deed::Flush => disk.flush().unwrap(),
                Deed::Reopen => {
                    disk.flush().unwrap();
                    drop(disk);
                    disk = case.disk();
                }
            }
        }
        prop_assert_eq!(read(&disk, 0, SIZE), model);
        prop_assert_eq!(fs::read(case.base()).unwrap(), vec![FILLING; SIZE]);
    }
}
