//! What a tree is made of.

use std::collections::BTreeMap;
use std::rc::Rc;

/// The name of a directory's entry.
pub(crate) type Name = Box<[u8]>;

/// An inode of one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InodeId(pub(super) usize);

impl InodeId {
    /// Its place among [`super::Tree::capacity`] others.
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Xattr {
    /// With its prefix, such as `user.`.
    pub(crate) name: Box<[u8]>,
    pub(crate) value: Box<[u8]>,
}

/// Owner, rights, time and attributes of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Rights with set-user-ID, set-group-ID and sticky bit, without the type.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Modification, in seconds since 1970.
    pub(crate) mtime: i64,
    pub(crate) mtime_nsec: u32,
    /// Sorted by name, no name twice.
    pub(crate) xattrs: Rc<[Xattr]>,
}

impl Meta {
    /// That of a directory no layer describes.
    pub(crate) fn implicit() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: 0, mtime_nsec: 0, xattrs: Rc::new([]) }
    }
}

/// Blocks of the image that hold one stretch of a file with holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The chunk of the file that it begins with.
    pub(crate) chunk: u64,
    pub(crate) chunks: u64,
    /// The block of the image where it begins.
    pub(crate) block: u32,
}

/// Where the bytes of a file are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Here: the whole of a small file.
    Inline(Box<[u8]>),
    /// In consecutive blocks of the image.
    Blocks(u32),
    /// In chunks of `1 << bits` bytes; what is in no run is a hole.
    Chunks { bits: u32, runs: Box<[Run]> },
}

/// The contents of a regular file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FileData {
    pub(crate) size: u64,
    pub(crate) place: Place,
}

/// What an inode is.
#[derive(Debug)]
pub(crate) enum Content {
    Directory(Directory),
    File(FileData),
    /// Where it leads.
    Symlink(Box<[u8]>),
    /// A device node with its number as Linux encodes it.
    Character(u32),
    Block(u32),
    Fifo,
}

impl Content {
    /// A directory without entries.
    pub(crate) fn directory() -> Self {
        Self::Directory(Directory::default())
    }
}

/// A directory.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub(super) entries: BTreeMap<Name, Entry>,
    pub(super) parent: usize,
    pub(super) depth: usize,
    /// The last layer that put something below.
    pub(super) touched: u32,
    /// The last layer that knows nothing older to be below.
    pub(super) cleaned: u32,
}

impl Directory {
    /// Names and inodes, sorted by name.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&[u8], InodeId)> {
        self.entries.iter().map(|(name, entry)| (&**name, entry.inode))
    }

    /// The directory above; the root's is the root.
    pub(crate) fn parent(&self) -> InodeId {
        InodeId(self.parent)
    }
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) inode: InodeId,
    /// The layer that put it here.
    pub(super) layer: u32,
}

/// An inode: what hard links share.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) meta: Meta,
    pub(crate) content: Content,
    /// Names that it has.
    pub(crate) links: u32,
}
