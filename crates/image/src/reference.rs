//! What a user calls an image: a name in a registry, or a file or directory with an image in it.

mod name;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub use name::{DEFAULT_REGISTRY, Name};

/// An image as a user calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A name that a registry and the store know.
    Registry(Name),
    /// A file or directory of this host.
    Local(Local),
}

/// An image in a file or directory of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The form it has.
    pub kind: LocalKind,
    /// Where it is.
    pub path: PathBuf,
    /// Which of several images: a tag, or in a `docker-archive` a name with its tag.
    pub tag: Option<String>,
}

/// The forms of an image in a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalKind {
    /// `oci:DIR[:TAG]`, an OCI image layout.
    OciLayout,
    /// `oci-archive:FILE[:TAG]`, an OCI image layout in a tar file.
    OciArchive,
    /// `docker-archive:FILE[:TAG]`, what `docker save` writes.
    DockerArchive,
}

impl LocalKind {
    const ALL: [Self; 3] = [Self::OciLayout, Self::OciArchive, Self::DockerArchive];

    /// What such a reference begins with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::OciLayout => "oci:",
            Self::OciArchive => "oci-archive:",
            Self::DockerArchive => "docker-archive:",
        }
    }
}

/// Why a text is no reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// There is nothing.
    #[error("the name of an image is empty")]
    Empty,
    /// A name that is longer than any registry takes.
    #[error("the name of an image is longer than {max} characters", max = name::MAX_NAME)]
    TooLong,
    /// The part before the first `/` names a registry, but not a host.
    #[error("`{0}` is no host of a registry")]
    Registry(String),
    /// A part of the repository is not lower-case letters and digits, separated by `.`, `_`, `-`.
    #[error(
        "`{0}` is no name of an image: lower-case letters and digits, with single `.`, `_`, `__` or `-` between them"
    )]
    Repository(String),
    /// The tag is not letters, digits, `_`, `.` and `-`.
    #[error(
        "`{0}` is no tag: up to 128 letters, digits, `_`, `.` and `-`, not beginning with `.` or `-`"
    )]
    Tag(String),
    /// What follows `@` is no digest.
    #[error(transparent)]
    Digest(#[from] DigestText),
    /// A whole digest, which is an image's ID and not its name.
    #[error("64 hexadecimal digits are the ID of an image and cannot be its name")]
    Id,
    /// `oci:` and nothing, or a path that no file can have.
    #[error("`{0}` needs the path of a file or directory after it")]
    Path(&'static str),
}

/// What is wrong with a digest, as a text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct DigestText(String);

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        for kind in LocalKind::ALL {
            if let Some(rest) = text.strip_prefix(kind.prefix()) {
                return local(kind, rest).map(Self::Local);
            }
        }
        text.strip_prefix("docker://").unwrap_or(text).parse().map(Self::Registry)
    }
}

fn local(kind: LocalKind, rest: &str) -> Result<Local, ReferenceError> {
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    if path.is_empty() || path.contains('\0') {
        return Err(ReferenceError::Path(kind.prefix()));
    }
    let tag = tag.map(|tag| checked_tag(kind, tag)).transpose()?;
    Ok(Local { kind, path: path.into(), tag })
}

/// The name of an image inside a file: a tag, or a name in full.
fn checked_tag(kind: LocalKind, tag: &str) -> Result<String, ReferenceError> {
    if kind == LocalKind::DockerArchive && !name::is_tag(tag) {
        let name: Name = tag.parse()?;
        return Ok(name.familiar());
    }
    // Tools write names in full into layouts, too.
    if name::is_tag(tag) || tag.parse::<Name>().is_ok() {
        return Ok(tag.to_owned());
    }
    Err(ReferenceError::Tag(shown(tag)))
}

/// A piece of hostile text that fits a line.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(name) => name.fmt(f),
            Self::Local(local) => local.fmt(f),
        }
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.prefix(), self.path.display())?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
    }
}
