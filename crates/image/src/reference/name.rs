//! Names of images in registries, in docker's grammar and with docker's defaults.

use std::fmt;
use std::str::FromStr;

use super::{DigestText, ReferenceError, shown};
use crate::digest::Digest;

/// The registry of a name that has none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The name of [`DEFAULT_REGISTRY`] that older tools write.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Where [`DEFAULT_REGISTRY`] keeps the images whose name has one part.
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// Characters of registry and repository together, at most.
pub(super) const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// The name of an image in a registry, with nothing left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Name {
    /// The host of the registry, with its port if it has one: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path inside the registry: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, which is `latest` where neither tag nor digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index that is meant; it goes before the tag.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository by the digest of one of its manifests.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// As people write it: without the registry and the `library/` that are the default, where that
    /// is understood the same.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let rest = full.strip_prefix(DEFAULT_REGISTRY).and_then(|rest| rest.strip_prefix('/'));
        let official = rest.and_then(|rest| rest.strip_prefix(OFFICIAL));
        let same = |text: &&str| text.parse().is_ok_and(|name: Self| name == *self);
        let shortest = official.into_iter().chain(rest).find(same).map(str::to_owned);
        shortest.unwrap_or(full)
    }

    /// [`Name::familiar`] without tag and digest.
    pub fn familiar_repository(&self) -> String {
        let tagged = Self { tag: Some(DEFAULT_TAG.to_owned()), digest: None, ..self.clone() };
        let familiar = tagged.familiar();
        familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Name {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if Digest::from_hex(text).is_some() {
            return Err(ReferenceError::Id);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        let (registry, rest) = split_registry(rest);
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        check(registry, repository, tag)?;
        let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        let repository = format!("{}{repository}", if official { OFFICIAL } else { "" });
        if registry.len() + repository.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    text.parse().map_err(|_| {
        let text = shown(text);
        DigestText(format!("`{text}` is no digest: sha256: and 64 lower-case hexadecimal digits"))
            .into()
    })
}

/// Docker's rule: what stands before the first `/` is a registry if it looks like a host, that is
/// has a `.`, a `:` or an upper-case letter, or is `localhost`.
fn split_registry(text: &str) -> (&str, &str) {
    let Some((first, rest)) = text.split_once('/') else { return (DEFAULT_REGISTRY, text) };
    let is_host = first.contains(['.', ':'])
        || first == "localhost"
        || first.chars().any(|c| c.is_ascii_uppercase());
    match first {
        LEGACY_REGISTRY => (DEFAULT_REGISTRY, rest),
        _ if is_host => (first, rest),
        _ => (DEFAULT_REGISTRY, text),
    }
}

fn check(registry: &str, repository: &str, tag: Option<&str>) -> Result<(), ReferenceError> {
    if !is_host(registry) {
        return Err(ReferenceError::Registry(shown(registry)));
    }
    if !repository.split('/').all(is_component) {
        return Err(ReferenceError::Repository(shown(repository)));
    }
    match tag.filter(|tag| !is_tag(tag)) {
        Some(tag) => Err(ReferenceError::Tag(shown(tag))),
        None => Ok(()),
    }
}

/// `host`, `host:port` or `[IPv6]:port`.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let is_address = address.parse::<std::net::Ipv6Addr>().is_ok();
            let port = rest.strip_prefix(':');
            return is_address && (rest.is_empty() || port.is_some_and(is_port));
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        let edges = [label.bytes().next(), label.bytes().last()];
        label.bytes().all(inner) && edges.iter().flatten().all(|c| *c != b'-') && !label.is_empty()
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(is_word) || !text.ends_with(is_word) {
        return false;
    }
    let separators = text.split(is_word).filter(|separator| !separator.is_empty());
    separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|c| c == b'-'))
}

pub(super) fn is_tag(text: &str) -> bool {
    let is_word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|c| is_word(c) || matches!(c, b'.' | b'-'))
        && text.len() <= MAX_TAG
}
