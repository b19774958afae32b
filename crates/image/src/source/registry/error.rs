//! Why a registry does not hand something out.

use std::io;

/// Why a registry does not hand something out.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No connection, or it broke.
    #[error("registry {host}: {why}")]
    Connection {
        /// The host.
        host: String,
        /// What happened.
        why: String,
    },
    /// It is not known to be who it says.
    #[error("registry {host} cannot be trusted: {why}")]
    Certificate {
        /// The host.
        host: String,
        /// What is wrong with its certificate.
        why: String,
    },
    /// The connection broke in the middle of something.
    #[error("the registry's answer broke off: {0}")]
    Body(#[source] io::Error),
    /// It did not answer in time.
    #[error("registry {0} did not answer in time")]
    Timeout(String),
    /// There is no such image.
    #[error("registry {host} has no image {name}")]
    NotFound {
        /// The host.
        host: String,
        /// The image.
        name: String,
    },
    /// The user may not have it.
    #[error("registry {host} does not allow access to {name}, or it does not exist")]
    Denied {
        /// The host.
        host: String,
        /// The image.
        name: String,
    },
    /// Too many requests.
    #[error("registry {0} has had enough requests for now")]
    TooMany(String),
    /// Another answer.
    #[error("registry {host} answers with status {status}")]
    Status {
        /// The host.
        host: String,
        /// The status of HTTP.
        status: u16,
    },
    /// It leads to where nobody goes.
    #[error("the registry leads to `{to}`, {why}: not followed")]
    Redirect {
        /// Where to, escaped.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// Its wish for a login cannot be met.
    #[error("the registry asks for a login that is refused: {0}")]
    Challenge(&'static str),
    /// Whoever hands out tokens does not.
    #[error("no token for this registry: {0}")]
    Token(String),
    /// The certificates that the system trusts.
    #[error("cannot read the certificates that this system trusts: {0}")]
    Certificates(String),
}

impl RegistryError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotFound { .. } => "look for a mistake in the name or the tag",
            Self::Denied { .. } => "docker login, or podman login, notes down who you are",
            Self::TooMany(_) => "try again later, or log in",
            Self::Connection { why, .. } if why.contains("InvalidContentType") => {
                "it may speak plain HTTP, which --plain-http allows: anybody on the way can read along"
            }
            Self::Certificate { .. } => {
                "SSL_CERT_FILE may name a file with the certificates to trust, as the system's own is one"
            }
            Self::Certificates(_) => "install ca-certificates, or set SSL_CERT_FILE",
            _ => return None,
        })
    }
}
