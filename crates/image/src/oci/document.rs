//! Index and manifest.

use serde::Deserialize;
use std::collections::BTreeMap;

use super::{DocumentError, MAX_DOCUMENT, MAX_LAYER, MAX_LAYERS, MediaKind, Platform};
use crate::digest::Digest;

/// What a document says about a blob that belongs to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What it was built for, in an index.
    pub platform: Option<Platform>,
    /// Notes, in an index the tag.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// The tag that an index of a layout gives this entry.
    pub fn tag(&self) -> Option<&str> {
        let annotations = self.annotations.as_ref()?;
        annotations.get("org.opencontainers.image.ref.name").map(String::as_str)
    }
}

/// A list of documents, of which one is wanted.
#[derive(Debug, Clone)]
pub struct Index {
    /// The entries.
    pub manifests: Vec<Descriptor>,
}

/// One image.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// What stands at the top of an image.
#[derive(Debug, Clone)]
pub enum Document {
    /// A list of documents.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// Both kinds of document at once, so that one with signs of both is seen.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Either {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
    artifact_type: Option<String>,
}

/// Reads the bytes of an index or a manifest, handed out as `declared`.
///
/// # Errors
///
/// The bytes are not such a document, are ambiguous, or are not what was declared.
pub fn parse_document(bytes: &[u8], declared: Option<&str>) -> Result<Document, DocumentError> {
    let declared_kind = declared.map(MediaKind::of);
    if declared_kind == Some(MediaKind::FirstSchema) {
        return Err(DocumentError::FirstSchema);
    }
    let either: Either = serde_json::from_slice(bytes)
        .map_err(|source| DocumentError::Json { what: "manifest", source })?;
    if either.fs_layers.is_some() || either.schema_version == 1 {
        return Err(DocumentError::FirstSchema);
    }
    let own = either.media_type.clone();
    let document = sort_out(either)?;
    let (is, kind) = match document {
        Document::Index(_) => ("an index", MediaKind::Index),
        Document::Manifest(_) => ("a manifest", MediaKind::Manifest),
    };
    for (said, said_kind) in
        [(declared, declared_kind), (own.as_deref(), own.as_deref().map(MediaKind::of))]
    {
        if said_kind.is_some_and(|said| said != kind) {
            let declared = super::shown(said.unwrap_or_default());
            return Err(DocumentError::MediaType { declared, is: is.to_owned() });
        }
    }
    match own.filter(|own| declared.is_some_and(|d| bare(d) != bare(own))) {
        Some(own) => Err(DocumentError::MediaType {
            declared: super::shown(declared.unwrap_or_default()),
            is: format!("`{}` by its own word", super::shown(&own)),
        }),
        None => Ok(document),
    }
}

fn bare(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

fn sort_out(either: Either) -> Result<Document, DocumentError> {
    if either.schema_version != 2 {
        return Err(DocumentError::Unknown);
    }
    match (either.manifests, either.config, either.layers) {
        (Some(_), Some(_), _) => Err(DocumentError::Ambiguous("manifests", "config")),
        (Some(_), _, Some(_)) => Err(DocumentError::Ambiguous("manifests", "layers")),
        (Some(manifests), None, None) => Ok(Document::Index(Index { manifests })),
        (None, Some(config), Some(layers)) => {
            // Signatures and the like are manifests too, of another sort.
            match either.artifact_type {
                Some(kind) if MediaKind::of(&kind) != MediaKind::Config => {
                    Err(DocumentError::LayerType(super::shown(&kind)))
                }
                _ => manifest(config, layers).map(Document::Manifest),
            }
        }
        _ => Err(DocumentError::Unknown),
    }
}

fn manifest(config: Descriptor, layers: Vec<Descriptor>) -> Result<Manifest, DocumentError> {
    if MediaKind::of(&config.media_type) != MediaKind::Config {
        let declared = super::shown(&config.media_type);
        return Err(DocumentError::MediaType { declared, is: "an image's configuration".into() });
    }
    check_size("configuration", config.size, MAX_DOCUMENT)?;
    match layers.len() {
        0 => return Err(DocumentError::NoLayers),
        count if count > MAX_LAYERS => return Err(DocumentError::TooManyLayers(count)),
        _ => {}
    }
    let layers = layers.into_iter().map(|layer| {
        check_size("layer", layer.size, MAX_LAYER)?;
        match MediaKind::of(&layer.media_type) {
            MediaKind::Layer => Ok(layer),
            _ => Err(DocumentError::LayerType(super::shown(&layer.media_type))),
        }
    });
    Ok(Manifest { config, layers: layers.collect::<Result<_, _>>()? })
}

pub(super) fn check_size(what: &'static str, size: u64, max: u64) -> Result<(), DocumentError> {
    if size > max { Err(DocumentError::TooLarge { what, size, max }) } else { Ok(()) }
}
