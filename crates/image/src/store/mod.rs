//! The store of images: what was verified, by digest, and the names it goes by.
//!
//! ```text
//! DATA/images/names.json             name -> ID, name@digest -> ID
//!             records/ID.json        what is known about an image
//!             rootfs/FORM-CHAIN.erofs  its file system
//!             blobs/sha256/HEX       what it was made from
//!             tmp/                   what is not finished
//!             lock                   held while names and records change
//!             pulls                  held by whoever pulls
//! ```
//!
//! Every file is written under another name in `tmp`, made durable and renamed, in the order blobs,
//! file system, record, name: what can be found by a name is whole, whenever a process is killed.

#[cfg(feature = "helper")]
mod blob;
mod error;
mod index;
mod lock;
mod paths;
mod record;
mod remove;
#[cfg(test)]
mod tests;
mod unfinished;

use std::path::Path;

#[cfg(feature = "helper")]
pub use blob::{BlobError, Blobs, digest_of};
pub use error::StoreError;
#[cfg(feature = "helper")]
pub(crate) use error::io_hint;
pub use lock::StoreLock;
pub use paths::StorePaths;
pub use record::{Blob, ImageRecord, Record, RootfsName};
pub use remove::{DiskUsage, Prune, Removed, Roots, Usage};
pub use unfinished::Unfinished;

use crate::digest::Digest;
use crate::platform::Platform;
use crate::reference::{Local, Reference};
use record::Names;

/// The images of this user.
#[derive(Debug, Clone)]
pub struct Store {
    paths: StorePaths,
}

impl Store {
    /// The store in these directories, which need not exist yet.
    ///
    /// # Errors
    ///
    /// The directory exists and belongs to another user, or others may write to it.
    pub fn open(paths: StorePaths) -> Result<Self, StoreError> {
        index::check_owner(&paths.images())?;
        Ok(Self { paths })
    }

    /// The directories.
    pub fn paths(&self) -> &StorePaths {
        &self.paths
    }

    /// Waits until nothing is being removed, and keeps it so as long as the guard lives.
    ///
    /// Held while an image is looked up and noted as used by a container, so that it is not removed
    /// between the two.
    ///
    /// # Errors
    ///
    /// The lock cannot be made or waited for.
    pub fn hold(&self) -> Result<StoreLock, StoreError> {
        StoreLock::shared(&self.paths)
    }

    /// Says that a pull is running, as long as the guard lives: what it has got is not pruned, though
    /// no image refers to it yet.
    ///
    /// # Errors
    ///
    /// The lock cannot be made or waited for.
    pub fn pulling(&self) -> Result<StoreLock, StoreError> {
        StoreLock::pull(&self.paths)
    }

    /// The image that `reference` means, if it is here.
    ///
    /// A name with a digest means the image of that digest, whatever its tag says.
    ///
    /// # Errors
    ///
    /// The store cannot be read or is damaged.
    pub fn find(&self, reference: &Reference) -> Result<Option<ImageRecord>, StoreError> {
        let names = index::names(&self.paths)?;
        let id = match reference {
            Reference::Registry(name) => match name.digest() {
                Some(digest) => names.digests.get(&name.with_digest(digest).to_string()),
                None => names.names.get(&name.to_string()),
            },
            Reference::Local(local) => names.names.get(&source_name(local)),
        };
        id.map(|id| self.image(*id, &names)).transpose().map(Option::flatten)
    }

    /// The image that a user means by `text`: a reference, an ID, or the beginning of an ID.
    ///
    /// # Errors
    ///
    /// [`StoreError::Ambiguous`]; `text` is neither a reference nor an ID; the store cannot be read.
    pub fn find_by_text(&self, text: &str) -> Result<Option<ImageRecord>, StoreError> {
        let reference = text.parse::<Reference>();
        if let Ok(reference) = &reference
            && let Some(image) = self.find(reference)?
        {
            return Ok(Some(image));
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if let Some(id) = index::id_by_prefix(&self.paths, hex)? {
            return self.image(id, &index::names(&self.paths)?);
        }
        match reference {
            Err(error) if !is_hex(hex) => Err(error.into()),
            _ => Ok(None),
        }
    }

    /// All images, by ID.
    ///
    /// # Errors
    ///
    /// The store cannot be read or is damaged.
    pub fn list(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let names = index::names(&self.paths)?;
        let ids = index::ids(&self.paths)?;
        let images = ids.into_iter().map(|id| self.image(id, &names));
        images.filter_map(Result::transpose).collect()
    }

    /// Takes an image in, whose blobs and file system are in place, under `names` in addition to those
    /// it has; a name that meant another image means this one from now on.
    ///
    /// # Errors
    ///
    /// The store cannot be written; nothing has changed then, or the image has no name yet.
    pub fn add(&self, record: &Record, names: &NewNames) -> Result<ImageRecord, StoreError> {
        let _lock = StoreLock::exclusive(&self.paths)?;
        index::write_record(&self.paths, record)?;
        let mut all = index::names(&self.paths)?;
        all.version = Names::VERSION;
        all.names.extend(names.names.iter().map(|name| (name.clone(), record.id)));
        all.digests.extend(names.digests.iter().map(|name| (name.clone(), record.id)));
        index::write_names(&self.paths, &all)?;
        let image = self.image(record.id, &all)?;
        image.ok_or_else(|| StoreError::NotFound(record.id.to_string()))
    }

    fn image(&self, id: Digest, names: &Names) -> Result<Option<ImageRecord>, StoreError> {
        let Some(record) = index::record(&self.paths, id)? else { return Ok(None) };
        Ok(Some(ImageRecord {
            id,
            names: Names::of(&names.names, id),
            digests: Names::of(&names.digests, id),
            rootfs: self.paths.rootfs().join(record.rootfs.as_str()),
            config: record.config,
            size: record.size,
            created: record.created,
            blobs: record.blobs,
        }))
    }
}

/// The names that an image is taken in under.
#[derive(Debug, Clone, Default)]
pub struct NewNames {
    names: Vec<String>,
    digests: Vec<String>,
}

impl NewNames {
    /// What `reference` means from now on.
    pub fn add(&mut self, reference: &Reference) {
        match reference {
            Reference::Registry(name) => match name.digest() {
                Some(digest) => self.digests.push(name.with_digest(digest).to_string()),
                None => self.names.push(name.to_string()),
            },
            Reference::Local(local) => self.names.push(source_name(local)),
        }
    }
}

/// The name of an image that came from a file or directory: its reference with the path in full.
fn source_name(local: &Local) -> String {
    let path = std::path::absolute(&local.path).unwrap_or_else(|_| local.path.clone());
    Local { path, ..local.clone() }.to_string()
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|c| c.is_ascii_hexdigit())
}

/// Whether `image`, which was asked for as `asked`, is for this machine.
///
/// # Errors
///
/// [`StoreError::Platform`]: its programs are those of another processor or operating system.
pub fn check_platform(image: &ImageRecord, asked: &str) -> Result<(), StoreError> {
    let (own, host) = (image.config.platform(), Platform::host());
    if own.suits(&host) {
        return Ok(());
    }
    Err(StoreError::Platform { image: asked.to_owned(), platforms: Box::new((own, host)) })
}

/// Whether the file system of `image` is whole, as far as its size says.
///
/// # Errors
///
/// [`StoreError::Damaged`]: the file is not there, or has another size.
pub fn check_rootfs(image: &ImageRecord) -> Result<(), StoreError> {
    let damaged = |path: &Path, why: String| StoreError::Damaged { path: path.to_owned(), why };
    match std::fs::metadata(&image.rootfs) {
        Ok(metadata) if metadata.len() == image.size => Ok(()),
        Ok(metadata) => {
            let why = format!("it has {} bytes instead of {}", metadata.len(), image.size);
            Err(damaged(&image.rootfs, why))
        }
        Err(error) => Err(damaged(&image.rootfs, error.to_string())),
    }
}
