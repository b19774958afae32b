//! OCI image layouts, in a directory or in a tar file.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::archive::Files;
use super::{Source, SourceError, Top, offered};
use crate::digest::Digest;
use crate::oci::{Descriptor, Document, DocumentError, Index, MAX_DOCUMENT, parse_document};
use crate::reference::Name;

/// The version of layouts there is.
const VERSION: &str = "1.0.0";
/// The tag that is meant where several are there and none was named.
const DEFAULT_TAG: &str = "latest";

/// An image in an OCI layout.
#[derive(Debug)]
pub struct Layout {
    files: Files,
    chosen: Descriptor,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

impl Layout {
    /// The image `tag` of the layout in a directory.
    ///
    /// # Errors
    ///
    /// The directory is no layout, or has no such image.
    pub fn directory(path: &Path, tag: Option<String>) -> Result<Self, SourceError> {
        Self::choose(Files::directory(path)?, tag)
    }

    /// The image `tag` of the layout in a tar file.
    ///
    /// # Errors
    ///
    /// The file is no such archive, or has no such image.
    pub fn archive(path: &Path, tag: Option<String>) -> Result<Self, SourceError> {
        Self::choose(Files::archive(path)?, tag)
    }

    fn choose(files: Files, tag: Option<String>) -> Result<Self, SourceError> {
        let form = |why: String| SourceError::Form { path: files.path().to_owned(), why };
        let Some(marker) = files.read("oci-layout", MAX_DOCUMENT)? else {
            return Err(form("there is no file oci-layout in it".to_owned()));
        };
        let marker: Marker = serde_json::from_slice(&marker)
            .map_err(|error| form(format!("its file oci-layout cannot be read: {error}")))?;
        if marker.image_layout_version != VERSION {
            return Err(form("its form is newer than 1.0.0".to_owned()));
        }
        let Some(index) = files.read("index.json", MAX_DOCUMENT)? else {
            return Err(form("there is no file index.json in it".to_owned()));
        };
        let Document::Index(index) = parse_document(&index, None)? else {
            return Err(form("its file index.json is no index".to_owned()));
        };
        let chosen = select(&files, index, tag)?;
        Ok(Self { files, chosen })
    }

    fn open(&self, digest: Digest) -> Result<(Box<dyn Read + '_>, u64), SourceError> {
        let name = format!("blobs/sha256/{}", digest.hex());
        let missing =
            || SourceError::Missing { path: self.files.path().to_owned(), name: name.clone() };
        self.files.open(&name)?.ok_or_else(missing)
    }
}

fn select(files: &Files, index: Index, tag: Option<String>) -> Result<Descriptor, SourceError> {
    let path = files.path().to_owned();
    let entries = index.manifests;
    let tags = || offered(entries.iter().filter_map(Descriptor::tag));
    let with =
        |wanted: &str| entries.iter().find(|entry| entry.tag().is_some_and(|t| same(t, wanted)));
    match (tag, entries.as_slice()) {
        (_, []) => Err(SourceError::Form { path, why: "there are no images in it".to_owned() }),
        (Some(tag), _) => match with(&tag) {
            Some(entry) => Ok(entry.clone()),
            None => Err(SourceError::NoTag { path, offered: tags(), tag }),
        },
        (None, [only]) => Ok(only.clone()),
        (None, _) => match with(DEFAULT_TAG) {
            Some(entry) => Ok(entry.clone()),
            None => Err(SourceError::ManyTags { path, offered: tags() }),
        },
    }
}

/// Tools write `1.0` or `docker.io/library/app:1.0` for the same tag.
fn same(written: &str, wanted: &str) -> bool {
    let names = [written, wanted]
        .map(|text| text.parse::<Name>().ok().filter(|_| text.contains([':', '/'])));
    match names {
        [Some(written), Some(wanted)] => written == wanted,
        [Some(written), None] => written.tag() == Some(wanted),
        _ => written == wanted,
    }
}

impl Source for Layout {
    fn top(&self) -> Result<Top, SourceError> {
        let bytes = self.document(&self.chosen)?;
        let found = crate::store::digest_of(&bytes);
        if found != self.chosen.digest {
            let expected = self.chosen.digest;
            return Err(DocumentError::Digest { what: "manifest", expected, found }.into());
        }
        Ok(Top { bytes, media_type: Some(self.chosen.media_type.clone()) })
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let (reader, _) = self.open(descriptor.digest)?;
        let mut bytes = Vec::new();
        let limit = descriptor.size.min(MAX_DOCUMENT).saturating_add(1);
        let read = reader.take(limit).read_to_end(&mut bytes);
        read.map_err(SourceError::io("read", self.files.path()))?;
        Ok(bytes)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + '_>, SourceError> {
        self.open(descriptor.digest).map(|(reader, _)| reader)
    }
}
