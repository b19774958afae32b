//! Structures of the format. All numbers are little-endian.

use super::{BLOCK_BITS, BLOCK_LEN};

/// Where the superblock lies in the image.
const SUPERBLOCK: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
/// feature_compat: the superblock has a checksum; extended inodes have a time of their own.
const COMPAT: u32 = 1 | 2;
/// feature_incompat: there are files in chunks.
const INCOMPAT_CHUNKED: u32 = 4;

/// Bytes of an extended inode.
pub(super) const INODE_BYTES: u64 = 64;
/// Inodes are numbered by their place in units of this.
pub(super) const SLOT_BYTES: u64 = 32;
/// A hole in the map of a file in chunks.
pub(super) const HOLE: u32 = u32::MAX;

/// Types in directory entries.
pub(super) const FT_REGULAR: u8 = 1;
pub(super) const FT_DIRECTORY: u8 = 2;
pub(super) const FT_CHARACTER: u8 = 3;
pub(super) const FT_BLOCK: u8 = 4;
pub(super) const FT_FIFO: u8 = 5;
pub(super) const FT_SYMLINK: u8 = 7;

/// What the superblock says.
pub(super) struct Superblock {
    pub(super) root_nid: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) meta_block: u32,
    pub(super) xattr_block: u32,
    pub(super) has_chunks: bool,
}

impl Superblock {
    /// The image's first block.
    pub(super) fn to_block(&self) -> [u8; BLOCK_LEN] {
        let mut bytes = Vec::with_capacity(BLOCK_LEN);
        bytes.resize(SUPERBLOCK, 0);
        put(&mut bytes, &[&MAGIC.to_le_bytes(), &[0; 4], &COMPAT.to_le_bytes()]);
        bytes.push(u8::try_from(BLOCK_BITS).unwrap_or_default());
        // No more than 128 bytes of superblock.
        bytes.push(0);
        put(&mut bytes, &[&self.root_nid.to_le_bytes(), &self.inodes.to_le_bytes()]);
        // Compact inodes would take the time from here; there are none.
        put(&mut bytes, &[&[0; 12], &self.blocks.to_le_bytes()]);
        put(&mut bytes, &[&self.meta_block.to_le_bytes(), &self.xattr_block.to_le_bytes()]);
        // The same image has the same UUID: none. Nor is there a name.
        put(&mut bytes, &[&[0; 32]]);
        let incompat = if self.has_chunks { INCOMPAT_CHUNKED } else { 0 };
        put(&mut bytes, &[&incompat.to_le_bytes()]);
        bytes.resize(BLOCK_LEN, 0);
        let checksum = crc32c(bytes.get(SUPERBLOCK..).unwrap_or_default());
        let mut block = [0; BLOCK_LEN];
        block.copy_from_slice(&bytes);
        if let Some(field) = block.get_mut(SUPERBLOCK + 4..SUPERBLOCK + 8) {
            field.copy_from_slice(&checksum.to_le_bytes());
        }
        block
    }
}

/// How an inode's contents are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In consecutive blocks.
    Plain = 0,
    /// Behind the inode.
    Inline = 2,
    /// In chunks, the numbers of whose blocks are behind the inode.
    Chunks = 4,
}

/// An extended inode.
pub(super) struct InodeRecord {
    pub(super) layout: Layout,
    /// 0, or one more than the attributes' words after their header.
    pub(super) xattr_count: u16,
    /// With the type.
    pub(super) mode: u16,
    pub(super) size: u64,
    /// First block, device number, or the form of the chunks.
    pub(super) value: u32,
    pub(super) ino: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) mtime_nsec: u32,
    pub(super) links: u32,
}

impl InodeRecord {
    /// As it is in the image.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let layout: u16 = match self.layout {
            Layout::Plain => 0,
            Layout::Inline => 2,
            Layout::Chunks => 4,
        };
        // The first bit says that the inode is an extended one.
        let format = 1 | (layout << 1);
        let mut bytes = Vec::with_capacity(64);
        put(&mut bytes, &[&format.to_le_bytes(), &self.xattr_count.to_le_bytes()]);
        put(&mut bytes, &[&self.mode.to_le_bytes(), &[0; 2], &self.size.to_le_bytes()]);
        put(&mut bytes, &[&self.value.to_le_bytes(), &self.ino.to_le_bytes()]);
        put(&mut bytes, &[&self.uid.to_le_bytes(), &self.gid.to_le_bytes()]);
        put(&mut bytes, &[&self.mtime.to_le_bytes(), &self.mtime_nsec.to_le_bytes()]);
        put(&mut bytes, &[&self.links.to_le_bytes(), &[0; 16]]);
        bytes
    }
}

/// Appends all `parts`.
pub(super) fn put(bytes: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
}

/// CRC-32C as Linux has it in superblocks: not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let carry = if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            (crc >> 1) ^ carry
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_crc32c() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn superblock_has_its_fields_where_linux_looks() {
        let superblock = Superblock {
            root_nid: 0x0102,
            inodes: 3,
            blocks: 4,
            meta_block: 5,
            xattr_block: 6,
            has_chunks: true,
        };
        let block = superblock.to_block();
        let at =
            |offset: usize| u32::from_le_bytes(block[1024 + offset..][..4].try_into().unwrap());
        assert_eq!((at(0), at(8)), (MAGIC, COMPAT));
        assert_eq!(at(12), 12 | (0x0102 << 16));
        assert_eq!((at(16), at(36), at(40), at(44), at(80)), (3, 4, 5, 6, INCOMPAT_CHUNKED));
    }

    #[test]
    fn inode_has_the_length_of_an_extended_one() {
        let record = InodeRecord {
            layout: Layout::Chunks,
            xattr_count: 2,
            mode: 0o10_0644,
            size: 1 << 33,
            value: 7,
            ino: 8,
            uid: 9,
            gid: 10,
            mtime: -1,
            mtime_nsec: 12,
            links: 13,
        };
        let bytes = record.to_bytes();
        assert_eq!(u64::try_from(bytes.len()).unwrap(), INODE_BYTES);
        assert_eq!(bytes[..6], [9, 0, 2, 0, 0xa4, 0x81]);
        assert_eq!((bytes[16], bytes[24], bytes[28], bytes[32], bytes[44]), (7, 9, 10, 0xff, 13));
    }
}
