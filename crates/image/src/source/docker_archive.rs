//! What `docker save` writes: a tar file with `manifest.json`, configurations and layers.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::archive::Files;
use super::{Source, SourceError, Top, offered};
use crate::digest::Digest;
use crate::oci::{Descriptor, DocumentError, MAX_DOCUMENT, MAX_LAYER, MAX_LAYERS};
use crate::reference::Name;

/// An image in an archive of docker's.
///
/// The archive has no digests of layers: they are made here, and the configuration's digests of the
/// uncompressed layers are compared when the layers are read.
#[derive(Debug)]
pub struct DockerArchive {
    files: Files,
    /// Names in the archive by the digest of what they hold.
    names: BTreeMap<Digest, String>,
    manifest: Vec<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl DockerArchive {
    /// The image of the name `tag` in the archive at `path`, or its only one.
    ///
    /// # Errors
    ///
    /// The file is no such archive, or has no such image.
    pub fn open(path: &Path, tag: Option<String>) -> Result<Self, SourceError> {
        let files = Files::archive(path)?;
        let form = |why: &str| SourceError::Form { path: path.to_owned(), why: why.to_owned() };
        let Some(list) = files.read("manifest.json", MAX_DOCUMENT)? else {
            return Err(form("there is no file manifest.json in it"));
        };
        let list: Vec<Saved> = serde_json::from_slice(&list)
            .map_err(|error| form(&format!("its file manifest.json cannot be read: {error}")))?;
        let saved = select(path, list, tag)?;
        match saved.layers.len() {
            0 => return Err(DocumentError::NoLayers.into()),
            count if count > MAX_LAYERS => return Err(DocumentError::TooManyLayers(count).into()),
            _ => {}
        }
        let mut archive = Self { files, names: BTreeMap::new(), manifest: Vec::new() };
        archive.manifest = archive.describe(&saved)?;
        Ok(archive)
    }

    /// The manifest that a registry would have for this image.
    fn describe(&mut self, saved: &Saved) -> Result<Vec<u8>, SourceError> {
        let config = self.descriptor(&saved.config, MAX_DOCUMENT, |_| CONFIG)?;
        let layers = saved.layers.iter().map(|name| self.descriptor(name, MAX_LAYER, layer_type));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        Ok(manifest.to_string().into_bytes())
    }

    fn descriptor(
        &mut self,
        name: &str,
        max: u64,
        media_type: impl Fn(&[u8]) -> &'static str,
    ) -> Result<serde_json::Value, SourceError> {
        let (mut reader, size) = self.member(name)?;
        if size > max {
            return Err(DocumentError::TooLarge { what: "file in the archive", size, max }.into());
        }
        let read = SourceError::io("read", self.files.path());
        let mut hasher = Sha256::new();
        let mut start = Vec::new();
        let hashed = reader.by_ref().take(4).read_to_end(&mut start).and_then(|_| {
            hasher.update(&start);
            std::io::copy(&mut reader, &mut hasher)
        });
        hashed.map_err(read)?;
        let digest = Digest::from_bytes(hasher.finalize().into());
        drop(reader);
        self.names.insert(digest, name.to_owned());
        Ok(json!({"mediaType": media_type(&start), "digest": digest, "size": size}))
    }

    fn member(&self, name: &str) -> Result<(Box<dyn Read + '_>, u64), SourceError> {
        let shown: String = name.chars().take(100).flat_map(char::escape_default).collect();
        let missing = || SourceError::Missing { path: self.files.path().to_owned(), name: shown };
        self.files.open(name)?.ok_or_else(missing)
    }
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn layer_type(start: &[u8]) -> &'static str {
    match start {
        [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "application/vnd.oci.image.layer.v1.tar+zstd",
        _ => "application/vnd.oci.image.layer.v1.tar",
    }
}

fn select(path: &Path, list: Vec<Saved>, tag: Option<String>) -> Result<Saved, SourceError> {
    let path = path.to_owned();
    let names = list.iter().flat_map(|saved| saved.repo_tags.iter().flatten());
    let offered = offered(names.map(String::as_str));
    let Some(tag) = tag else {
        let mut list = list.into_iter();
        return match (list.next(), list.next()) {
            (None, _) => Err(SourceError::Form { path, why: "there are no images in it".into() }),
            (Some(only), None) => Ok(only),
            _ => Err(SourceError::ManyTags { path, offered }),
        };
    };
    let wanted = tag.parse::<Name>().ok();
    let is_meant = |name: &String| {
        let name = name.parse::<Name>().ok();
        // A tag alone stands for the one image that has it.
        name.is_some_and(|name| wanted.as_ref() == Some(&name) || name.tag() == Some(&tag))
    };
    let fits = |saved: &Saved| saved.repo_tags.iter().flatten().any(is_meant);
    let found = list.into_iter().find(fits);
    found.ok_or(SourceError::NoTag { path, tag, offered })
}

impl Source for DockerArchive {
    fn top(&self) -> Result<Top, SourceError> {
        Ok(Top { bytes: self.manifest.clone(), media_type: None })
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let path = self.files.path().to_owned();
        Err(SourceError::Missing { path, name: descriptor.digest.to_string() })
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + '_>, SourceError> {
        let name = self.names.get(&descriptor.digest).cloned().unwrap_or_default();
        self.member(&name).map(|(reader, _)| reader)
    }
}
