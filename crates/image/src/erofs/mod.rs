//! The image: an EROFS file system without compression, as fs/erofs/erofs_fs.h of Linux lays it out.
//!
//! ```text
//! block 0      superblock at byte 1024
//! blocks       contents of files, in the order in which the layers have them
//! blocks       large directories and long symbolic links
//! blocks       extended attributes that several inodes share
//! blocks       inodes, each followed by its attributes and small contents
//! ```
//!
//! Contents come first, so that nothing waits in memory or in another file until the inodes are known.
//! The same layers make the same bytes.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

mod data;
mod directory;
mod format;
mod output;
mod plan;
#[cfg(test)]
mod tests;
mod write;
mod xattr;

pub(crate) use data::{Data, Source};
pub(crate) use write::finish;

/// Bytes of a block, and its logarithm.
const BLOCK: u64 = 1 << BLOCK_BITS;
const BLOCK_BITS: u32 = 12;
/// The same for memory.
const BLOCK_LEN: usize = 4096;

/// Contents of more bytes are in blocks of their own: beside an inode they would only displace others.
const INLINE_BYTES: u64 = 2048;
