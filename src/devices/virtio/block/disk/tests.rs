use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::os::unix::net::UnixListener;

use rustix::fs::CWD;
use tempfile::{NamedTempFile, tempdir};

use super::*;
use crate::memory::MAX_IOVECS;

fn image(sectors: u64) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(sectors * SECTOR).unwrap();
    file
}

fn open_error(path: &Path, readonly: bool) -> String {
    Disk::open(path, readonly).unwrap_err().to_string()
}

/// B17.
#[test]
fn files_that_are_no_disks_are_refused_without_blocking() {
    let dir = tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mkfifoat(CWD, &fifo, Mode::from_raw_mode(0o600)).unwrap();
    let socket = dir.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    for readonly in [false, true] {
        for (path, kind) in [
            (fifo.as_path(), "pipe"),
            (socket.as_path(), "socket"),
            (dir.path(), "directory"),
            (Path::new("/dev/zero"), "character device"),
            (Path::new("/dev/null"), "character device"),
        ] {
            let message = open_error(path, readonly);
            assert!(message.contains(&format!("is a {kind}")), "{message}");
        }
    }
}

/// B17: a link is what the user named; what it leads to is what counts.
#[test]
fn symbolic_link_to_an_image_is_followed_and_locks_the_image() {
    let dir = tempdir().unwrap();
    let file = image(4);
    let link = dir.path().join("link");
    symlink(file.path(), &link).unwrap();
    let disk = Disk::open(&link, false).unwrap();
    assert_eq!(disk.sectors(), 4);
    assert!(matches!(Disk::open(file.path(), false), Err(DiskError::Locked { .. })));
}

#[test]
fn missing_empty_and_tiny_images_are_refused_by_name() {
    let dir = tempdir().unwrap();
    let missing = dir.path().join("missing.img");
    assert!(open_error(&missing, true).ends_with("missing.img for reading"));
    for len in [0, 1, 511] {
        let path = dir.path().join("small.img");
        File::create(&path).unwrap().set_len(len).unwrap();
        let message = open_error(&path, false);
        assert!(message.contains(&format!("holds {len} bytes")), "{message}");
    }
}

#[test]
fn trailing_part_of_a_sector_is_not_used() {
    let file = image(2);
    file.as_file().set_len(2 * SECTOR + 511).unwrap();
    assert_eq!(Disk::open(file.path(), true).unwrap().sectors(), 2);
}

/// K9: size is no reason to read or allocate anything.
#[test]
fn sparse_image_of_a_tebibyte_opens_at_once() {
    let file = image((1 << 40) / SECTOR);
    assert_eq!(Disk::open(file.path(), false).unwrap().sectors(), 1 << 31);
}

/// B14.
#[test]
fn writable_image_admits_no_second_user_and_readers_share() {
    let file = image(1);
    let locked = |readonly| match Disk::open(file.path(), readonly) {
        Err(error @ DiskError::Locked { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let writer = Disk::open(file.path(), false).unwrap();
    assert!(locked(false).contains("already locked by another process"));
    locked(true);
    drop(writer);
    let _reader = Disk::open(file.path(), true).unwrap();
    let _second = Disk::open(file.path(), true).unwrap();
    locked(false);
}

#[test]
fn refused_disk_leaves_the_image_unlocked() {
    let file = image(0);
    Disk::open(file.path(), false).unwrap_err();
    file.as_file().set_len(SECTOR).unwrap();
    Disk::open(file.path(), false).unwrap();
}

/// B6: the descriptor itself cannot write.
#[test]
fn readonly_disk_cannot_write_even_when_told_to() {
    let file = image(1);
    let mut disk = Disk::open(file.path(), true).unwrap();
    disk.readonly = false;
    let error = disk.write(&mut [IoSlice::new(&[1; 512])], 0).unwrap_err();
    assert_eq!(error, Incomplete { done: 0, source: Errno::BADF });
    assert_eq!(disk.discard(0, 512), Err(Errno::BADF));
    assert_eq!(fs::read(file.path()).unwrap(), [0; 512]);
}

/// B1.
#[test]
fn offsets_outside_the_disk_and_wrapping_ones_are_refused() {
    let file = image(8);
    let disk = Disk::open(file.path(), true).unwrap();
    assert_eq!(disk.offset_of(0, 8 * 512), Some(0));
    assert_eq!(disk.offset_of(7, 512), Some(7 * 512));
    assert_eq!(disk.offset_of(8, 0), Some(8 * 512));
    for (sector, len) in [
        (0, 8 * 512 + 1),
        (7, 1024),
        (8, 512),
        (9, 0),
        (1 << 55, 512),
        (u64::MAX / 512, 512),
        (u64::MAX / 512 + 1, 512),
        (u64::MAX, 512),
        (1, u64::MAX),
    ] {
        assert_eq!(disk.offset_of(sector, len), None, "{sector} {len}");
    }
}

/// B8: no mapping, hence no SIGBUS.
#[test]
fn read_past_the_end_of_a_truncated_image_is_an_error_with_the_part_done() {
    let file = image(4);
    file.as_file().write_all_at(&[7; 1000], 0).unwrap();
    let disk = Disk::open(file.path(), true).unwrap();
    file.as_file().set_len(1000).unwrap();
    let mut buf = [0; 2048];
    let error = disk.read(&mut [IoSliceMut::new(&mut buf)], 0).unwrap_err();
    assert_eq!(error, Incomplete { done: 1000, source: Errno::IO });
    assert_eq!(buf[..1000], [7; 1000]);
    assert_eq!(buf[1000..], [0; 1048]);
}

#[test]
fn lists_longer_than_the_kernel_takes_are_split() {
    let file = image(4096);
    let disk = Disk::open(file.path(), false).unwrap();
    let chunk = [9; 512];
    let mut list = vec![IoSlice::new(&chunk); 2 * MAX_IOVECS + 5];
    let len = u64::try_from(list.len()).unwrap() * 512;
    assert_eq!(disk.write(&mut list, 512), Ok(len));
    let mut bufs = vec![[0; 512]; 2 * MAX_IOVECS + 5];
    let mut list: Vec<_> = bufs.iter_mut().map(|b| IoSliceMut::new(b)).collect();
    assert_eq!(disk.read(&mut list, 512), Ok(len));
    assert!(bufs.iter().all(|b| *b == chunk));
}

/// B11.
#[test]
fn failed_flush_is_never_followed_by_a_successful_one() {
    let file = image(1);
    let mut disk = Disk::open(file.path(), false).unwrap();
    assert_eq!(disk.flush(), Ok(()));
    // A pipe cannot be synchronised: this stands for storage that fails once.
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let good = std::mem::replace(&mut disk.files, Arc::new(Files::new(pipe)));
    assert_eq!(disk.flush(), Err(Errno::INVAL));
    disk.files = good;
    assert_eq!(disk.flush(), Err(Errno::IO));
    assert_eq!(disk.flush(), Err(Errno::IO));
}

#[test]
fn discard_and_unmapping_zeroes_free_space_and_keeping_zeroes_do_not() {
    let mut file = image(0);
    file.write_all(&vec![5; 1 << 20]).unwrap();
    file.as_file().sync_all().unwrap();
    let blocks = || file.as_file().metadata().unwrap().blocks();
    let mut disk = Disk::open(file.path(), false).unwrap();
    let full = blocks();
    disk.write_zeroes(0, 256 << 10, Zeroes::Keep).unwrap();
    assert_eq!(blocks(), full);
    disk.write_zeroes(256 << 10, 256 << 10, Zeroes::Unmap).unwrap();
    disk.discard(512 << 10, 256 << 10).unwrap();
    assert!(blocks() < full);
    let seen = fs::read(file.path()).unwrap();
    assert_eq!(seen.len(), 1 << 20);
    assert!(seen[..768 << 10].iter().all(|b| *b == 0));
    assert!(seen[768 << 10..].iter().all(|b| *b == 5));
}

#[test]
fn zeroes_are_written_out_where_the_file_system_has_no_ranges() {
    let mut file = image(0);
    file.write_all(&vec![5; 1 << 20]).unwrap();
    let disk = Disk::open(file.path(), false).unwrap();
    disk.write_zero_bytes(512, 600 << 10).unwrap();
    let seen = fs::read(file.path()).unwrap();
    let end = 512 + (600 << 10);
    assert!(seen[..512].iter().all(|b| *b == 5));
    assert!(seen[512..end].iter().all(|b| *b == 0));
    assert!(seen[end..].iter().all(|b| *b == 5));
}

/// B16.
#[test]
fn file_without_direct_io_is_refused_by_name() {
    // Files of sysfs are regular, of 4096 bytes, and can be read without harm.
    let error = Disk::open_direct(Path::new("/sys/kernel/uevent_seqnum"), true).unwrap_err();
    assert!(matches!(error, DiskError::NoDirect { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("uevent_seqnum") && text.contains("direct=on"), "{text}");
}
