//! The root file system while layers are put on each other: names, inodes and where their bytes are.
//!
//! The order of the members of one layer does not matter to whiteouts: they hide what older layers have,
//! never what their own layer brings.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

mod inode;
mod path;
#[cfg(test)]
mod tests;
mod whiteout;

use std::collections::btree_map;

use crate::rootfs::Limits;
pub(crate) use inode::{Content, Directory, FileData, Inode, InodeId, Meta, Place, Run, Xattr};
use inode::{Entry, Name};
pub(crate) use path::{NAME_BYTES, PATH_BYTES, Path, PathError};

/// Symbolic links that one path may lead through, as in Linux.
const MAX_SYMLINKS: u32 = 40;

/// The directory everything is below.
pub(crate) const ROOT: InodeId = InodeId(0);

/// Why a member has no place in the tree.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum TreeError {
    #[error("the root can only be a directory")]
    Root,
    #[error("what should be a directory above it is something else")]
    NotADirectory,
    #[error("the path leads through more than {MAX_SYMLINKS} symbolic links")]
    TooManySymlinks,
    #[error("the paths of the image take too long to follow")]
    TooManyLookups,
    #[error("it is more than {0} directories deep")]
    TooDeep(usize),
    #[error("the image has more than {0} files and directories")]
    TooManyInodes(usize),
    #[error("a name that a symbolic link makes necessary is longer than {NAME_BYTES} bytes")]
    NameTooLong,
    #[error("the target of the hard link does not exist")]
    NoTarget,
    #[error("the target of the hard link is a directory")]
    DirectoryTarget,
    #[error("the hard link leads to itself")]
    OwnTarget,
}

/// A root file system in the making.
#[derive(Debug)]
pub(crate) struct Tree {
    inodes: Vec<Option<Inode>>,
    free: Vec<usize>,
    /// Contents of files that lost their last name.
    released: Vec<FileData>,
    layer: u32,
    lookups_left: u64,
    max_inodes: usize,
    max_depth: usize,
}

impl Tree {
    /// A root without entries, which no layer has described.
    pub(crate) fn new(limits: &Limits) -> Self {
        let (max_inodes, max_depth, lookups_left) = (limits.inodes, limits.depth, limits.lookups);
        let root = Inode { meta: Meta::implicit(), content: Content::directory(), links: 1 };
        let (free, released) = (Vec::new(), Vec::new());
        let inodes = vec![Some(root)];
        Self { inodes, free, released, layer: 0, lookups_left, max_inodes, max_depth }
    }

    /// What follows belongs to the next layer.
    pub(crate) fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// Whether there is nothing but the root.
    pub(crate) fn is_empty(&self) -> bool {
        self.directory(ROOT).is_none_or(|root| root.entries.is_empty())
    }

    /// How many inodes there are.
    pub(crate) fn len(&self) -> usize {
        self.inodes.len() - self.free.len()
    }

    /// Above every index of an inode.
    pub(crate) fn capacity(&self) -> usize {
        self.inodes.len()
    }

    /// Files that were replaced or hidden since the last call: their blocks are free.
    pub(crate) fn take_released(&mut self) -> Vec<FileData> {
        std::mem::take(&mut self.released)
    }

    /// An inode that has a name; `None` for one that lost its last.
    pub(crate) fn inode(&self, id: InodeId) -> Option<&Inode> {
        self.inodes.get(id.0)?.as_ref()
    }

    /// All inodes, in no order that means anything.
    pub(crate) fn inodes(&self) -> impl Iterator<Item = &Inode> {
        self.inodes.iter().flatten()
    }

    fn inode_mut(&mut self, id: InodeId) -> Option<&mut Inode> {
        self.inodes.get_mut(id.0)?.as_mut()
    }

    /// The directory that an inode is, if it is one.
    pub(crate) fn directory(&self, id: InodeId) -> Option<&Directory> {
        match &self.inode(id)?.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self, id: InodeId) -> Option<&mut Directory> {
        match &mut self.inode_mut(id)?.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn entry(&self, parent: InodeId, name: &[u8]) -> Option<Entry> {
        self.directory(parent)?.entries.get(name).copied()
    }

    /// Puts a member at `path`, in the place of what was there. A directory on a directory keeps the
    /// entries and takes the new owner, rights, time and attributes.
    pub(crate) fn insert(
        &mut self,
        path: &Path<'_>,
        meta: Meta,
        content: Content,
    ) -> Result<(), TreeError> {
        let is_directory = matches!(content, Content::Directory(_));
        let Some((parents, name)) = path.split() else {
            let root = self.inode_mut(ROOT).filter(|_| is_directory).ok_or(TreeError::Root)?;
            root.meta = meta;
            return Ok(());
        };
        let parent = self.make_directories(parents)?;
        let old = self.entry(parent, name).filter(|old| self.directory(old.inode).is_some());
        if let (true, Some(old)) = (is_directory, old) {
            if let Some(inode) = self.inode_mut(old.inode) {
                inode.meta = meta;
            }
            self.put_entry(parent, name, old.inode);
            return Ok(());
        }
        self.remove(parent, name);
        self.add(parent, name, Inode { meta, content, links: 0 })?;
        Ok(())
    }

    /// Gives what is at `target` a second name. Symbolic links above both are followed inside of the
    /// tree, the last name of neither.
    pub(crate) fn link(&mut self, path: &Path<'_>, target: &Path<'_>) -> Result<(), TreeError> {
        let (parents, name) = path.split().ok_or(TreeError::Root)?;
        let (target_parents, target_name) = target.split().ok_or(TreeError::DirectoryTarget)?;
        let holder = self.find_directory(target_parents)?.ok_or(TreeError::NoTarget)?;
        let inode = self.entry(holder, target_name).ok_or(TreeError::NoTarget)?.inode;
        if self.directory(inode).is_some() {
            return Err(TreeError::DirectoryTarget);
        }
        let parent = self.make_directories(parents)?;
        if (parent, name) == (holder, target_name) {
            return Err(TreeError::OwnTarget);
        }
        // The new name comes first: the old entry may be the last other name.
        if let Some(inode) = self.inode_mut(inode) {
            inode.links += 1;
        }
        self.remove(parent, name);
        self.put_entry(parent, name, inode);
        Ok(())
    }

    fn find_directory(&mut self, names: &[&[u8]]) -> Result<Option<InodeId>, TreeError> {
        self.walk(names, false)
    }

    /// The directory at `names`; what is missing comes into being, owned by root with rights 0755.
    fn make_directories(&mut self, names: &[&[u8]]) -> Result<InodeId, TreeError> {
        self.walk(names, true)?.ok_or(TreeError::NotADirectory)
    }

    /// Follows `names` through the tree as a process would whose root it is: a symbolic link leads
    /// somewhere inside, whatever it says.
    fn walk(&mut self, names: &[&[u8]], make: bool) -> Result<Option<InodeId>, TreeError> {
        let mut pending: Vec<Vec<u8>> = names.iter().rev().map(|name| name.to_vec()).collect();
        let (mut at, mut links) = (ROOT, 0);
        while let Some(name) = pending.pop() {
            let left = self.lookups_left.checked_sub(1);
            self.lookups_left = left.ok_or(TreeError::TooManyLookups)?;
            if name == b".." {
                at = self.directory(at).map_or(ROOT, Directory::parent);
                continue;
            }
            let Some(entry) = self.entry(at, &name) else {
                if !make {
                    return Ok(None);
                }
                at = self.make_directory(at, &name)?;
                continue;
            };
            match self.inode(entry.inode).map(|inode| &inode.content) {
                Some(Content::Directory(_)) => at = entry.inode,
                Some(Content::Symlink(target)) => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(TreeError::TooManySymlinks);
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    let names = target.rsplit(|byte| *byte == b'/');
                    let names = names.filter(|name| !name.is_empty() && *name != b".");
                    pending.extend(names.map(<[u8]>::to_vec));
                }
                _ if make => return Err(TreeError::NotADirectory),
                _ => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn make_directory(&mut self, parent: InodeId, name: &[u8]) -> Result<InodeId, TreeError> {
        if name.len() > NAME_BYTES {
            return Err(TreeError::NameTooLong);
        }
        let meta = Meta::implicit();
        self.add(parent, name, Inode { meta, content: Content::directory(), links: 0 })
    }

    /// Gives a new inode its first name, where there is none.
    fn add(
        &mut self,
        parent: InodeId,
        name: &[u8],
        mut inode: Inode,
    ) -> Result<InodeId, TreeError> {
        let depth = self.directory(parent).map_or(0, |parent| parent.depth) + 1;
        if depth > self.max_depth {
            return Err(TreeError::TooDeep(self.max_depth));
        }
        if self.len() >= self.max_inodes {
            return Err(TreeError::TooManyInodes(self.max_inodes));
        }
        inode.links = 1;
        if let Content::Directory(directory) = &mut inode.content {
            (directory.parent, directory.depth) = (parent.0, depth);
            directory.cleaned = self.layer;
        }
        let id = self.store(inode);
        self.put_entry(parent, name, id);
        Ok(id)
    }

    fn store(&mut self, inode: Inode) -> InodeId {
        if let Some(free) = self.free.pop()
            && let Some(slot) = self.inodes.get_mut(free)
        {
            *slot = Some(inode);
            return InodeId(free);
        }
        self.inodes.push(Some(inode));
        InodeId(self.inodes.len() - 1)
    }

    /// Names `inode` in `parent` on behalf of this layer.
    fn put_entry(&mut self, parent: InodeId, name: &[u8], inode: InodeId) {
        let entry = Entry { inode, layer: self.layer };
        let Some(directory) = self.directory_mut(parent) else { return };
        match directory.entries.get_mut(name) {
            Some(old) => *old = entry,
            None => {
                directory.entries.insert(Name::from(name), entry);
            }
        }
        self.touch(parent);
    }

    /// Notes that this layer has something below `directory`, and so below all above it.
    fn touch(&mut self, mut directory: InodeId) {
        let layer = self.layer;
        while let Some(found) = self.directory_mut(directory)
            && found.touched != layer
        {
            found.touched = layer;
            directory = found.parent();
        }
    }

    /// Takes a name away, with all below it.
    fn remove(&mut self, parent: InodeId, name: &[u8]) {
        let removed = self.directory_mut(parent).and_then(|parent| parent.entries.remove(name));
        let mut pending: Vec<InodeId> = removed.map(|entry| entry.inode).into_iter().collect();
        while let Some(id) = pending.pop() {
            let Some(inode) = self.inode_mut(id) else { continue };
            inode.links -= 1;
            if inode.links > 0 {
                continue;
            }
            let inode = self.inodes.get_mut(id.0).and_then(Option::take);
            self.free.push(id.0);
            match inode.map(|inode| inode.content) {
                Some(Content::File(file)) => self.released.push(file),
                Some(Content::Directory(directory)) => {
                    let entries: btree_map::IntoValues<Name, Entry> =
                        directory.entries.into_values();
                    pending.extend(entries.map(|entry| entry.inode));
                }
                _ => {}
            }
        }
    }
}
