//! Getting an image from a source into the store: the way from its top document to its blobs, every
//! one of which is compared with its digest.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::helper::progress::Progress;
use crate::oci::{
    Configuration, Descriptor, Document, DocumentError, Index, MAX_DOCUMENT, Manifest, MediaKind,
    Platform, parse_config, parse_document,
};
use crate::source::{Source, SourceError};
use crate::store::{Blob, BlobError, Blobs, digest_of};

/// Documents on the way to an image, at most: an index, one inside it, and so on.
const MAX_DOCUMENTS: usize = 5;

/// An image whose blobs are in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// The digest of the document that the reference led to.
    pub top: Digest,
    /// The digest of the image's manifest.
    pub manifest: Digest,
    /// The configuration.
    pub config: Blob,
    /// The layers, the lowest first.
    pub layers: Vec<Blob>,
}

/// Why an image is not got.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The source does not hand it out.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A document cannot be used.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A blob is not what it should be, or cannot be stored.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl FetchError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Source(error) => error.hint(),
            Self::Document(DocumentError::WrongPlatform { .. }) => {
                Some("--platform chooses another one, which runs on a machine of that kind only")
            }
            Self::Blob(BlobError::Store(error)) => error.hint(),
            Self::Blob(BlobError::Digest { .. }) => {
                Some("try again; if it stays, the source is broken")
            }
            Self::Document(_) | Self::Blob(_) => None,
        }
    }
}

/// Gets the image for `wanted` from `source`.
///
/// # Errors
///
/// The source fails, or what it hands out is not what it says.
pub fn fetch(
    source: &dyn Source,
    blobs: &Blobs,
    wanted: &Platform,
    progress: &Progress,
) -> Result<Fetched, FetchError> {
    let (top, manifest_digest, manifest) = resolve(source, wanted)?;
    let config = blob_of(&manifest.config);
    put(source, blobs, &manifest.config, "configuration", progress)?;
    check_config(&parse_config(&blobs.read(config)?)?, &manifest, wanted)?;
    put_layers(source, blobs, &manifest, progress)?;
    let layers = manifest.layers.iter().map(blob_of).collect();
    Ok(Fetched { top, manifest: manifest_digest, config, layers })
}

/// What the configuration and the manifest must agree about.
fn check_config(
    config: &Configuration,
    manifest: &Manifest,
    wanted: &Platform,
) -> Result<(), DocumentError> {
    let counts = (config.diff_ids.len(), manifest.layers.len());
    if counts.0 != counts.1 {
        return Err(DocumentError::LayerCount { config: counts.0, manifest: counts.1 });
    }
    if !config.platform.suits(wanted) {
        let offered = shown(&config.platform);
        return Err(DocumentError::WrongPlatform { wanted: wanted.clone(), offered });
    }
    Ok(())
}

fn blob_of(descriptor: &Descriptor) -> Blob {
    Blob { digest: descriptor.digest, size: descriptor.size }
}

/// Follows indexes to the manifest for `wanted`. Returns the digest of the first document, the one of the
/// manifest, and the manifest.
fn resolve(
    source: &dyn Source,
    wanted: &Platform,
) -> Result<(Digest, Digest, Manifest), FetchError> {
    let top = source.top()?;
    check_length("manifest", &top.bytes)?;
    let first = digest_of(&top.bytes);
    let mut last = first;
    let mut document = parse_document(&top.bytes, top.media_type.as_deref())?;
    for _ in 0..MAX_DOCUMENTS {
        let next = match document {
            Document::Manifest(manifest) => return Ok((first, last, manifest)),
            Document::Index(index) => choose(&index, wanted)?,
        };
        if next.size > MAX_DOCUMENT {
            let (what, size, max) = ("manifest", next.size, MAX_DOCUMENT);
            return Err(DocumentError::TooLarge { what, size, max }.into());
        }
        let bytes = source.document(&next)?;
        let found = digest_of(&bytes);
        if found != next.digest || u64::try_from(bytes.len()) != Ok(next.size) {
            let (what, expected) = ("manifest", next.digest);
            return Err(DocumentError::Digest { what, expected, found }.into());
        }
        last = next.digest;
        document = parse_document(&bytes, Some(&next.media_type))?;
    }
    Err(DocumentError::TooDeep(MAX_DOCUMENTS).into())
}

fn check_length(what: &'static str, bytes: &[u8]) -> Result<(), DocumentError> {
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if size > MAX_DOCUMENT {
        return Err(DocumentError::TooLarge { what, size, max: MAX_DOCUMENT });
    }
    Ok(())
}

/// The entry of an index for `wanted`: one that says so, else one that says nothing.
fn choose(index: &Index, wanted: &Platform) -> Result<Descriptor, DocumentError> {
    let usable = |entry: &&Descriptor| {
        matches!(MediaKind::of(&entry.media_type), MediaKind::Index | MediaKind::Manifest)
    };
    let entries = || index.manifests.iter().filter(usable);
    let exact = |entry: &&Descriptor| entry.platform.as_ref() == Some(wanted);
    let suits = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|p| p.suits(wanted));
    let silent = |entry: &&Descriptor| entry.platform.is_none();
    let found = entries().find(exact).or_else(|| entries().find(suits));
    found.or_else(|| entries().find(silent)).cloned().ok_or_else(|| {
        let offered: BTreeSet<String> =
            entries().filter_map(|entry| entry.platform.as_ref()).map(shown).collect();
        let offered: Vec<String> = offered.into_iter().take(12).collect();
        let offered =
            if offered.is_empty() { "nothing at all".to_owned() } else { offered.join(", ") };
        DocumentError::WrongPlatform { wanted: wanted.clone(), offered }
    })
}

fn shown(platform: &Platform) -> String {
    platform.to_string().chars().take(60).flat_map(char::escape_default).collect()
}

fn put(
    source: &dyn Source,
    blobs: &Blobs,
    descriptor: &Descriptor,
    what: &str,
    progress: &Progress,
) -> Result<(), FetchError> {
    let blob = blob_of(descriptor);
    if blobs.has(blob) {
        return Ok(());
    }
    let item = progress.item(format!("{what} {}", blob.digest.short()), blob.size);
    let from = || source.blob(descriptor).map_err(FetchError::from);
    let wait = || item.note("waiting for another process that gets it");
    let new = blobs.put(blob, from, wait, |bytes| item.add(bytes))?;
    item.done(if new { "done" } else { "already here" });
    Ok(())
}

fn put_layers(
    source: &dyn Source,
    blobs: &Blobs,
    manifest: &Manifest,
    progress: &Progress,
) -> Result<(), FetchError> {
    let mut seen = BTreeSet::new();
    let layers: Vec<_> = manifest.layers.iter().filter(|layer| seen.insert(layer.digest)).collect();
    let queue = Mutex::new(layers.into_iter());
    let failed = AtomicBool::new(false);
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    let work = || {
        while let Some(layer) = next().filter(|_| !failed.load(Ordering::Relaxed)) {
            put(source, blobs, layer, "layer", progress)
                .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..source.workers()).map(|_| scope.spawn(work)).collect();
        let own = work();
        let results = others.into_iter().filter_map(|other| other.join().ok());
        results.fold(own, Result::and)
    })
}
