//! Images unpacked.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::*;
use crate::testing::{Image, Tar, flatten};

fn image() -> Image {
    let big = vec![7; 300_000];
    let one = Tar::default()
        .dir("d")
        .file("d/big", &big)
        .file("d/small", b"small")
        .file("empty", b"")
        .symlink("link", "/etc/passwd");
    let one = one.link("d/again", "d/small").dir("deep").dir("deep/er").file("deep/er/f", b"f");
    flatten(&[one.end()]).unwrap()
}

/// Everything below a directory by its path, as the reader of tests shows it.
fn found(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(at) = pending.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            let content = if kind.is_dir() {
                pending.push(path.clone());
                "/".to_owned()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else {
                fs::read(&path).unwrap().escape_ascii().to_string()
            };
            let name = path.strip_prefix(directory).unwrap().display().to_string();
            found.insert(name, content);
        }
    }
    found
}

#[test]
fn directory_has_what_the_image_has() {
    let (image, directory) = (image(), tempfile::tempdir().unwrap());
    let done = unpack(&image.0, directory.path()).unwrap();
    assert_eq!(found(directory.path()), image.contents());
    assert_eq!((done.files, done.left_out), (9, 0));
    let inode = |name: &str| directory.path().join(name).metadata().unwrap().ino();
    assert_eq!(inode("d/small"), inode("d/again"));
    let metadata = directory.path().join("d/small").metadata().unwrap();
    let expected = image.find("d/small");
    assert_eq!(metadata.mode() & 0o7777, u32::from(expected.mode) & 0o7777);
    assert_eq!((metadata.mtime(), metadata.uid()), (expected.mtime.0, expected.uid));
}

#[test]
fn damaged_image_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let empty = tempfile::tempfile().unwrap();
    let error = unpack(&empty, directory.path()).unwrap_err();
    assert!(matches!(error, UnpackError::Damaged(_)), "{error}");
    let image = image();
    image.0.set_len(image.0.metadata().unwrap().len() / 2).unwrap();
    assert!(unpack(&image.0, directory.path()).is_err());
}

/// Whatever single byte of inodes and directories is changed, all that is made is below the directory.
#[test]
fn changed_image_leads_nowhere_else() {
    let original = image();
    let bytes = original.all();
    let meta = bytes.len() - 4096;
    for at in (meta..bytes.len()).step_by(11).chain(1024..1100) {
        let changed = tempfile::tempfile().unwrap();
        changed.write_all_at(&bytes, 0).unwrap();
        changed.write_all_at(&[bytes[at] ^ 0x2f], u64::try_from(at).unwrap()).unwrap();
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("inner");
        fs::create_dir(&inner).unwrap();
        // Whether it fails does not matter here; a size of terabytes is a hole.
        let _ = unpack(&changed, &inner);
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1, "byte {at}");
    }
}
