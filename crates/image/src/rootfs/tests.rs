//! The same layers read by others: GNU tar, umoci and the tools of EROFS.

#![allow(clippy::as_conversions, reason = "the numbers of tests are small")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::testing::{Image, Tar, flatten};

/// What two readers must agree on.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    mtime: (i64, i64),
    /// Of anything but a directory.
    size: u64,
    links: u64,
    /// What a file contains, or where a symbolic link leads.
    contents: Vec<u8>,
}

fn directory(root: &Path) -> BTreeMap<String, Seen> {
    let mut seen = BTreeMap::new();
    let mut pending = vec![(String::new(), root.to_owned())];
    while let Some((name, path)) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                let escaped = entry.file_name().as_bytes().escape_ascii().to_string();
                pending.push((format!("{name}/{escaped}"), entry.path()));
            }
        }
        seen.insert(name, seen_on_disk(&path, &metadata));
    }
    seen
}

fn seen_on_disk(path: &Path, metadata: &Metadata) -> Seen {
    let contents = if metadata.is_file() {
        fs::read(path).unwrap()
    } else if metadata.is_symlink() {
        fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    Seen {
        mode: metadata.mode(),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        size: if metadata.is_dir() { 0 } else { metadata.size() },
        links: if metadata.is_dir() { 0 } else { metadata.nlink() },
        contents,
    }
}

fn image(image: &Image) -> BTreeMap<String, Seen> {
    let list = image.list().into_iter();
    list.map(|(path, inode)| {
        let is_dir = inode.mode >> 12 == 4;
        let size = if is_dir { 0 } else { inode.size };
        let seen = Seen {
            mode: inode.mode.into(),
            mtime: (inode.mtime.0, inode.mtime.1.into()),
            size,
            links: if is_dir { 0 } else { inode.links.into() },
            contents: if is_dir { Vec::new() } else { image.read(&inode, 0, size as usize) },
        };
        (path, seen)
    })
    .collect()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let printed = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&printed));
}

/// A tree with something of everything an ordinary user can make.
fn populate(root: &Path) {
    let path = |name: &str| root.join(name);
    for name in ["bin", "usr/bin", "etc/deep/er", "many", "opaque"] {
        fs::create_dir_all(path(name)).unwrap();
    }
    let pattern: Vec<u8> = (0..300_000_u32).map(|at| (at % 253) as u8).collect();
    for len in [0, 1, 2048, 2049, 4096, 4097, 300_000] {
        fs::write(path(&format!("etc/{len}")), &pattern[..len]).unwrap();
    }
    (0..400).for_each(|index| {
        fs::write(path(&format!("many/some-name-of-some-length-{index}")), [1]).unwrap();
    });
    fs::write(path("opaque/hidden"), "hidden").unwrap();
    fs::write(path("usr/bin/tool"), &pattern[..10_000]).unwrap();
    fs::hard_link(path("usr/bin/tool"), path("bin/hard")).unwrap();
    symlink("../usr/bin/tool", path("bin/soft")).unwrap();
    symlink("usr/bin", path("sbin")).unwrap();
    fs::write(path(&"n".repeat(200)), "long").unwrap();
    fs::write(path("odd \n\u{e4}"), "odd").unwrap();
    let sparse = File::create(path("sparse")).unwrap();
    sparse.set_len(6 << 20).unwrap();
    (0..5).for_each(|index| sparse.write_all_at(b"data", (index << 20) + 5000).unwrap());
    for (name, mode) in
        [("usr/bin/tool", 0o4755), ("etc", 0o1777), ("many", 0o500), ("bin", 0o2711)]
    {
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn allow_removal(root: &Path) {
    fs::set_permissions(root.join("many"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn archives_of_gnu_tar_are_read_as_it_means_them() {
    let tree = TempDir::new().unwrap();
    populate(tree.path());
    let formats = [
        "--format=gnu",
        "--format=gnu --sparse",
        "--format=pax",
        "--format=pax --sparse --sparse-version=0.0",
        "--format=pax --sparse --sparse-version=0.1",
        "--format=pax --sparse --sparse-version=1.0",
    ];
    let expected = directory(tree.path());
    for format in formats {
        let archive = Command::new("tar")
            .arg("--create")
            .args(format.split(' '))
            .arg("--directory")
            .arg(tree.path())
            .arg(".")
            .output()
            .unwrap();
        let found = image(&flatten(&[archive.stdout]).unwrap());
        // GNU's format has whole seconds only.
        let whole = format.starts_with("--format=gnu");
        compare(&found, &expected, whole);
    }
    allow_removal(tree.path());
}

fn compare(found: &BTreeMap<String, Seen>, expected: &BTreeMap<String, Seen>, whole: bool) {
    for (path, expected) in expected {
        let found = found.get(path).unwrap_or_else(|| panic!("no {path}"));
        let head = |seen: &Seen| {
            let nanoseconds = if whole { 0 } else { seen.mtime.1 };
            (seen.mode, seen.mtime.0, nanoseconds, seen.size, seen.links)
        };
        assert_eq!(head(found), head(expected), "{path}");
        assert!(found.contents == expected.contents, "{path}");
    }
    assert_eq!(found.len(), expected.len());
}

fn umoci(command: &str, arguments: &[&str]) {
    let rootless = ["unpack", "repack"].contains(&command) && !geteuid().is_root();
    // What it maps to root is the user who runs it; repack knows that from the bundle.
    let rootless = (rootless && command == "unpack").then_some("--rootless");
    run(Command::new("umoci").arg(command).args(rootless).args(arguments));
}

/// Layers of the image `tag` in a directory of umoci's.
fn layers(oci: &Path) -> Vec<io::Result<Layer<File>>> {
    let json = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let hex = |digest: &Value| digest.as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let blob = |digest: &Value| oci.join("blobs/sha256").join(hex(digest));
    let index = json(&oci.join("index.json"));
    let manifest = json(&blob(&index["manifests"][0]["digest"]));
    let config = json(&blob(&manifest["config"]["digest"]));
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    let stored = manifest["layers"].as_array().unwrap();
    let pairs = stored.iter().zip(diff_ids);
    pairs
        .map(|(layer, diff_id)| {
            let digits = hex(diff_id);
            let digest: Vec<u8> = (0..32)
                .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            let compressed = File::open(blob(&layer["digest"]))?;
            Ok(Layer { compressed, diff_id: digest.try_into().unwrap() })
        })
        .collect()
}

#[test]
fn umoci_unpacks_the_same_tree() {
    let place = TempDir::new().unwrap();
    let oci = place.path().join("oci");
    let tagged = format!("{}:image", oci.display());
    let bundle = place.path().join("bundle");
    let root = bundle.join("rootfs");
    let bundle = bundle.to_str().unwrap();
    umoci("init", &["--layout", oci.to_str().unwrap()]);
    umoci("new", &["--image", &tagged]);
    umoci("unpack", &["--image", &tagged, bundle]);
    let commit = || umoci("repack", &["--refresh-bundle", "--image", &tagged, bundle]);
    populate(&root);
    commit();
    allow_removal(&root);
    fs::remove_dir_all(root.join("opaque")).unwrap();
    fs::create_dir(root.join("opaque")).unwrap();
    fs::write(root.join("opaque/new"), "new").unwrap();
    fs::remove_dir_all(root.join("many")).unwrap();
    fs::remove_file(root.join("sbin")).unwrap();
    fs::create_dir(root.join("sbin")).unwrap();
    fs::hard_link(root.join("etc/4096"), root.join("sbin/hard")).unwrap();
    commit();
    fs::remove_dir_all(root.join("etc/deep")).unwrap();
    fs::write(root.join("etc/deep"), "no directory").unwrap();
    fs::remove_file(root.join("usr/bin/tool")).unwrap();
    symlink("opaque", root.join("many")).unwrap();
    commit();
    let again = place.path().join("again");
    umoci("unpack", &["--image", &tagged, again.to_str().unwrap()]);
    let file = tempfile::tempfile().unwrap();
    let layers = layers(&oci);
    assert_eq!(layers.len(), 3);
    build(layers, &Limits::default(), &file).unwrap();
    let (found, expected) = (image(&Image(file)), directory(&again.join("rootfs")));
    compare(&found, &expected, false);
}

/// An archive with what only root can make besides.
fn everything() -> Tar {
    let tree = TempDir::new().unwrap();
    populate(tree.path());
    let mut tar = Command::new("tar");
    tar.args(["--create", "--format=pax", "--sparse", "--directory"]).arg(tree.path()).arg(".");
    let mut archive = tar.output().unwrap().stdout;
    allow_removal(tree.path());
    // Room for more members where the archive ends.
    let end = archive.chunks(512).rposition(|block| block.iter().any(|byte| *byte != 0)).unwrap();
    archive.truncate(512 * (end + 1));
    let long = [b'v'; 9000];
    let common: [(&str, &[u8]); 2] =
        [("SCHILY.xattr.user.common", b"shared"), ("SCHILY.xattr.user.long", &long)];
    Tar(archive)
        .header(b"null", b'3', |header| header.set_device_major(1).unwrap())
        .header(b"disk", b'4', |header| header.set_device_minor(300).unwrap())
        .header(b"pipe", b'6', |_| {})
        .pax(&common)
        .file("one", b"1")
        .pax(&common)
        .file("two", &[2; 5000])
        .pax(&[("SCHILY.xattr.security.capability", b"12345678901234567890")])
        .file("three", b"3")
}

#[test]
fn tools_of_erofs_find_nothing_wrong_and_extract_the_same() {
    let layers = [everything().end(), Tar::default().file(".wh.sbin", b"").end()];
    let image = flatten(&layers).unwrap();
    let place = TempDir::new().unwrap();
    let (path, out) = (place.path().join("image"), place.path().join("out"));
    fs::write(&path, image.all()).unwrap();
    let output = Command::new("fsck.erofs").arg(&path).output().unwrap();
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{printed}");
    assert!(!printed.contains("<E>") && !printed.contains("<W>"), "{printed}");
    let dumped = Command::new("dump.erofs").arg("-s").arg(&path).output().unwrap();
    let dumped = String::from_utf8(dumped.stdout).unwrap();
    assert!(dumped.contains("sb_csum mtime"), "{dumped}");
    let counted = dumped.lines().find_map(|line| line.strip_prefix("Filesystem inode count:"));
    let inodes: BTreeSet<u64> = image.list().values().map(|inode| inode.nid).collect();
    assert_eq!(counted.unwrap().trim(), inodes.len().to_string());
    let files = Tar::default().file("d/small", b"small").file("d/large", &[7; 100_000]).end();
    fs::write(&path, flatten(&[files]).unwrap().all()).unwrap();
    let extract = format!("--extract={}", out.display());
    run(Command::new("fsck.erofs").arg(extract).arg("--no-preserve").arg(&path));
    let mut small = String::new();
    File::open(out.join("d/small")).unwrap().read_to_string(&mut small).unwrap();
    assert_eq!((&*small, fs::read(out.join("d/large")).unwrap()), ("small", vec![7; 100_000]));
}
