//! What a fuzzer reads as the layers of an image.

use std::fs::File;
use std::io::Cursor;

use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest, Sha256};

use super::{Layer, Limits, Summary, build};

/// Little, so that every limit is met.
const LIMITS: Limits = Limits {
    layers: 8,
    members: 200,
    inodes: 100,
    depth: 16,
    lookups: 2000,
    text_bytes: 4096,
    uncompressed_bytes: 4 << 20,
    ratio: 20,
    ratio_from: 1 << 20,
    image_bytes: 8 << 20,
};

/// Makes a root file system of `data`: taken as a layer as it is stored, and as orders to write
/// archives whose checksums and digests are right. The same layers make the same image.
pub fn layers(data: &[u8]) {
    let _ = image(&[data.to_vec()]);
    let archives = archives(data);
    if let Some((summary, bytes)) = image(&archives) {
        assert!(summary.bytes <= LIMITS.image_bytes && summary.bytes % 4096 == 0);
        assert!(u64::try_from(bytes.len()) == Ok(summary.bytes));
        assert!(image(&archives).is_some_and(|(_, again)| again == bytes));
    }
}

fn image(archives: &[Vec<u8>]) -> Option<(Summary, Vec<u8>)> {
    let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).ok()?);
    let layers = archives.iter().map(|archive| {
        let diff_id = Sha256::digest(archive).into();
        Ok(Layer { compressed: Cursor::new(archive), diff_id })
    });
    let summary = build(layers, &LIMITS, &file).ok()?;
    let mut bytes = Vec::new();
    std::io::copy(&mut &file, &mut bytes).ok()?;
    Some((summary, bytes))
}

/// Bytes that are read as orders.
struct Orders<'a>(&'a [u8]);

impl<'a> Orders<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Some bytes, as many as the next one says.
    fn bytes(&mut self, most: u8) -> &'a [u8] {
        let len = usize::from(self.byte() % most).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }
}

fn archives(data: &[u8]) -> Vec<Vec<u8>> {
    let mut orders = Orders(data);
    let mut archives = vec![Vec::new()];
    while !orders.0.is_empty() && archives.len() <= LIMITS.layers {
        let kind = orders.byte();
        match archives.last_mut() {
            Some(archive) if kind != 0xff => member(kind, &mut orders, archive),
            _ => archives.push(Vec::new()),
        }
    }
    archives
}

/// Appends a member of type `kind`: a flag for each field that is not as usual, names, data.
fn member(kind: u8, orders: &mut Orders<'_>, archive: &mut Vec<u8>) {
    let flags = orders.byte();
    let mut header = [0; 512];
    put(&mut header, 0, orders.bytes(100));
    put(&mut header, 100, b"0000644");
    put(&mut header, 156, &[kind]);
    put(&mut header, 257, if flags & 1 == 0 { b"ustar  \0" } else { b"ustar\x0000" });
    if flags & 2 != 0 || kind == b'1' || kind == b'2' {
        put(&mut header, 157, orders.bytes(100));
    }
    if flags & 4 != 0 {
        put(&mut header, 329, orders.bytes(167));
    }
    let data = if kind == b'x' { records(orders) } else { orders.bytes(u8::MAX).to_vec() };
    put(&mut header, 124, format!("{:011o}", data.len()).as_bytes());
    if flags & 8 != 0 {
        put(&mut header, usize::from(100 + orders.byte() % 48), orders.bytes(13));
    }
    put(&mut header, 148, &[b' '; 8]);
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    put(&mut header, 148, format!("{sum:06o}\0").as_bytes());
    archive.extend_from_slice(&header);
    archive.extend_from_slice(&data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// Records of an extended header with the length they have.
fn records(orders: &mut Orders<'_>) -> Vec<u8> {
    let keys = [
        "path",
        "linkpath",
        "size",
        "uid",
        "mtime",
        "SCHILY.xattr.user.a",
        "SCHILY.xattr.",
        "SCHILY.xattr.trusted.overlay.opaque",
        "GNU.sparse.map",
        "GNU.sparse.size",
        "GNU.sparse.major",
        "GNU.sparse.offset",
        "GNU.sparse.numbytes",
        "GNU.sparse.name",
    ];
    let mut records = Vec::new();
    for _ in 0..orders.byte() % 8 {
        let key = keys.get(usize::from(orders.byte())).copied().unwrap_or("comment");
        let rest = [b" ", key.as_bytes(), b"=", orders.bytes(128), b"\n"].concat();
        let len = rest.len() + if rest.len() < 98 { 2 } else { 3 };
        records.extend_from_slice(len.to_string().as_bytes());
        records.extend_from_slice(&rest);
    }
    records
}

fn put(header: &mut [u8; 512], at: usize, bytes: &[u8]) {
    header.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn corpus() -> Vec<Vec<u8>> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/layers.hex");
        let text = std::fs::read_to_string(path).unwrap();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        text.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
    }

    #[test]
    fn corpus_is_survived() {
        let inputs = corpus();
        inputs.iter().for_each(|input| layers(input));
        let images = inputs.iter().filter(|input| image(&archives(input)).is_some());
        assert!(images.count() > inputs.len() / 2, "orders that make images");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn any_input_is_survived(
            input in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..512),
                (prop::sample::select(corpus()), prop::collection::vec((any::<usize>(), any::<u8>()), 1..6))
                    .prop_map(|(mut input, changes)| {
                        let len = input.len();
                        changes.into_iter().for_each(|(at, byte)| input[at % len] = byte);
                        input
                    }),
            ]
        ) {
            layers(&input);
        }
    }
}
