//! Archives of every sort, good and hostile.

#![allow(clippy::as_conversions, reason = "the numbers of tests are small")]

use std::io::{self, Cursor, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::rootfs::{Layer, Limits, RootfsError, build};
use crate::testing::{Image, Tar, flatten, flatten_within, layer, pax_record};

fn tar() -> Tar {
    Tar::default()
}

fn image(tar: Tar) -> Image {
    flatten(&[tar.end()]).unwrap()
}

fn refused(tar: Tar) -> String {
    flatten(&[tar.end()]).err().unwrap().to_string()
}

fn compressed(tar: &[u8], bytes: Vec<u8>) -> Result<Image, RootfsError> {
    let file = tempfile::tempfile().unwrap();
    build([Ok(layer(tar, bytes))], &Limits::default(), &file)?;
    Ok(Image(file))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

fn sample() -> Vec<u8> {
    let text: Vec<u8> = (0..10_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
    tar().dir("d").file("d/big", &text).file("small", b"x").end()
}

#[test]
fn layers_are_unpacked_by_their_first_bytes() {
    let tar = sample();
    let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
    let (one, two) = tar.split_at(5000);
    let forms = [
        tar.clone(),
        gzip(&tar),
        [gzip(one), gzip(two)].concat(),
        zstd(&tar),
        [skippable, zstd(one), zstd(b""), zstd(two)].concat(),
    ];
    let images = forms.map(|form| compressed(&tar, form).unwrap().all());
    assert!(images.iter().all(|image| *image == images[0]), "all the same");
}

#[test]
fn other_compressions_are_named() {
    let reason = |bytes: &[u8]| compressed(b"", bytes.to_vec()).err().unwrap().to_string();
    assert!(reason(b"BZh91AY&SY").contains("bzip2"));
    assert!(reason(b"\xfd7zXZ\0\0").contains("xz"));
    assert_eq!(
        reason(b"\x04\x22\x4d\x18xx"),
        "layer 1: it is compressed by lz4, which is not supported; gzip and zstd are"
    );
}

/// I7
#[test]
fn compressed_layers_cut_off_or_damaged_anywhere_are_refused() {
    let tar = sample();
    for form in [gzip(&tar), zstd(&tar)] {
        for cut in [1, 5, 9, 100, form.len() / 2, form.len() - 1] {
            assert!(compressed(&tar, form[..cut].to_vec()).is_err(), "{cut}");
        }
        for at in (0..form.len()).step_by(form.len() / 50) {
            let mut damaged = form.clone();
            damaged[at] ^= 0x41;
            if let Ok(image) = compressed(&tar, damaged) {
                assert_eq!(image.all(), compressed(&tar, tar.clone()).unwrap().all(), "{at}");
            }
        }
        let trailing = [&form[..], b"trailing"].concat();
        assert!(compressed(&tar, trailing).is_err());
    }
}

/// I10
#[test]
fn layer_with_another_digest_is_refused() {
    let file = tempfile::tempfile().unwrap();
    let diff_id = [7; 32];
    let layer = Layer { compressed: Cursor::new(sample()), diff_id };
    let error = build([Ok(layer)], &Limits::default(), &file).unwrap_err();
    assert!(matches!(error, RootfsError::DiffId { layer: 1 }), "{error:?}");
}

/// I10
#[test]
fn what_follows_the_end_of_the_archive_belongs_to_the_digest() {
    let tar = sample();
    let longer = [&tar[..], &[0; 9000], b"more"].concat();
    assert!(compressed(&longer, longer.clone()).is_ok());
    assert!(matches!(compressed(&tar, longer), Err(RootfsError::DiffId { layer: 1 })));
}

/// I8
#[test]
fn gzip_and_zstd_bombs_are_refused() {
    let zeroes = |len: u64| io::repeat(0).take(len);
    let header = tar().header(b"zero", b'0', |header| header.set_size(3 << 30)).0;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    io::copy(&mut header.chain(zeroes(3 << 20)), &mut encoder).unwrap();
    let bomb = encoder.finish().unwrap();
    let limits = Limits { uncompressed_bytes: 1 << 20, ..Limits::default() };
    for bytes in [bomb, zstd(&[&header[..], &vec![0; 3 << 20]].concat())] {
        let file = tempfile::tempfile().unwrap();
        let error = build([Ok(layer(b"", bytes))], &limits, &file).unwrap_err();
        assert!(matches!(error, RootfsError::Limit { layer: 1, .. }), "{error:?}");
        assert!(file.metadata().unwrap().len() < 1 << 21, "stopped in time");
    }
}

/// I8
#[test]
fn layer_that_grows_out_of_proportion_is_refused() {
    let header = tar().header(b"zero", b'0', |header| header.set_size(1 << 40)).0;
    // A frame that says a byte in a block 128 KiB long, again and again.
    let block = [2, 0, 16, 0];
    let frames = [0x28, 0xb5, 0x2f, 0xfd, 0, 0x58].into_iter().chain(block.into_iter().cycle());
    let endless = Cursor::new(zstd(&header)).chain(Bytes(frames));
    let limits = Limits { image_bytes: 1 << 41, ratio_from: 4 << 20, ..Limits::default() };
    let file = tempfile::tempfile().unwrap();
    let layer = Layer { compressed: endless, diff_id: [0; 32] };
    let error = build([Ok(layer)], &limits, &file).unwrap_err();
    let reason = error.to_string();
    assert!(
        reason.ends_with("becomes more than 200 times as large when it is uncompressed"),
        "{reason}"
    );
}

struct Bytes<I>(I);

impl<I: Iterator<Item = u8>> Read for Bytes<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(buffer.iter_mut().zip(&mut self.0).map(|(to, from)| *to = from).count())
    }
}

/// I8
#[test]
fn zstd_frame_with_a_window_of_2_gib_is_refused() {
    // Window_Descriptor 0xa8: 2^(10 + 21).
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 0xa8, 3, 0, 16, 0];
    let reason = compressed(b"", frame.to_vec()).err().unwrap().to_string();
    assert!(reason.to_lowercase().contains("window"), "{reason}");
}

#[test]
fn long_names_come_in_three_forms() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let gnu = image(tar().file(&long, b"x")).paths();
    let pax = image(tar().pax(&[("path", long.as_bytes())]).file("short", b"x")).paths();
    assert_eq!(gnu, pax);
    assert!(gnu.ends_with(&long));
    let ustar = tar().header(b"name", b'0', |header| {
        let bytes = header.as_mut_bytes();
        bytes[257..265].copy_from_slice(b"ustar\x0000");
        bytes[345..351].copy_from_slice(b"prefix");
    });
    assert_eq!(image(ustar).paths(), "prefix prefix/name");
    let target = "t".repeat(500);
    let link = tar().member(b"long", b'K', target.as_bytes()).symlink("l", "short");
    assert_eq!(image(link).contents()["l"], format!("-> {target}"));
    let link = tar().pax(&[("linkpath", target.as_bytes())]).symlink("l", "short");
    assert_eq!(image(link).contents()["l"], format!("-> {target}"));
}

#[test]
fn owners_rights_and_times_are_kept() {
    let layer = tar()
        .pax(&[("uid", b"4000000000"), ("gid", b"70000"), ("mtime", b"1600000000.123456789")])
        .header(b"f", b'0', |header| header.set_mode(0o10_6755));
    let found = image(layer).find("f");
    assert_eq!((found.uid, found.gid), (4_000_000_000, 70_000));
    assert_eq!((found.mode, found.mtime), (0o10_6755, (1_600_000_000, 123_456_789)));
    let old = image(tar().pax(&[("mtime", b"-1.5")]).file("f", b"")).find("f");
    assert_eq!(old.mtime, (-2, 500_000_000));
    let binary = tar().header(b"f", b'0', |header| header.set_uid(3_000_000_000));
    assert_eq!(image(binary).find("f").uid, 3_000_000_000);
}

/// I4
#[test]
fn device_nodes_and_pipes_are_inodes_of_the_image_and_nothing_on_the_host() {
    let node = |tar: Tar, name: &str, kind: u8, major: u32, minor: u32| {
        tar.header(name.as_bytes(), kind, |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        })
    };
    let layer = node(tar(), "null", b'3', 1, 3);
    let layer = node(node(layer, "disk", b'4', 259, 70_000), "pipe", b'6', 0, 0);
    let found = image(layer);
    assert_eq!((found.find("null").mode, found.find("null").value), (0o2_0644, 0x103));
    let number = (70_000 & 0xff) | (259 << 8) | ((70_000 & !0xff) << 12);
    assert_eq!((found.find("disk").mode, found.find("disk").value), (0o6_0644, number));
    assert_eq!(found.find("pipe").mode, 0o1_0644);
    assert!(refused(node(tar(), "d", b'3', 4096, 0)).contains("device number 4096:0"));
    assert!(refused(node(tar(), "d", b'4', 0, 1 << 20)).contains("device number 0:1048576"));
}

/// I5
#[test]
fn owners_that_linux_cannot_have_are_refused() {
    for owner in ["4294967295", "4294967296", "18446744073709551615"] {
        let reason = refused(tar().pax(&[("uid", owner.as_bytes())]).file("f", b""));
        assert_eq!(reason, format!("layer 1: `f`: the owner {owner} is not one Linux can have"));
    }
    let negative = tar().header(b"f", b'0', |header| header.as_mut_bytes()[108..116].fill(0xff));
    assert!(refused(negative).contains("negative"));
}

fn with_xattrs(xattrs: &[(&str, &[u8])]) -> Tar {
    let records: Vec<u8> = xattrs
        .iter()
        .flat_map(|(name, value)| pax_record(&format!("SCHILY.xattr.{name}"), value))
        .collect();
    tar().member(b"pax", b'x', &records).file("f", b"contents")
}

/// I4
#[test]
fn attributes_are_kept_but_those_that_order_overlayfs_about() {
    let layer = with_xattrs(&[
        ("security.capability", b"\x01\0\0\x02\n\x04\0\0"),
        ("user.x", b""),
        ("user.x", b"last"),
        ("trusted.overlay.opaque", b"y"),
        ("trusted.overlay.redirect", b"/etc"),
        ("user.overlay.whiteout", b"y"),
        ("trusted.other", b"1"),
        ("system.posix_acl_access", b"acl"),
        ("com.apple.quarantine", b"of another system"),
    ]);
    let found = image(layer);
    let found = found.find("f");
    let names: Vec<&str> = found.xattrs.keys().map(String::as_str).collect();
    let expected = ["security.capability", "system.posix_acl_access", "trusted.other", "user.x"];
    assert_eq!(names, expected);
    assert_eq!(found.xattrs["security.capability"], b"\x01\0\0\x02\n\x04\0\0");
    assert_eq!(found.xattrs["user.x"], b"last");
}

/// I4
#[test]
fn attributes_beyond_any_use_are_refused() {
    let large = vec![b'v'; 65_536];
    assert!(refused(with_xattrs(&[("user.large", &large)])).contains("65535 bytes"));
    let half = &large[..40_000];
    assert!(refused(with_xattrs(&[("user.a", half), ("user.b", half)])).contains("65535 bytes"));
    let largest = &large[..65_529];
    assert_eq!(image(with_xattrs(&[("user.a", largest)])).find("f").xattrs["user.a"], largest);
    let names: Vec<String> = (0..10_000).map(|number| format!("user.{number}")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &b""[..])).collect();
    assert!(refused(with_xattrs(&many)).contains("more than 512 extended attributes"));
    assert_eq!(image(with_xattrs(&many[..512])).find("f").xattrs.len(), 512);
    assert!(refused(with_xattrs(&[("user.", b"")])).contains("name that Linux does not take"));
    let long = format!("user.{}", "n".repeat(251));
    assert!(refused(with_xattrs(&[(&long, b"")])).contains("name that Linux does not take"));
    let limits = Limits { text_bytes: 70_000, ..Limits::default() };
    let layer = with_xattrs(&[("user.a", half)]).0;
    let twice = Tar([&layer[..], &layer].concat()).end();
    assert!(matches!(flatten_within(&[twice], &limits), Err(RootfsError::Limit { .. })));
}

/// I1
#[test]
fn names_that_lead_out_are_refused_and_odd_ones_kept() {
    for name in ["../f", "a/../../f", "/../f", ".."] {
        assert!(refused(tar().file(name, b"")).contains("has a `..`"), "{name}");
    }
    assert_eq!(image(tar().file("/abs//./f", b"")).paths(), "abs abs/f");
    assert!(refused(tar().pax(&[("path", b"a\0b")]).file("x", b"")).contains("NUL"));
    assert!(refused(tar().file(&"n".repeat(256), b"")).contains("longer than 255 bytes"));
    let long = "dir/".repeat(1100);
    assert!(refused(tar().pax(&[("path", long.as_bytes())]).file("x", b"")).contains("4095 bytes"));
    let odd = tar().member(b"\xff\xfe\n\x1b[1m", b'0', b"x").file("a\\b", b"").file("...", b"");
    assert_eq!(image(odd).paths(), r"... \xff\xfe\n\x1b[1m a\\b");
}

/// I7
#[test]
fn size_of_the_extended_header_counts() {
    let inner = tar().file("hidden", b"inside").0;
    let size = inner.len().to_string();
    let layer = tar().pax(&[("size", size.as_bytes())]).file("outer", b"").data(&inner);
    let found = image(layer.file("after", b""));
    assert_eq!(found.paths(), "after outer");
    assert_eq!(found.find("outer").size, inner.len() as u64);
}

/// I7
#[test]
fn only_files_have_data() {
    let sized = |kind: u8| tar().header(b"x", kind, |header| header.set_size(1024));
    for kind in *b"123456" {
        let layer = Tar([tar().file("t", b"").0, sized(kind).0].concat());
        let layer = layer.file("after", b"");
        let targeted = if kind == b'1' || kind == b'2' { None } else { Some(layer) };
        if let Some(layer) = targeted {
            assert_eq!(image(layer).paths(), "after t x", "{}", char::from(kind));
        }
    }
}

/// I7
#[test]
fn archives_cut_off_anywhere_are_refused_or_end_between_members() {
    let whole = tar().file("a", &[1; 700]).pax(&[("path", b"b")]).file("x", b"data").0;
    for len in 1..whole.len() {
        let cut = whole[..len].to_vec();
        match flatten(&[cut]) {
            Ok(image) => assert_eq!((len, image.paths().as_str()), (1536, "a")),
            Err(RootfsError::Layer { layer: 1, .. }) => {}
            Err(other) => panic!("{len}: {other:?}"),
        }
    }
}

/// I7
#[test]
fn what_is_no_archive_is_refused() {
    let reason = |bytes: &[u8]| flatten(&[bytes.to_vec()]).err().unwrap().to_string();
    assert!(reason(b"hello").contains("in the middle of a member"));
    assert!(reason(&[b'x'; 2048]).contains("no tar archive"));
    let lone = [&tar().file("f", b"").0[..], &[0; 512], &tar().file("g", b"").0].concat();
    assert!(reason(&lone).contains("lone block of zeroes"));
    assert!(refused(tar().member(b"v", b'V', b"")).contains("members of type 'V'"));
    assert!(refused(tar().pax(&[("size", b"-5")]).file("f", b"")).contains("extended header"));
    assert!(refused(tar().pax(&[("size", b"9223372036854775808")]).file("f", b"")).contains("f"));
    let huge =
        tar().header(b"h", b'x', |header| header.set_size(2 << 20)).data(&vec![b' '; 2 << 20]);
    assert!(refused(huge).contains("an extended header is too long"));
}

/// I7
#[test]
fn archive_in_an_archive_is_a_file() {
    let inner = tar().file("inner", b"x").end();
    assert_eq!(image(tar().file("outer.tar", &inner)).paths(), "outer.tar");
}

#[test]
fn records_for_all_members_are_ignored() {
    let global = pax_record("path", b"elsewhere");
    assert_eq!(image(tar().member(b"g", b'g', &global).file("f", b"")).paths(), "f");
}

/// I14
#[test]
fn links_without_number_cost_one_inode() {
    let layer =
        (0..3000).fold(tar().file("f", b"x"), |tar, index| tar.link(&index.to_string(), "f"));
    let found = image(layer).find("2999");
    assert_eq!(found.links, 3001);
    let limits = Limits { members: 100, ..Limits::default() };
    let layer =
        (0..100).fold(tar().file("f", b"x"), |tar, index| tar.link(&index.to_string(), "f"));
    assert!(matches!(flatten_within(&[layer.end()], &limits), Err(RootfsError::Limit { .. })));
}

/// I9
#[test]
fn paths_and_targets_are_bounded_together() {
    let limits = Limits { text_bytes: 10_000, ..Limits::default() };
    let target = "t".repeat(4000);
    let link = |tar: Tar, name: &str| tar.pax(&[("linkpath", target.as_bytes())]).symlink(name, "");
    let two = link(link(tar(), "a"), "b");
    assert!(flatten_within(&[two.clone().end()], &limits).is_ok());
    let error = flatten_within(&[link(two, "c").end()], &limits).err().unwrap();
    assert!(error.to_string().contains("more than 10000 bytes"), "{error}");
    assert!(matches!(error, RootfsError::Limit { .. }), "{error:?}");
}

/// I14
#[test]
fn root_file_system_is_not_larger_than_allowed() {
    let limits = Limits { image_bytes: 100_000, ..Limits::default() };
    let error = flatten_within(&[tar().file("f", &[1; 100_000]).end()], &limits).err().unwrap();
    assert!(error.to_string().contains("larger than 100000 bytes"), "{error}");
    let claimed = tar().header(b"f", b'0', |header| header.set_size(1 << 50));
    let error = flatten_within(&[claimed.0], &limits).err().unwrap();
    assert!(error.to_string().contains("larger than 100000 bytes"), "{error}");
    let directories = (0..400).fold(tar(), |tar, index| tar.dir(&format!("{index:0>200}")));
    let error = flatten_within(&[directories.end()], &limits).err().unwrap();
    assert!(matches!(error, RootfsError::Limit { .. }), "{error:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// I7
    #[test]
    fn damaged_archives_never_cause_a_panic(
        flips in prop::collection::vec((0_usize..6000, any::<u8>()), 1..20),
        fix in any::<bool>(),
    ) {
        let mut tar = with_xattrs(&[("user.a", b"1")])
            .file("d/e", b"x").link("l", "f").symlink("s", "d").file("s/.wh.e", b"").end();
        let len = tar.len();
        for (at, byte) in flips {
            tar[at % len] = byte;
        }
        if fix {
            for header in tar.chunks_exact_mut(512) {
                let mut fixed = tar::Header::from_byte_slice(header).clone();
                fixed.set_cksum();
                header.copy_from_slice(fixed.as_bytes());
            }
        }
        if let Ok(image) = flatten(&[tar]) {
            image.list();
        }
    }
}
