//! The documents of an image: index, manifest, configuration, as strangers write them.
//!
//! A document is read only after its digest was compared, and refused when it could be read in two
//! ways.

mod config;
mod document;
mod media;
#[cfg(test)]
mod tests;
mod time;

pub use crate::platform::{Platform, PlatformError};
pub use config::{Configuration, parse_config};
pub use document::{Descriptor, Document, Index, Manifest, parse_document};
pub use media::MediaKind;

use crate::digest::Digest;

/// Bytes of an index, a manifest or a configuration, at most.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Layers of an image, at most: as many as docker's overlay can stack.
pub const MAX_LAYERS: usize = 127;
/// Bytes of one layer as it is stored, at most.
pub const MAX_LAYER: u64 = 64 << 30;

/// Why a document of an image is not used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is no JSON, or lacks something.
    #[error("the {what} is not as the specification wants it: {source}")]
    Json {
        /// Which document.
        what: &'static str,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// It could be read as two kinds of document.
    #[error("the document is ambiguous: it has both `{0}` and `{1}`")]
    Ambiguous(&'static str, &'static str),
    /// It is neither an index nor a manifest.
    #[error("the document is neither an index nor a manifest of an image")]
    Unknown,
    /// It is of a kind that is no more.
    #[error("the image has a manifest of docker's first schema, which carries no digests to check")]
    FirstSchema,
    /// It says one thing, and whoever handed it out another.
    #[error("the document is handed out as `{declared}` but is {is}")]
    MediaType {
        /// What was said about it.
        declared: String,
        /// What it is or says of itself.
        is: String,
    },
    /// It is not about a container's file system.
    #[error("`{0}` is no layer of a container's file system that this program reads")]
    LayerType(String),
    /// A descriptor hands out too much.
    #[error("the {what} has {size} bytes, more than the {max} that are taken")]
    TooLarge {
        /// Which blob.
        what: &'static str,
        /// Bytes by its descriptor.
        size: u64,
        /// Bytes at most.
        max: u64,
    },
    /// There is nothing to make a file system of.
    #[error("the image has no layers")]
    NoLayers,
    /// Too many layers.
    #[error("the image has {0} layers, more than the {MAX_LAYERS} that are taken")]
    TooManyLayers(usize),
    /// Configuration and manifest disagree.
    #[error("the image's configuration lists {config} layers and its manifest {manifest}")]
    LayerCount {
        /// Entries of `rootfs.diff_ids`.
        config: usize,
        /// Entries of `layers`.
        manifest: usize,
    },
    /// A text that no process can be given.
    #[error("the image's configuration has a `{0}` with a NUL byte or without a name")]
    Text(&'static str),
    /// Indexes inside indexes.
    #[error("the index of the image leads through more than {0} documents")]
    TooDeep(usize),
    /// The image is not for this platform.
    #[error("the image is not for {wanted} but for {offered}")]
    WrongPlatform {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        offered: String,
    },
    /// The bytes are others than the digest says.
    #[error("the {what} is not what its digest says: {expected} was asked for, {found} came")]
    Digest {
        /// Which blob.
        what: &'static str,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
}

/// A piece of hostile text that fits a line.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}
