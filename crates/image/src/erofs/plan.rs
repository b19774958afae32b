//! Where everything of the metadata will be.

use super::directory::encoded_len;
use super::format::{INODE_BYTES, Layout, SLOT_BYTES};
use super::xattr::Shared;
use super::{BLOCK, BLOCK_BITS, INLINE_BYTES};
use crate::tree::{Content, Directory, Inode, InodeId, Place, ROOT, Tree};

/// Inode 0 would be skipped by readers of directories.
const FIRST_NID: u64 = INODE_BYTES / SLOT_BYTES;

/// What is behind an inode and its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) layout: Layout,
    /// Bytes of contents or of the map of chunks.
    pub(super) bytes: u64,
    /// Bytes of contents in the blocks of metadata before the inodes.
    pub(super) outside: u64,
}

/// Where an inode will be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spot {
    /// Its number: its place in slots.
    pub(super) nid: u64,
    /// For a directory or a long symbolic link: its first block, counted from the first of these.
    pub(super) block: u64,
}

/// The order of the inodes and their places.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) order: Vec<InodeId>,
    /// By index of the inode.
    spots: Vec<Option<Spot>>,
    /// Blocks of directories and long symbolic links.
    pub(super) outside_blocks: u64,
    /// Bytes of the inodes with all that is behind them.
    pub(super) meta_bytes: u64,
    pub(super) has_chunks: bool,
}

impl Plan {
    /// Lays out all of `tree`: after a directory what is in it, then the directories in it, so that who
    /// lists one reads few blocks.
    pub(super) fn new(tree: &Tree, shared: &Shared<'_>) -> Self {
        let mut plan = Self {
            order: Vec::with_capacity(tree.len()),
            spots: vec![None; tree.capacity()],
            outside_blocks: 0,
            meta_bytes: FIRST_NID * SLOT_BYTES,
            has_chunks: false,
        };
        let mut pending = vec![ROOT];
        while let Some(id) = pending.pop() {
            plan.place(tree, shared, id);
            let entries = tree.directory(id).into_iter().flat_map(Directory::entries);
            let first = pending.len();
            for (_, inode) in entries {
                if tree.directory(inode).is_some() {
                    pending.push(inode);
                } else {
                    plan.place(tree, shared, inode);
                }
            }
            if let Some(found) = pending.get_mut(first..) {
                found.reverse();
            }
        }
        plan
    }

    /// Where an inode will be.
    pub(super) fn spot(&self, id: InodeId) -> Spot {
        self.spots.get(id.index()).copied().flatten().unwrap_or_default()
    }

    fn place(&mut self, tree: &Tree, shared: &Shared<'_>, id: InodeId) {
        let (Some(inode), Some(spot)) = (tree.inode(id), self.spots.get_mut(id.index())) else {
            return;
        };
        // A second name of a file that has its place.
        if spot.is_some() {
            return;
        }
        let xattrs = u64::try_from(shared.encode(&inode.meta.xattrs).len()).unwrap_or(u64::MAX);
        let head = INODE_BYTES + xattrs;
        let tail = tail(inode, xattrs);
        let start = start(self.meta_bytes, head, tail);
        *spot = Some(Spot { nid: start / SLOT_BYTES, block: self.outside_blocks });
        self.outside_blocks += tail.outside.div_ceil(BLOCK);
        self.meta_bytes = start + head + tail.bytes;
        self.has_chunks |= tail.layout == Layout::Chunks;
        self.order.push(id);
    }
}

/// Where an inode can begin at or after `position`. Contents behind an inode must not cross a block's
/// end, nor should an inode.
fn start(position: u64, head: u64, tail: Tail) -> u64 {
    let start = position.next_multiple_of(SLOT_BYTES);
    let room = |from: u64| BLOCK - from % BLOCK;
    let inline = tail.layout == Layout::Inline;
    let crosses = if inline { room(start + head) < tail.bytes } else { room(start) < INODE_BYTES };
    if crosses { start.next_multiple_of(BLOCK) } else { start }
}

/// How the contents of an inode are laid out, whose encoded attributes have `xattrs` bytes.
pub(super) fn tail(inode: &Inode, xattrs: u64) -> Tail {
    let plain = Tail { layout: Layout::Plain, bytes: 0, outside: 0 };
    let near = |bytes: u64| match bytes {
        0 => plain,
        _ if bytes <= INLINE_BYTES && INODE_BYTES + xattrs + bytes <= BLOCK => {
            Tail { layout: Layout::Inline, bytes, outside: 0 }
        }
        _ => Tail { outside: bytes, ..plain },
    };
    match &inode.content {
        Content::Directory(directory) => near(directory_bytes(directory)),
        Content::Symlink(target) => near(u64::try_from(target.len()).unwrap_or(u64::MAX)),
        Content::File(file) => match &file.place {
            Place::Inline(_) => near(file.size),
            Place::Blocks(_) => plain,
            Place::Chunks { bits, .. } => {
                let bytes = 4 * file.size.div_ceil(1 << bits);
                Tail { layout: Layout::Chunks, bytes, ..plain }
            }
        },
        Content::Character(_) | Content::Block(_) | Content::Fifo => plain,
    }
}

/// The form of chunks of `1 << bits` bytes, as an inode has it.
pub(super) fn chunk_form(bits: u32) -> u32 {
    bits.saturating_sub(BLOCK_BITS)
}

fn directory_bytes(directory: &Directory) -> u64 {
    let mut names: Vec<&[u8]> = directory.entries().map(|(name, _)| name).collect();
    names.extend([&b"."[..], b".."]);
    names.sort_unstable();
    let lens: Vec<usize> = names.iter().map(|name| name.len()).collect();
    u64::try_from(encoded_len(&lens)).unwrap_or(u64::MAX)
}
