//! Registries: the distribution protocol, spoken to a server that may be hostile.

mod auth;
mod error;
mod http;
mod reach;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::sync::Mutex;
use std::time::Duration;

pub use auth::Credentials;
pub use error::RegistryError;

use self::auth::Challenge;
use self::http::{Http, Response};
use super::{Source, SourceError, Top};
use crate::oci::{Descriptor, DocumentError, MAX_DOCUMENT, MediaKind};
use crate::reference::{DEFAULT_REGISTRY, Name};
use crate::store::digest_of;

/// The host that serves [`DEFAULT_REGISTRY`].
const DEFAULT_HOST: &str = "registry-1.docker.io";
/// Blobs that are asked for at once.
const WORKERS: usize = 3;

/// How a registry is spoken to.
#[derive(Debug, Default)]
pub struct Options {
    /// Without encryption, also to another host than this one.
    pub plain_http: bool,
    /// Who we are.
    pub credentials: Option<Credentials>,
    /// How long a server may take for something that does not arrive, instead of half a minute.
    pub patience: Option<Duration>,
}

/// An image in a registry.
#[derive(Debug)]
pub struct Client {
    name: Name,
    http: Http,
    credentials: Option<Credentials>,
    /// What goes into `Authorization`, once the registry has said what it wants.
    authorization: Mutex<Option<String>>,
}

impl Client {
    /// A client for the image `name`. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// The certificates that this system trusts cannot be read.
    pub fn new(name: Name, options: Options) -> Result<Self, RegistryError> {
        let host = match name.registry() {
            DEFAULT_REGISTRY => DEFAULT_HOST,
            host => host,
        };
        let patience = options.patience.unwrap_or(Duration::from_secs(30));
        let http = Http::new(host, options.plain_http, patience)?;
        Ok(Self::with(http, name, options.credentials))
    }

    fn with(http: Http, name: Name, credentials: Option<Credentials>) -> Self {
        Self { name, http, credentials, authorization: Mutex::new(None) }
    }

    /// Finds out whether a registry of this host speaks TLS, which those of other hosts have to.
    #[must_use]
    pub fn settled(mut self) -> Self {
        self.http.settle();
        self
    }

    fn get(&self, path: &str, accept: &str) -> Result<Response, RegistryError> {
        let url = format!("{}/v2/{}{path}", self.http.base(), self.name.repository());
        let authorization = self.authorization.lock().map(|a| a.clone()).unwrap_or_default();
        let response = self.http.get(&url, accept, authorization.as_deref())?;
        if response.status != 401 {
            return response.checked(&self.name);
        }
        let challenge = Challenge::read(&response.challenges)
            .ok_or(RegistryError::Challenge("it wants no kind of login that is known"))?;
        let known = self.credentials.as_ref();
        let value = auth::answer(&self.http, &challenge, &self.name, known)?;
        if let Ok(mut authorization) = self.authorization.lock() {
            *authorization = Some(value.clone());
        }
        self.http.get(&url, accept, Some(&value))?.checked(&self.name)
    }

    fn document_at(&self, path: &str) -> Result<(Vec<u8>, Option<String>), SourceError> {
        let response = self.get(path, MediaKind::ACCEPTED)?;
        let mut bytes = Vec::new();
        let limit = MAX_DOCUMENT.saturating_add(1);
        let read = response.body.take(limit).read_to_end(&mut bytes);
        read.map_err(RegistryError::Body)?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if size > MAX_DOCUMENT {
            let what = "manifest";
            return Err(DocumentError::TooLarge { what, size, max: MAX_DOCUMENT }.into());
        }
        Ok((bytes, response.content_type))
    }
}

impl Source for Client {
    fn top(&self) -> Result<Top, SourceError> {
        let path = match self.name.digest() {
            Some(digest) => format!("/manifests/{digest}"),
            None => format!("/manifests/{}", self.name.tag().unwrap_or_default()),
        };
        let (bytes, media_type) = self.document_at(&path)?;
        let found = digest_of(&bytes);
        match self.name.digest().filter(|expected| *expected != found) {
            Some(expected) => {
                Err(DocumentError::Digest { what: "manifest", expected, found }.into())
            }
            None => Ok(Top { bytes, media_type }),
        }
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let path = format!("/manifests/{}", descriptor.digest);
        let (bytes, media_type) = self.document_at(&path)?;
        // The index says what it is; whoever hands it out must not say another thing.
        let kinds = media_type.as_deref().map(MediaKind::of);
        if kinds.is_some_and(|kind| kind != MediaKind::of(&descriptor.media_type)) {
            let declared = media_type.unwrap_or_default().escape_default().take(80).collect();
            let is = format!("`{}` in the index", descriptor.media_type.escape_default());
            return Err(DocumentError::MediaType { declared, is }.into());
        }
        Ok(bytes)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + '_>, SourceError> {
        Ok(self.get(&format!("/blobs/{}", descriptor.digest), "*/*")?.body)
    }

    fn workers(&self) -> usize {
        WORKERS
    }
}

/// Reads what a fuzzer has made into the wish for a login.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_challenge(value: &str) {
    // What is read is of no use here; reading it must end, and without a panic.
    let _: Option<Challenge> = Challenge::read(&[value.to_owned()]);
}
