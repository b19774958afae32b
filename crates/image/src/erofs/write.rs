//! The second part of an image: everything but the contents of files.

use super::directory::{self, DirEntry};
use super::format::{
    FT_BLOCK, FT_CHARACTER, FT_DIRECTORY, FT_FIFO, FT_REGULAR, FT_SYMLINK, HOLE, InodeRecord,
    Layout, SLOT_BYTES, Superblock,
};
use super::output::Output;
use super::plan::{Plan, chunk_form, tail};
use super::xattr::{self, Shared};
use super::{BLOCK, Data};
use crate::layer::Fault;
use crate::tree::{Content, Inode, InodeId, Place, ROOT, Run, Tree};

/// What became of a tree.
pub(crate) struct Written {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// The image's parts after the contents of files.
struct Writer<'a> {
    tree: &'a Tree,
    shared: Shared<'a>,
    plan: Plan,
    /// Where the blocks of directories and long symbolic links begin.
    outside: u64,
}

/// Completes the image of `tree`, the contents of whose files are in `data`.
pub(crate) fn finish(tree: &Tree, data: Data<'_>) -> Result<Written, Fault> {
    let mut out = data.into_output();
    let writer = Writer::new(tree, out.position() / BLOCK);
    let shared_bytes = u64::try_from(writer.shared.bytes().len()).unwrap_or(u64::MAX);
    let meta = writer.plan.outside_blocks * BLOCK + shared_bytes + writer.plan.meta_bytes;
    out.reserve(out.position(), meta + 2 * BLOCK)?;
    writer.write_outside(&mut out)?;
    let xattr_block = out.block()?;
    out.write(writer.shared.bytes())?;
    out.pad()?;
    let meta_block = out.block()?;
    writer.write_inodes(&mut out)?;
    let inodes = u64::try_from(writer.plan.order.len()).unwrap_or(u64::MAX);
    let root_nid = u16::try_from(writer.plan.spot(ROOT).nid).unwrap_or_default();
    let has_chunks = writer.plan.has_chunks;
    let (blocks, bytes) = (out.block()?, out.position());
    let superblock = Superblock { root_nid, inodes, blocks, meta_block, xattr_block, has_chunks };
    out.finish(&superblock.to_block())?;
    Ok(Written { bytes, inodes })
}

impl<'a> Writer<'a> {
    fn new(tree: &'a Tree, outside: u64) -> Self {
        let mut shared = Shared::default();
        for inode in tree.inodes() {
            shared.count(&inode.meta.xattrs);
        }
        shared.lay_out();
        let plan = Plan::new(tree, &shared);
        Self { tree, shared, plan, outside }
    }

    /// All inodes in the order of the plan.
    fn inodes(&self) -> impl Iterator<Item = (InodeId, &'a Inode)> {
        self.plan.order.iter().filter_map(|id| Some((*id, self.tree.inode(*id)?)))
    }

    fn xattrs(&self, inode: &Inode) -> (Vec<u8>, u64) {
        let encoded = self.shared.encode(&inode.meta.xattrs);
        let len = u64::try_from(encoded.len()).unwrap_or(u64::MAX);
        (encoded, len)
    }

    /// Directories and symbolic links that are too long for a place behind their inode.
    fn write_outside(&self, out: &mut Output<'_>) -> Result<(), Fault> {
        for (id, inode) in self.inodes() {
            if tail(inode, self.xattrs(inode).1).outside > 0 {
                out.write(&self.contents(id, inode))?;
                out.pad()?;
            }
        }
        Ok(())
    }

    fn write_inodes(&self, out: &mut Output<'_>) -> Result<(), Fault> {
        let start = out.position();
        for (number, (id, inode)) in (1..).zip(self.inodes()) {
            out.go_on_at(start + self.plan.spot(id).nid * SLOT_BYTES)?;
            let (xattrs, xattrs_len) = self.xattrs(inode);
            let tail = tail(inode, xattrs_len);
            let contents = match &inode.content {
                Content::File(file) => match &file.place {
                    Place::Chunks { bits, runs } => chunk_map(file.size, *bits, runs),
                    Place::Inline(bytes) => bytes.to_vec(),
                    Place::Blocks(_) => Vec::new(),
                },
                _ => self.contents(id, inode),
            };
            out.write(&self.record(id, inode, number, tail.layout, contents.len()).to_bytes())?;
            out.write(&xattrs)?;
            if tail.outside == 0 {
                out.write(&contents)?;
            }
        }
        out.pad()
    }

    fn record(
        &self,
        id: InodeId,
        inode: &Inode,
        ino: u32,
        layout: Layout,
        contents: usize,
    ) -> InodeRecord {
        let outside = u32::try_from(self.outside + self.plan.spot(id).block).unwrap_or(u32::MAX);
        let contents = u64::try_from(contents).unwrap_or(u64::MAX);
        let (kind, _) = types(&inode.content);
        let (size, value) = match &inode.content {
            Content::File(file) => (
                file.size,
                match &file.place {
                    Place::Inline(_) => 0,
                    Place::Blocks(block) => *block,
                    Place::Chunks { bits, .. } => chunk_form(*bits),
                },
            ),
            Content::Directory(_) | Content::Symlink(_) if layout == Layout::Inline => {
                (contents, 0)
            }
            Content::Directory(_) | Content::Symlink(_) => (contents, outside),
            Content::Character(number) | Content::Block(number) => (0, *number),
            Content::Fifo => (0, 0),
        };
        let (xattrs, meta) = (self.xattrs(inode).0, &inode.meta);
        InodeRecord {
            layout,
            xattr_count: xattr::count(xattrs.len()),
            mode: kind | meta.mode,
            size,
            value,
            ino,
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime,
            mtime_nsec: meta.mtime_nsec,
            links: self.links(inode),
        }
    }

    /// A directory has a name above, one in itself, and one in each directory in it.
    fn links(&self, inode: &Inode) -> u32 {
        let Content::Directory(directory) = &inode.content else { return inode.links };
        let inside = directory.entries().filter(|(_, id)| self.tree.directory(*id).is_some());
        u32::try_from(inside.count() + 2).unwrap_or(u32::MAX)
    }

    /// The bytes of a directory or a symbolic link.
    fn contents(&self, id: InodeId, inode: &Inode) -> Vec<u8> {
        match &inode.content {
            Content::Symlink(target) => target.to_vec(),
            Content::Directory(found) => {
                let mut entries: Vec<DirEntry<'_>> =
                    found.entries().map(|(name, id)| self.entry(name, id)).collect();
                entries.push(self.entry(b".", id));
                entries.push(self.entry(b"..", found.parent()));
                entries.sort_unstable();
                directory::encode(&entries)
            }
            _ => Vec::new(),
        }
    }

    fn entry<'n>(&self, name: &'n [u8], id: InodeId) -> DirEntry<'n> {
        let file_type = self.tree.inode(id).map_or(0, |inode| types(&inode.content).1);
        (name, self.plan.spot(id).nid, file_type)
    }
}

/// The type in an inode's mode and in directory entries.
fn types(content: &Content) -> (u16, u8) {
    match content {
        Content::Fifo => (0o1_0000, FT_FIFO),
        Content::Character(_) => (0o2_0000, FT_CHARACTER),
        Content::Directory(_) => (0o4_0000, FT_DIRECTORY),
        Content::Block(_) => (0o6_0000, FT_BLOCK),
        Content::File(_) => (0o10_0000, FT_REGULAR),
        Content::Symlink(_) => (0o12_0000, FT_SYMLINK),
    }
}

/// The block of each chunk of a file.
fn chunk_map(size: u64, bits: u32, runs: &[Run]) -> Vec<u8> {
    let chunk_blocks = 1_u64 << chunk_form(bits);
    let mut map = Vec::new();
    let mut chunk = 0;
    for run in runs {
        (chunk..run.chunk).for_each(|_| map.extend_from_slice(&HOLE.to_le_bytes()));
        for index in 0..run.chunks {
            let block = u64::from(run.block) + index * chunk_blocks;
            let block = u32::try_from(block).unwrap_or(HOLE);
            map.extend_from_slice(&block.to_le_bytes());
        }
        chunk = run.chunk + run.chunks;
    }
    (chunk..size.div_ceil(1 << bits)).for_each(|_| map.extend_from_slice(&HOLE.to_le_bytes()));
    map
}
