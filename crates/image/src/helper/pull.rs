//! The whole way of an image into the store: get its blobs, make its file system, note it down.

use std::fs::File;
use std::os::fd::AsFd;

use super::credentials::{self, CredentialsError};
use super::progress::{Mode, Progress};
use super::stage::{self, StageError};
use super::wire::{From as Origin, Reply, Work};
use crate::client::Pulled;
use crate::digest::Digest;
use crate::fetch::Fetched;
use crate::oci::{Configuration, DocumentError, Platform, parse_config};
use crate::reference::{Name, Reference};
use crate::store::{
    Blob, BlobError, Blobs, NewNames, Record, RootfsName, Store, StoreError, Unfinished, digest_of,
};

/// What is pulled, and how.
#[derive(Debug)]
pub struct Pull {
    /// Where from.
    pub reference: Reference,
    /// Names it gets: besides that of a registry, in place of a path.
    pub names: Vec<Name>,
    /// What it is for.
    pub platform: Platform,
    /// Whether the registry may be spoken to without encryption.
    pub plain_http: bool,
    /// What is told meanwhile.
    pub mode: Mode,
}

/// Why an image is not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A blob of the store.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The image's configuration.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A part of the work, done by another process.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// Who we are.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Another process answered something else.
    #[error("the helper of vmm-image answered out of turn")]
    Answer,
}

impl PullError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Store(error) | Self::Blob(BlobError::Store(error)) => error.hint(),
            Self::Stage(StageError::Failed { hint, .. }) => return hint.clone(),
            Self::Stage(StageError::Died { .. }) => {
                Some("nothing of the image was kept; do not trust it")
            }
            _ => None,
        };
        hint.map(str::to_owned)
    }
}

/// Pulls an image. Whenever this process is killed, the store has the whole image or none.
///
/// # Errors
///
/// The image cannot be had, is not what it says, or cannot be stored.
pub fn pull(store: &Store, what: &Pull) -> Result<Pulled, PullError> {
    let _pulling = store.pulling()?;
    let fetched = bring(store, what)?;
    let blobs = Blobs::new(store.paths().clone());
    let config = parse_config(&blobs.read(fetched.config)?)?;
    let counts = (config.diff_ids.len(), fetched.layers.len());
    if counts.0 != counts.1 {
        return Err(DocumentError::LayerCount { config: counts.0, manifest: counts.1 }.into());
    }
    let rootfs = RootfsName::new(chain(&config.diff_ids));
    let (size, new) = convert(store, &rootfs, &fetched, &config, what.mode)?;
    let record = Record {
        version: Record::VERSION,
        id: fetched.config.digest,
        config: config.image,
        rootfs,
        size,
        created: config.created,
        blobs: blobs_of(&fetched),
    };
    let image = store.add(&record, &names(what, &fetched))?;
    Ok(Pulled { id: image.id, digest: fetched.top, names: image.names, size, new })
}

fn bring(store: &Store, what: &Pull) -> Result<Fetched, PullError> {
    let from = match &what.reference {
        Reference::Local(local) => Origin::Local(local.to_string()),
        Reference::Registry(name) => Origin::Registry {
            name: name.to_string(),
            plain_http: what.plain_http,
            credentials: credentials::find(name.registry())?,
        },
    };
    let data = store.paths().data().to_owned();
    let work = Work::Fetch { data, from, platform: what.platform.clone() };
    match stage::run(work, what.mode, &[])? {
        Reply::Fetched(fetched) => Ok(fetched),
        _ => Err(PullError::Answer),
    }
}

/// The file system of these layers: its bytes, and whether it had to be made. Its name stands for the
/// digests of the layers, which the converter compares.
fn convert(
    store: &Store,
    rootfs: &RootfsName,
    fetched: &Fetched,
    config: &Configuration,
    mode: Mode,
) -> Result<(u64, bool), PullError> {
    let target = store.paths().rootfs().join(rootfs.as_str());
    let wait = || {
        let item = Progress::new(mode).task("file system".to_owned());
        item.note("waiting for another process that makes it");
    };
    let Some(mut unfinished) = Unfinished::create(store.paths(), target.clone(), wait)? else {
        let metadata = std::fs::metadata(&target).map_err(StoreError::io("look at", &target))?;
        return Ok((metadata.len(), false));
    };
    let blobs = Blobs::new(store.paths().clone());
    let layers = fetched.layers.iter().map(|layer| {
        let path = blobs.path(layer.digest);
        File::open(&path).map_err(StoreError::io("open", &path))
    });
    let layers = layers.collect::<Result<Vec<_>, _>>()?;
    let output = unfinished.file().try_clone().map_err(StoreError::io("open", &target))?;
    let files: Vec<_> = std::iter::once(&output).chain(&layers).map(AsFd::as_fd).collect();
    let work = Work::Convert { diff_ids: config.diff_ids.clone() };
    let Reply::Converted(size) = stage::run(work, mode, &files)? else {
        return Err(PullError::Answer);
    };
    unfinished.publish()?;
    Ok((size, true))
}

/// The digest of a stack of layers, as the image specification defines ChainID.
fn chain(diff_ids: &[Digest]) -> Digest {
    let mut layers = diff_ids.iter().copied();
    let first = layers.next().unwrap_or_else(|| digest_of(&[]));
    layers.fold(first, |below, layer| digest_of(format!("{below} {layer}").as_bytes()))
}

fn blobs_of(fetched: &Fetched) -> Vec<Blob> {
    let mut blobs: Vec<Blob> = fetched.layers.clone();
    blobs.push(fetched.config);
    blobs.sort_unstable_by_key(|blob| blob.digest);
    blobs.dedup();
    blobs
}

/// The names that the image gets: those asked for; the one it was asked for by, but for a path where there
/// are others; and for one of a registry its digest. None that the image itself claims.
fn names(what: &Pull, fetched: &Fetched) -> NewNames {
    let mut names = NewNames::default();
    if what.names.is_empty() || matches!(what.reference, Reference::Registry(_)) {
        names.add(&what.reference);
    }
    what.names.iter().for_each(|name| names.add(&Reference::Registry(name.clone())));
    if let Reference::Registry(name) = &what.reference {
        names.add(&Reference::Registry(name.with_digest(fetched.top)));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_is_the_one_of_the_specification() {
        let [a, b] = [digest_of(b"a"), digest_of(b"b")];
        assert_eq!(chain(&[a]), a);
        assert_eq!(chain(&[a, b]), digest_of(format!("{a} {b}").as_bytes()));
        assert_ne!(chain(&[a, b]), chain(&[b, a]));
    }
}
