//! How an initial RAM disk is packed, which the kernel must be able to unpack.

use super::PreflightError;
use super::image::Image;

/// Packing of an initial RAM disk: its name and the kernel option that unpacks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packing {
    pub(super) name: &'static str,
    pub(super) option: &'static str,
}

/// First bytes of each packing that Linux knows (`lib/decompress.c`), its name and option.
const PACKINGS: &[(&[u8], &str, &str)] = &[
    (&[0x1f, 0x8b], "gzip", "RD_GZIP"),
    (&[0x1f, 0x9e], "gzip", "RD_GZIP"),
    (b"BZh", "bzip2", "RD_BZIP2"),
    (&[0x5d, 0x00, 0x00], "lzma", "RD_LZMA"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz", "RD_XZ"),
    (&[0x89, b'L', b'Z', b'O'], "lzo", "RD_LZO"),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4", "RD_LZ4"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "RD_ZSTD"),
];

/// The packing of the initial RAM disk, or `None` where it starts with a plain archive (what
/// follows that may be packed in any way) or with something unknown.
pub(super) fn inspect(image: &Image) -> Result<Option<Packing>, PreflightError> {
    let head = image.read(0, 8)?;
    let known = PACKINGS.iter().find(|(magic, ..)| head.has(0, magic));
    Ok(known.map(|&(_, name, option)| Packing { name, option }))
}
