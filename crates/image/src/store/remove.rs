//! Giving space back: removing images, and what nothing refers to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use super::lock::StoreLock;
use super::record::Record;
use super::{Store, StoreError, index, unfinished};
use crate::digest::Digest;
use crate::reference::Reference;

/// The images that containers use, and the name or ID of one such container each.
pub type Roots = BTreeMap<Digest, String>;

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Names that mean nothing any more, in full.
    pub untagged: Vec<String>,
    /// Images that are gone.
    pub deleted: Vec<Digest>,
    /// Bytes of the disk that are free again.
    pub bytes: u64,
}

/// What is pruned beside what nothing refers to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prune {
    /// Images that no container uses, also if they have a name.
    pub all: bool,
    /// Layers as they came, which are needed only to make other images that share them.
    pub layers: bool,
}

/// What something takes on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// How many there are.
    pub count: u64,
    /// How many of them are in use.
    pub active: u64,
    /// Bytes of the disk.
    pub bytes: u64,
    /// Bytes that `prune` with all its options would give back.
    pub reclaimable: u64,
}

/// What the store takes on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DiskUsage {
    /// File systems of images.
    pub images: Usage,
    /// Layers and configurations.
    pub layers: Usage,
    /// What is unfinished, by running pulls or by killed ones.
    pub unfinished: Usage,
    /// What containers have written.
    pub containers: Usage,
}

impl Store {
    /// Removes what `text` means: a name, and with its last name the image; or by ID the image with its
    /// name. With `force` an image loses all its names, and stays without one while it is in use.
    ///
    /// `roots` says which images containers use. It is asked while no container can begin to use one: see
    /// [`Store::hold`].
    ///
    /// # Errors
    ///
    /// There is no such image; it is in use; its ID has several names; the store cannot be written.
    pub fn remove(
        &self,
        text: &str,
        force: bool,
        roots: impl FnOnce() -> Result<Roots, StoreError>,
    ) -> Result<Removed, StoreError> {
        let lock = StoreLock::exclusive(&self.paths)?;
        let roots = roots()?;
        let image = self.find_by_text(text)?;
        let image = image.ok_or_else(|| StoreError::NotFound(text.to_owned()))?;
        let name = self.name_of(text, image.id)?;
        let last = name.is_none() || image.names.len() <= 1;
        if name.is_none() && image.names.len() > 1 && !force {
            return Err(StoreError::ManyNames(text.to_owned()));
        }
        let user = roots.get(&image.id).filter(|_| last);
        if let Some(user) = user.filter(|_| !force) {
            let (image, user) = (text.to_owned(), format!("container {user}"));
            return Err(StoreError::InUse { image, user });
        }
        let gone = if last { image.names.clone() } else { name.into_iter().collect() };
        let mut names = index::names(&self.paths)?;
        names.names.retain(|name, _| !gone.contains(name));
        if last && user.is_none() {
            names.digests.retain(|_, id| *id != image.id);
        }
        index::write_names(&self.paths, &names)?;
        let mut removed = Removed { untagged: gone, ..Removed::default() };
        if last && user.is_none() {
            let record = index::record(&self.paths, image.id)?;
            self.delete(&[image.id], &mut removed)?;
            self.sweep(&lock, record.as_ref(), &mut removed)?;
        }
        Ok(removed)
    }

    /// The name in the index that `text` is, unless it is an ID.
    fn name_of(&self, text: &str, id: Digest) -> Result<Option<String>, StoreError> {
        let Ok(reference) = text.parse::<Reference>() else { return Ok(None) };
        let names = index::names(&self.paths)?;
        let name = match &reference {
            Reference::Registry(name) if name.digest().is_none() => name.to_string(),
            Reference::Registry(_) => return Ok(None),
            Reference::Local(local) => super::source_name(local),
        };
        Ok(names.names.get(&name).filter(|target| **target == id).map(|_| name))
    }

    /// Removes what nothing refers to: images without a name that no container uses, layers of no image,
    /// leftovers of killed pulls; and what `what` says besides.
    ///
    /// While a pull is running, layers are left alone: they may be its own.
    ///
    /// # Errors
    ///
    /// The store cannot be read or written.
    pub fn prune(
        &self,
        what: Prune,
        roots: impl FnOnce() -> Result<Roots, StoreError>,
    ) -> Result<Removed, StoreError> {
        let lock = StoreLock::exclusive(&self.paths)?;
        let roots = roots()?;
        let mut names = index::names(&self.paths)?;
        let unused = |image: &super::ImageRecord| {
            !roots.contains_key(&image.id) && (what.all || image.names.is_empty())
        };
        let unused: Vec<_> = self.list()?.into_iter().filter(unused).collect();
        let mut removed = Removed::default();
        if !unused.is_empty() {
            let ids: Vec<Digest> = unused.iter().map(|image| image.id).collect();
            removed.untagged = unused.into_iter().flat_map(|image| image.names).collect();
            let kept = |_: &String, id: &mut Digest| !ids.contains(id);
            names.names.retain(kept);
            names.digests.retain(kept);
            index::write_names(&self.paths, &names)?;
            self.delete(&ids, &mut removed)?;
        }
        removed.bytes += unfinished::remove_abandoned(&self.paths)?;
        self.sweep_all(&lock, what.layers, &mut removed)?;
        Ok(removed)
    }

    fn delete(&self, ids: &[Digest], removed: &mut Removed) -> Result<(), StoreError> {
        for id in ids {
            let path = self.paths.records().join(index::file_name(*id));
            removed.bytes += remove(&path)?;
            removed.deleted.push(*id);
        }
        Ok(())
    }

    /// Removes the files of a record that is gone, unless another one or a pull may need them.
    fn sweep(
        &self,
        _: &StoreLock,
        record: Option<&Record>,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        let (Some(record), Some(_alone)) = (record, StoreLock::no_pulls(&self.paths)?) else {
            return Ok(());
        };
        let kept = self.referred()?;
        if !kept.rootfs.contains(record.rootfs.as_str()) {
            removed.bytes += remove(&self.paths.rootfs().join(record.rootfs.as_str()))?;
        }
        for blob in record.blobs.iter().filter(|blob| !kept.blobs.contains(&blob.digest.hex())) {
            removed.bytes += remove(&self.paths.blobs().join(blob.digest.hex()))?;
        }
        Ok(())
    }

    fn sweep_all(
        &self,
        _: &StoreLock,
        layers: bool,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        let Some(_alone) = StoreLock::no_pulls(&self.paths)? else { return Ok(()) };
        let mut kept = self.referred()?;
        if layers {
            kept.blobs.clear();
        }
        for (directory, kept) in
            [(self.paths.blobs(), kept.blobs), (self.paths.rootfs(), kept.rootfs)]
        {
            let names = index::file_names(&directory)?;
            for name in names.into_iter().filter(|name| !kept.contains(name)) {
                removed.bytes += remove(&directory.join(name))?;
            }
        }
        Ok(())
    }

    /// The files that records refer to.
    fn referred(&self) -> Result<Referred, StoreError> {
        let mut referred = Referred::default();
        for id in index::ids(&self.paths)? {
            if let Some(record) = index::record(&self.paths, id)? {
                referred.rootfs.insert(record.rootfs.as_str().to_owned());
                referred.blobs.extend(record.blobs.iter().map(|blob| blob.digest.hex()));
            }
        }
        Ok(referred)
    }

    /// What the store takes on the disk.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn usage(
        &self,
        roots: impl FnOnce() -> Result<Roots, StoreError>,
    ) -> Result<DiskUsage, StoreError> {
        let roots = roots()?;
        let images = self.list()?;
        let used = images.iter().filter(|image| roots.contains_key(&image.id));
        let used: BTreeSet<String> =
            used.filter_map(|image| Some(image.rootfs.file_name()?.to_str()?.to_owned())).collect();
        let active = images.iter().filter(|image| roots.contains_key(&image.id)).count();
        let mut usage = DiskUsage {
            images: measure(&self.paths.rootfs(), &used)?,
            layers: measure(&self.paths.blobs(), &BTreeSet::new())?,
            unfinished: measure(&self.paths.temporary(), &BTreeSet::new())?,
            containers: measure_tree(&self.paths.containers())?,
        };
        usage.images.count = u64::try_from(images.len()).unwrap_or(u64::MAX);
        usage.images.active = u64::try_from(active).unwrap_or(u64::MAX);
        Ok(usage)
    }
}

#[derive(Debug, Default)]
struct Referred {
    rootfs: BTreeSet<String>,
    blobs: BTreeSet<String>,
}

fn measure(directory: &Path, used: &BTreeSet<String>) -> Result<Usage, StoreError> {
    let mut usage = Usage::default();
    for name in index::file_names(directory)? {
        let Ok(metadata) = fs::symlink_metadata(directory.join(&name)) else { continue };
        let bytes = metadata.blocks().saturating_mul(512);
        usage.count += 1;
        usage.bytes += bytes;
        match used.contains(&name) {
            true => usage.active += 1,
            false => usage.reclaimable += bytes,
        }
    }
    Ok(usage)
}

/// Directories in each other that are looked into, at most.
const MAX_DEPTH: usize = 8;

/// Everything below each directory in `path`. Links are not followed.
fn measure_tree(path: &Path) -> Result<Usage, StoreError> {
    let mut usage = Usage::default();
    let mut pending = vec![(path.to_owned(), 0)];
    while let Some((directory, depth)) = pending.pop() {
        for name in index::file_names(&directory)? {
            let path = directory.join(name);
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            usage.bytes += metadata.blocks().saturating_mul(512);
            usage.count += u64::from(depth == 0 && metadata.is_dir());
            if metadata.is_dir() && depth < MAX_DEPTH {
                pending.push((path, depth + 1));
            }
        }
    }
    usage.active = usage.count;
    Ok(usage)
}

/// Removes a file, and returns the bytes of the disk that it took; 0 if it is not there.
fn remove(path: &Path) -> Result<u64, StoreError> {
    let bytes = fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * 512);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(error))
        }
        _ => Ok(bytes),
    }
}
