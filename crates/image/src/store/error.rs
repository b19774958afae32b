//! Why the store cannot be used.

use std::io;
use std::path::PathBuf;

use crate::platform::Platform;
use crate::reference::ReferenceError;

/// Why the store cannot be used, or has not got what is asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Neither `HOME` nor `XDG_DATA_HOME` is set.
    #[error("no directory for data: neither HOME nor XDG_DATA_HOME is set")]
    NoHome,
    /// `VMM_DATA` is no absolute path.
    #[error("VMM_DATA is `{0}`, which is no absolute path")]
    Relative(PathBuf),
    /// The directory belongs to somebody else, or others can write to it.
    #[error("{path}: {why}", path = path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The system refused.
    #[error("{what} {path}: {error}", path = path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not. The message says it, so that it is no source, which would say it again.
        error: io::Error,
    },
    /// A file of the store is not what was written.
    #[error("{path} is damaged: {why}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The image is for other machines than this one.
    #[error("image {image} is for {}, this machine runs images for {}", platforms.0, platforms.1)]
    Platform {
        /// The image, as it was asked for.
        image: String,
        /// What the image is for, and what this machine is.
        platforms: Box<(Platform, Platform)>,
    },
    /// There is no image of this name or ID.
    #[error("no image `{0}`")]
    NotFound(String),
    /// The beginning of an ID fits several images.
    #[error("`{0}` is the beginning of more than one image's ID")]
    Ambiguous(String),
    /// The name of an image is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// It cannot be found out which images containers use.
    #[error("which images are in use: {0}")]
    Roots(String),
    /// The image is in use.
    #[error("image `{image}` is used by {user}")]
    InUse {
        /// The image, as it was asked for.
        image: String,
        /// Who uses it.
        user: String,
    },
    /// An image with several names is not removed by its ID.
    #[error("image `{0}` has several names")]
    ManyNames(String),
}

impl StoreError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoHome => "set VMM_DATA to a directory for images and containers",
            Self::Relative(_) => "set VMM_DATA to an absolute path",
            Self::Foreign { .. } => "use a directory of your own: set VMM_DATA",
            Self::Damaged { .. } => "remove that file and pull the image again",
            Self::Platform { .. } => {
                "vmm pull --platform fetches an image for this machine, where its maker offers one"
            }
            Self::NotFound(_) => "vmm images lists what is here, vmm pull fetches an image",
            Self::Ambiguous(_) => "give more digits of the ID",
            Self::InUse { .. } => "remove the container first, or use --force",
            Self::ManyNames(_) => "remove its names one by one, or use --force",
            Self::Io { error, .. } => return io_hint(error),
            Self::Reference(_) | Self::Roots(_) => return None,
        })
    }

    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { what, path, error }
    }
}

/// What the user can do about an error of the system.
pub(crate) fn io_hint(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "vmm system df says what takes the space, vmm system prune gives some back"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "set VMM_DATA to a directory that you can write to"
        }
        _ => return None,
    })
}
