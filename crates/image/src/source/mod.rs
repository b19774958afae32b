//! Where images come from. A source hands out bytes; whoever asked compares them with digests.

mod archive;
mod docker_archive;
mod layout;
pub mod registry;
mod tar_index;

use std::io::{self, Read};
use std::path::PathBuf;

pub use docker_archive::DockerArchive;
pub use layout::Layout;

use crate::oci::{Descriptor, DocumentError};
use crate::reference::{Local, LocalKind};

/// The document at the top of an image.
#[derive(Debug, Clone)]
pub struct Top {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What it is handed out as.
    pub media_type: Option<String>,
}

/// A place that images come from.
pub trait Source: Sync {
    /// The document that the reference leads to.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be read.
    fn top(&self) -> Result<Top, SourceError>;

    /// The bytes of an index or a manifest, at most as many as the descriptor says and one more.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be read.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError>;

    /// The bytes of a configuration or a layer.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be opened.
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + '_>, SourceError>;

    /// How many blobs may be asked for at once.
    fn workers(&self) -> usize {
        1
    }
}

/// Why a source does not hand something out.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The system refused.
    #[error("{what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory or the archive is no image.
    #[error("{path} is no image of this kind: {why}", path = path.display())]
    Form {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The archive is compressed as a whole.
    #[error("{path} is compressed as a whole", path = .0.display())]
    Compressed(PathBuf),
    /// There is no image of this tag.
    #[error("{path} has no image `{tag}`; it has: {offered}", path = path.display())]
    NoTag {
        /// The file or directory.
        path: PathBuf,
        /// What was asked for.
        tag: String,
        /// What there is.
        offered: String,
    },
    /// There are several images and none was named.
    #[error("{path} has several images: {offered}", path = path.display())]
    ManyTags {
        /// The file or directory.
        path: PathBuf,
        /// What there is.
        offered: String,
    },
    /// Something the image consists of is missing.
    #[error("{path} lacks `{name}`, which the image consists of", path = path.display())]
    Missing {
        /// The file or directory.
        path: PathBuf,
        /// What is missing.
        name: String,
    },
    /// The registry does not hand it out.
    #[error(transparent)]
    Registry(#[from] registry::RegistryError),
    /// A document of the image cannot be used.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

impl SourceError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Compressed(_) => "unpack it first: gunzip, or zstd -d",
            Self::NoTag { .. } | Self::ManyTags { .. } => "add one of them after a colon",
            Self::Form { .. } => {
                "oci:DIR is an OCI layout, oci-archive:FILE one in a tar file, \
                 docker-archive:FILE what `docker save` writes"
            }
            Self::Registry(error) => return error.hint(),
            _ => return None,
        })
    }

    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

/// Opens the file or directory that `local` names.
///
/// # Errors
///
/// It cannot be opened, or is no image of that kind.
pub fn open(local: &Local) -> Result<Box<dyn Source>, SourceError> {
    let tag = local.tag.clone();
    Ok(match local.kind {
        LocalKind::OciLayout => Box::new(Layout::directory(&local.path, tag)?),
        LocalKind::OciArchive => Box::new(Layout::archive(&local.path, tag)?),
        LocalKind::DockerArchive => Box::new(DockerArchive::open(&local.path, tag)?),
    })
}

/// Names as a list for people, of bounded length.
fn offered<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let shown: Vec<String> = names
        .take(8)
        .map(|name| name.chars().take(80).flat_map(char::escape_default).collect())
        .collect();
    if shown.is_empty() { "none with a name".to_owned() } else { shown.join(", ") }
}

/// Looks for some files in an archive that a fuzzer has made.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_archive(file: &std::fs::File, path: &std::path::Path) {
    if let Ok(index) = tar_index::TarIndex::read(file, path) {
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        for name in ["manifest.json", "a/b", "l", "../l", ""] {
            let found = index.find(name);
            assert!(found.is_none_or(|(at, size)| at + size <= length), "{name}: {found:?}");
        }
    }
}
