//! What the store knows about images, as it is written down.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::ImageConfig;
use crate::digest::Digest;

/// An image that can be run.
#[derive(Debug, Clone)]
pub struct ImageRecord {
    /// The digest of the image's configuration.
    pub id: Digest,
    /// Its names, in full.
    pub names: Vec<String>,
    /// Its names by the digest of a manifest, in full.
    pub digests: Vec<String>,
    /// What it says about its process.
    pub config: ImageConfig,
    /// The file system image (EROFS).
    pub rootfs: PathBuf,
    /// Bytes of that file.
    pub size: u64,
    /// When the image was made, in seconds since 1970, if it says so.
    pub created: Option<u64>,
    /// The blobs it was made from.
    pub blobs: Vec<Blob>,
}

/// A blob of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}

/// `records/ID.json`: all that does not change about an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The form of this file: [`Record::VERSION`].
    pub version: u32,
    /// See [`ImageRecord::id`].
    pub id: Digest,
    /// See [`ImageRecord::config`].
    pub config: ImageConfig,
    /// The name of the file in the directory of file systems.
    pub rootfs: RootfsName,
    /// See [`ImageRecord::size`].
    pub size: u64,
    /// See [`ImageRecord::created`].
    pub created: Option<u64>,
    /// See [`ImageRecord::blobs`].
    pub blobs: Vec<Blob>,
}

impl Record {
    /// The form that is written.
    pub const VERSION: u32 = 1;
}

/// The name of a file system image: the digest of the chain of layers, and the form of the converter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RootfsName(String);

/// Changes when the converter makes other files of the same layers.
const FORM: &str = "v1";

impl RootfsName {
    /// The name for this chain of layers.
    pub fn new(chain: Digest) -> Self {
        Self(format!("{FORM}-{}.erofs", chain.hex()))
    }

    /// The name of the file.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RootfsName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let stem = text.strip_suffix(".erofs").and_then(|stem| stem.split_once('-'));
        match stem {
            Some((form, hex))
                if form.starts_with('v')
                    && form.bytes().all(|c| c.is_ascii_alphanumeric())
                    && Digest::from_hex(hex).is_some() =>
            {
                Ok(Self(text))
            }
            _ => Err("no name of a file system image"),
        }
    }
}

impl From<RootfsName> for String {
    fn from(name: RootfsName) -> Self {
        name.0
    }
}

/// `names.json`: which image each name means.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Names {
    /// The form of this file.
    pub(crate) version: u32,
    /// Names in full, with a tag, and sources such as `oci:/dir:tag`.
    pub(crate) names: BTreeMap<String, Digest>,
    /// Names in full with the digest of a manifest.
    pub(crate) digests: BTreeMap<String, Digest>,
}

impl Names {
    pub(crate) const VERSION: u32 = 1;

    pub(crate) fn of(map: &BTreeMap<String, Digest>, id: Digest) -> Vec<String> {
        map.iter().filter(|(_, target)| **target == id).map(|(name, _)| name.clone()).collect()
    }
}
