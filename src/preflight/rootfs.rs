//! What the superblock of a root filesystem says about it.

use super::image::{Bytes, Image};
use super::{Finding, PreflightError, shown};

/// What the image of a root filesystem holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rootfs {
    /// A filesystem that Linux can mount.
    Filesystem {
        /// Name as `mount -t` takes it.
        name: &'static str,
        /// Kernel options that are needed to mount it.
        options: Vec<&'static str>,
        /// Whether its journal must be replayed, for which it must be writable.
        needs_recovery: bool,
    },
    /// A disk with a partition table.
    Partitioned,
    /// Nothing that is known.
    Unknown,
}

/// Covers the superblocks at 0 and 1024.
const HEAD_LEN: usize = 4096;

/// Reads the superblock. The inner error says why the image cannot hold a root filesystem.
pub(super) fn inspect(image: &Image) -> Result<Result<Rootfs, Finding>, PreflightError> {
    let head = image.read(0, HEAD_LEN)?;
    if let Some((kind, fix)) = not_raw(&head) {
        return Ok(Err(Finding::error(
            format!("rootfs {} is {kind}, not a raw image", shown(image.path())),
            fix,
        )));
    }
    if let Some((filesystem, size)) = from_head(&head) {
        return Ok(match size.filter(|&size| size > image.len()) {
            Some(size) => Err(truncated(image, size)),
            None => Ok(filesystem),
        });
    }
    let simple =
        |name, option| Rootfs::Filesystem { name, options: vec![option], needs_recovery: false };
    // btrfs keeps its superblock at 64 KiB, ISO 9660 at 32 KiB.
    if image.read(0x1_0040, 8)?.has(0, b"_BHRfS_M") {
        return Ok(Ok(simple("btrfs", "BTRFS_FS")));
    }
    if image.read(0x8001, 5)?.has(0, b"CD001") {
        return Ok(Ok(simple("iso9660", "ISO9660_FS")));
    }
    let partitioned = head.has(0x200, b"EFI PART") || head.u16(0x1fe) == Some(0xaa55);
    Ok(Ok(if partitioned { Rootfs::Partitioned } else { Rootfs::Unknown }))
}

fn truncated(image: &Image, size: u64) -> Finding {
    let (path, len) = (shown(image.path()), image.len());
    Finding::error(
        format!("rootfs {path} is truncated: its filesystem has {size} bytes, the file {len}"),
        "copy or build the image again",
    )
}

/// Files that are often given as a root filesystem, and how to make one of them.
fn not_raw(head: &Bytes) -> Option<(&'static str, &'static str)> {
    const CONVERT: &str = "convert it with qemu-img convert -O raw IMAGE root.img";
    const ARCHIVE: &str = "unpack it and make an image with mke2fs -d DIRECTORY root.img SIZE";
    const UNPACK: &str = "unpack it first (gunzip, unxz or unzstd)";
    const KINDS: &[(usize, &[u8], &str, &str)] = &[
        (0, b"QFI\xfb", "a qcow2 image", CONVERT),
        (0, b"KDMV", "a VMDK image", CONVERT),
        (0, b"vhdxfile", "a VHDX image", CONVERT),
        (0, b"conectix", "a VHD image", CONVERT),
        (0x40, &[0x7f, 0x10, 0xda, 0xbe], "a VDI image", CONVERT),
        (0, &[0x1f, 0x8b], "packed with gzip", UNPACK),
        (0, &[0xfd, b'7', b'z', b'X', b'Z'], "packed with xz", UNPACK),
        (0, &[0x28, 0xb5, 0x2f, 0xfd], "packed with zstd", UNPACK),
        (0, b"07070", "a cpio archive", "give it as --initrd, or make an image of its contents"),
        (0x101, b"ustar", "a tar archive", ARCHIVE),
        (0, b"PK\x03\x04", "a zip archive", ARCHIVE),
        (0, b"\x7fELF", "an ELF file", "is this the kernel? give it as --kernel"),
    ];
    let kind = KINDS.iter().find(|(offset, magic, ..)| head.has(*offset, magic));
    kind.map(|&(_, _, kind, fix)| (kind, fix))
}

/// A filesystem with its superblock in the first bytes, and its size in bytes where that is told.
fn from_head(head: &Bytes) -> Option<(Rootfs, Option<u64>)> {
    let plain = |name, options| Rootfs::Filesystem { name, options, needs_recovery: false };
    if head.u16(0x438) == Some(0xef53) {
        return Some(ext(head));
    }
    if head.has(0, b"hsqs") {
        let mut options = vec!["SQUASHFS"];
        options.extend(squashfs_unpacker(head.u16(20)));
        return Some((plain("squashfs", options), head.u64(40)));
    }
    if head.u32(0x400) == Some(0xe0f5_e1e2) {
        let block_bits = head.u8(0x400 + 12).unwrap_or(0);
        let size = head.u32(0x400 + 36).map(u64::from).zip(1_u64.checked_shl(block_bits.into()));
        let size = size.and_then(|(blocks, len)| blocks.checked_mul(len));
        return Some((plain("erofs", vec!["EROFS_FS"]), size));
    }
    if head.has(0, b"XFSB") {
        return Some((plain("xfs", vec!["XFS_FS"]), None));
    }
    if head.u32(0x400) == Some(0xf2f5_2010) {
        return Some((plain("f2fs", vec!["F2FS_FS"]), None));
    }
    if head.has(0x36, b"FAT1") || head.has(0x52, b"FAT32") {
        return Some((plain("vfat", vec!["VFAT_FS"]), None));
    }
    None
}

/// The kernel option for the compressor whose id is in a squashfs superblock.
fn squashfs_unpacker(id: Option<u16>) -> Option<&'static str> {
    match id? {
        1 => Some("SQUASHFS_ZLIB"),
        3 => Some("SQUASHFS_LZO"),
        4 => Some("SQUASHFS_XZ"),
        5 => Some("SQUASHFS_LZ4"),
        6 => Some("SQUASHFS_ZSTD"),
        _ => None,
    }
}

/// The superblock of ext2, ext3 and ext4 at byte 1024 (Linux, `Documentation/filesystems/ext4`).
/// The ext4 driver mounts all three.
fn ext(head: &Bytes) -> (Rootfs, Option<u64>) {
    const HAS_JOURNAL: u32 = 0x4;
    const FILETYPE: u32 = 0x2;
    const RECOVER: u32 = 0x4;
    const SIXTY_FOUR_BIT: u32 = 0x80;
    let field = |offset: usize| head.u32(0x400_usize.saturating_add(offset)).unwrap_or(0);
    let (compatible, incompatible) = (field(0x5c), field(0x60));
    let name = match (compatible & HAS_JOURNAL != 0, incompatible & !(FILETYPE | RECOVER) != 0) {
        (_, true) => "ext4",
        (true, false) => "ext3",
        (false, false) => "ext2",
    };
    let high = if incompatible & SIXTY_FOUR_BIT == 0 { 0 } else { field(0x150) };
    let blocks = u64::from(high).checked_shl(32).unwrap_or(0) | u64::from(field(4));
    let block_len = 1024_u64.checked_shl(field(0x18).min(16)).unwrap_or(0);
    let needs_recovery = incompatible & RECOVER != 0;
    let filesystem = Rootfs::Filesystem { name, options: vec!["EXT4_FS"], needs_recovery };
    (filesystem, blocks.checked_mul(block_len))
}
