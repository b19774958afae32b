//! Images read back.

#![allow(clippy::as_conversions, reason = "the numbers of tests are small")]

use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;

use crate::rootfs::{Limits, build};
use crate::testing::{Image, Tar, flatten, layer};

fn tar() -> Tar {
    Tar::default()
}

fn image(tar: Tar) -> Image {
    flatten(&[tar.end()]).unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[test]
fn same_layers_make_the_same_bytes() {
    let files = |tar: Tar, range: std::ops::Range<usize>| {
        range.fold(tar, |tar, index| tar.file(&format!("d/{index}"), &pattern(index * 97)))
    };
    let layers = [files(tar(), 0..100).end(), files(tar(), 50..80).file("d/.wh.3", b"").end()];
    let (one, two) = (flatten(&layers).unwrap().all(), flatten(&layers).unwrap().all());
    assert!(one == two);
    assert_eq!(one.len() % 4096, 0);
}

#[test]
fn contents_of_every_size_are_read_back() {
    let sizes = [0, 1, 2047, 2048, 2049, 4032, 4095, 4096, 4097, 8192, 300_000, 1 << 20, 3_000_001];
    let layer = sizes.iter().fold(tar(), |tar, size| tar.file(&size.to_string(), &pattern(*size)));
    let found = image(layer);
    for size in sizes {
        let inode = found.find(&size.to_string());
        assert_eq!(inode.size, size as u64);
        assert!(found.read(&inode, 0, size) == pattern(size), "{size}");
        assert_eq!(inode.layout, if (1..=2048).contains(&size) { 2 } else { 0 }, "{size}");
    }
}

#[test]
fn directories_of_every_size_are_read_back() {
    for count in [0, 1, 20, 130, 300, 5000] {
        let layer = (0..count).fold(tar().dir("d"), |tar, index| {
            let name = format!("d/{index}{}", "n".repeat(index * 7 % 90));
            if index % 3 == 0 { tar.dir(&name) } else { tar.file(&name, b"x") }
        });
        let found = image(layer);
        assert_eq!(found.list().len(), count + 2, "{count}");
        assert_eq!(found.find("d").links, 2 + count.div_ceil(3) as u32);
    }
}

#[test]
fn names_before_the_dot_and_all_bytes_are_sorted() {
    let names = ["!", "-", "+a", ".a", "..a", "~", "0", "a"];
    let layer = names.iter().fold(tar(), |tar, name| tar.file(name, b""));
    let layer = layer.member(b"\xff", b'0', b"").member(b"\x01", b'0', b"");
    assert_eq!(image(layer).list().len(), names.len() + 3);
}

#[test]
fn symbolic_links_of_every_length_are_read_back() {
    for len in [1, 99, 2048, 2049, 4095] {
        let target = "t".repeat(len);
        let layer = tar().pax(&[("linkpath", target.as_bytes())]).symlink("l", "x");
        let found = image(layer);
        assert_eq!(found.contents()["l"], format!("-> {target}"));
        assert_eq!(found.find("l").mode, 0o12_0777);
    }
}

#[test]
fn attributes_that_many_inodes_have_are_stored_once() {
    let value = pattern(900);
    let file = |tar: Tar, name: &str, own: &[u8]| {
        tar.pax(&[("SCHILY.xattr.user.all", &value), ("SCHILY.xattr.user.own", own)])
            .file(name, b"x")
    };
    let layer = (0..50)
        .fold(tar(), |tar, index| file(tar, &index.to_string(), format!("{index}").as_bytes()));
    let found = image(layer);
    for index in 0..50 {
        let inode = found.find(&index.to_string());
        assert_eq!(inode.xattrs["user.all"], value);
        assert_eq!(inode.xattrs["user.own"], format!("{index}").as_bytes());
    }
    assert!(found.0.metadata().unwrap().len() < 20_000);
}

#[test]
fn small_file_with_large_attributes_has_a_block_of_its_own() {
    let value = pattern(5000);
    let found = image(tar().pax(&[("SCHILY.xattr.user.a", &value)]).file("f", b"contents"));
    let inode = found.find("f");
    assert_eq!((inode.layout, &*found.read(&inode, 0, 8)), (0, &b"contents"[..]));
}

/// A file with holes in one of the forms an archive has.
fn sparse(form: &str, size: u64, stretches: &[(u64, &[u8])]) -> Tar {
    let data: Vec<u8> = stretches.iter().flat_map(|(_, data)| data.to_vec()).collect();
    let numbers: Vec<(String, String)> =
        stretches.iter().map(|(at, data)| (at.to_string(), data.len().to_string())).collect();
    let size = size.to_string();
    let count = stretches.len().to_string();
    let mut records: Vec<(&str, &[u8])> = Vec::new();
    match form {
        "0.0" => {
            records.extend([
                ("GNU.sparse.size", size.as_bytes()),
                ("GNU.sparse.numblocks", count.as_bytes()),
            ]);
            for (offset, len) in &numbers {
                records.push(("GNU.sparse.offset", offset.as_bytes()));
                records.push(("GNU.sparse.numbytes", len.as_bytes()));
            }
            tar().pax(&records).file("sparse", &data)
        }
        "0.1" => {
            let map: Vec<String> = numbers.iter().map(|(at, len)| format!("{at},{len}")).collect();
            let map = map.join(",");
            records
                .extend([("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())]);
            records.push(("GNU.sparse.name", b"sparse"));
            tar().pax(&records).file("GNUSparseFile.0/sparse", &data)
        }
        "1.0" => {
            let map: String = numbers.iter().map(|(at, len)| format!("{at}\n{len}\n")).collect();
            let mut body = format!("{count}\n{map}").into_bytes();
            body.resize(body.len().next_multiple_of(512), 0);
            body.extend_from_slice(&data);
            records.extend([("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0")]);
            records.extend([
                ("GNU.sparse.name", &b"sparse"[..]),
                ("GNU.sparse.realsize", size.as_bytes()),
            ]);
            tar().pax(&records).file("GNUSparseFile.0/sparse", &body)
        }
        _ => gnu_sparse(size.parse().unwrap(), stretches, &data),
    }
}

fn gnu_sparse(size: u64, stretches: &[(u64, &[u8])], data: &[u8]) -> Tar {
    let number = |number: u64| [&[0x80, 0, 0, 0][..], &number.to_be_bytes()].concat();
    let entry = |(at, data): &(u64, &[u8])| [number(*at), number(data.len() as u64)].concat();
    let (first, more) = stretches.split_at(stretches.len().min(4));
    let mut result = tar().header(b"sparse", b'S', |header| {
        header.set_size(data.len() as u64);
        let bytes = header.as_mut_bytes();
        for (index, stretch) in first.iter().enumerate() {
            bytes[386 + 24 * index..][..24].copy_from_slice(&entry(stretch));
        }
        bytes[482] = u8::from(!more.is_empty());
        bytes[483..495].copy_from_slice(&number(size));
    });
    let blocks: Vec<_> = more.chunks(21).collect();
    for (index, stretches) in blocks.iter().enumerate() {
        let mut block: Vec<u8> = stretches.iter().flat_map(entry).collect();
        block.resize(512, 0);
        block[504] = u8::from(index + 1 < blocks.len());
        result.0.extend_from_slice(&block);
    }
    result.data(data)
}

const FORMS: [&str; 4] = ["0.0", "0.1", "1.0", "gnu"];

#[test]
fn small_holes_are_filled_in() {
    for form in FORMS {
        let found =
            image(sparse(form, 100_000, &[(5, b"five"), (4096, b"block"), (99_990, b"end")]));
        assert_eq!(found.paths(), "sparse", "{form}");
        let inode = found.find("sparse");
        let bytes = found.read(&inode, 0, 100_000);
        assert_eq!((inode.size, inode.layout), (100_000, 0));
        assert_eq!(
            (&bytes[5..9], &bytes[4096..4101], &bytes[99_990..99_993]),
            (&b"five"[..], &b"block"[..], &b"end"[..])
        );
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 12);
    }
}

/// I14
#[test]
fn file_of_a_tebibyte_of_holes_costs_its_data() {
    let tebibyte = 1 << 40;
    let stretches: Vec<(u64, &[u8])> =
        (0..30).map(|index| (index * (tebibyte / 30) + 4095, &b"data"[..])).collect();
    for form in FORMS {
        let found = image(sparse(form, tebibyte, &stretches));
        let inode = found.find("sparse");
        assert_eq!((inode.size, inode.layout), (tebibyte, 4), "{form}");
        for (offset, data) in &stretches {
            assert_eq!(found.read(&inode, *offset, 4), *data, "{form} {offset}");
            assert_eq!(found.read(&inode, offset - 8, 8), [0; 8], "{form}");
            assert_eq!(found.read(&inode, offset + 4, 9000), [0; 9000], "{form}");
        }
        let blocks = found.0.metadata().unwrap().blocks();
        assert!(blocks * 512 < 2 << 20, "{form}: {blocks} sectors");
        // A chunk for each stretch at most.
        assert!(found.0.metadata().unwrap().len() < 31 << 26);
    }
}

#[test]
fn file_of_nothing_but_a_hole_is_all_zeroes() {
    for form in ["0.1", "1.0", "gnu"] {
        let found = image(sparse(form, 3 << 20, &[]));
        let inode = found.find("sparse");
        assert_eq!((inode.size, found.read(&inode, (3 << 20) - 100, 100)), (3 << 20, vec![0; 100]));
    }
}

#[test]
fn data_that_later_layers_replace_become_holes() {
    let one = tar().file("a", &pattern(5 << 20)).file("b", &pattern(1 << 20)).end();
    let two = tar().file("a", b"small").end();
    let file = tempfile::tempfile().unwrap();
    let layers = [one, two].map(|tar| Ok(layer(&tar, tar.clone())));
    let summary = build(layers, &Limits::default(), &file).unwrap();
    assert_eq!(summary.discarded_bytes, 5 << 20);
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), summary.bytes);
    assert!(metadata.blocks() * 512 < 2 << 20);
    let image = Image(file);
    assert_eq!(image.contents()["a"], "small");
    assert!(image.bytes(4096, 5 << 20).iter().all(|byte| *byte == 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn files_with_holes_are_read_back(
        mut at in prop::collection::vec((0_u64..40 << 20, 1_usize..9000), 1..12),
        tail in 0_u64..8 << 20,
        form in prop::sample::select(&FORMS[..]),
    ) {
        at.sort_unstable();
        at.dedup_by(|next, last| next.0 < last.0 + last.1 as u64);
        let data: Vec<(u64, Vec<u8>)> = at.iter().map(|(at, len)| (*at, pattern(*len))).collect();
        let stretches: Vec<(u64, &[u8])> = data.iter().map(|(at, data)| (*at, &data[..])).collect();
        let size = stretches.last().map_or(0, |(at, data)| at + data.len() as u64) + tail;
        let mut expected = vec![0; size as usize];
        for (at, data) in &stretches {
            expected[*at as usize..][..data.len()].copy_from_slice(data);
        }
        let found = image(sparse(form, size, &stretches));
        let inode = found.find("sparse");
        for (at, data) in &stretches {
            let start = at.saturating_sub(100);
            let len = (data.len() + 200).min((size - start) as usize);
            prop_assert!(found.read(&inode, start, len) == expected[start as usize..][..len]);
        }
    }
}
