//! How a layer hides what older layers have.

use super::inode::Entry;
use super::{InodeId, Meta, Tree, TreeError};

impl Tree {
    /// Hides the entry `name` of the directory at `parents`, and all below it, as far as older layers
    /// put it there. Nothing there is no error.
    pub(crate) fn whiteout(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<(), TreeError> {
        if let Some(parent) = self.find_directory(parents)?
            && let Some(kept) = self.hide(parent, name)
        {
            self.clean(kept);
        }
        Ok(())
    }

    /// Hides all entries of the directory at `names` that older layers put there.
    pub(crate) fn opaque(&mut self, names: &[&[u8]]) -> Result<(), TreeError> {
        if let Some(directory) = self.find_directory(names)? {
            self.clean(directory);
        }
        Ok(())
    }

    /// Removes what is old below `directory`. A directory is walked through once in a layer: after that
    /// nothing old can be in it.
    fn clean(&mut self, directory: InodeId) {
        let layer = self.layer;
        let mut pending = vec![directory];
        while let Some(id) = pending.pop() {
            let Some(directory) = self.directory_mut(id).filter(|found| found.cleaned != layer)
            else {
                continue;
            };
            directory.cleaned = layer;
            let names: Vec<_> = directory.entries.keys().cloned().collect();
            pending.extend(names.iter().filter_map(|name| self.hide(id, name)));
        }
    }

    /// Removes an entry if it is old; returns the directory that stays, what is below not yet hidden.
    ///
    /// An old directory in which this layer has put something stays as one that no layer describes.
    fn hide(&mut self, parent: InodeId, name: &[u8]) -> Option<InodeId> {
        let entry: Entry = self.entry(parent, name)?;
        let old = entry.layer != self.layer;
        let touched = self.directory(entry.inode).map(|found| found.touched == self.layer);
        match (old, touched) {
            (true, None | Some(false)) => {
                self.remove(parent, name);
                return None;
            }
            (true, Some(true)) => {
                self.inode_mut(entry.inode)?.meta = Meta::implicit();
                self.put_entry(parent, name, entry.inode);
            }
            (false, None) => return None,
            (false, Some(_)) => {}
        }
        Some(entry.inode)
    }
}
