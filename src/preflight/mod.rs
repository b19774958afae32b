//! Reading the kernel and the disks before anything is built, to say what cannot work.
//!
//! A guest that finds no root filesystem panics after a second with a message about block devices;
//! the cause is usually plain beforehand, in the first bytes of a file or in the configuration that
//! the kernel carries inside it. [`check`] reads those. Nothing is created and nothing is kept open;
//! the files are not trusted: every length is checked and every read has a cap.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

mod container;
mod image;
mod initrd;
mod kernel;
mod options;
mod rootfs;
mod rules;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::{FileError, VmConfig};
pub use container::{Needs, check_container};
use image::Image;

/// Something about the guest that will not work as the user expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the guest cannot boot because of it.
    pub fatal: bool,
    /// What is wrong, with the object in it.
    pub what: String,
    /// What the user can do.
    pub fix: String,
}

impl Finding {
    fn error(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fatal: true, what: what.into(), fix: fix.into() }
    }

    fn warning(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fatal: false, what: what.into(), fix: fix.into() }
    }
}

/// Reads the files that `config` names and returns what may not work.
///
/// # Errors
/// A file that cannot be read, and everything because of which the guest cannot boot.
pub fn check(config: &VmConfig) -> Result<Vec<Finding>, PreflightError> {
    check_for(std::env::consts::ARCH, config)
}

/// The same for a machine of any architecture.
fn check_for(machine: &str, config: &VmConfig) -> Result<Vec<Finding>, PreflightError> {
    let kernel_image = Image::open("kernel", &config.kernel)?;
    let initrd_image =
        config.initrd.as_deref().map(|path| Image::open("initrd", path)).transpose()?;
    let rootfs_image =
        config.rootfs.as_deref().map(|path| Image::open_disk("rootfs", path)).transpose()?;
    for disk in &config.disks {
        Image::open_disk("disk", &disk.path)?;
    }

    let mut findings = Vec::new();
    let kernel = kernel::inspect(&kernel_image, machine)?;
    let kernel = kernel.map_err(|finding| findings.push(finding)).ok();
    let options = match &kernel {
        Some(kernel) => options::find(&kernel_image, kernel)?,
        None => None,
    };
    let initrd = initrd_image.as_ref().map(initrd::inspect).transpose()?;
    let rootfs = match rootfs_image.as_ref().map(rootfs::inspect).transpose()? {
        Some(Ok(rootfs)) => Some(rootfs),
        Some(Err(finding)) => {
            findings.push(finding);
            None
        }
        None => None,
    };
    if let Some(options) = &options {
        let machine = (config, machine);
        findings.extend(rules::kernel_options(machine, options, initrd, rootfs.as_ref()));
    }
    findings.extend(rules::rootfs(config, rootfs.as_ref()));

    let (fatal, warnings): (Vec<_>, Vec<_>) = findings.into_iter().partition(|f| f.fatal);
    if fatal.is_empty() { Ok(warnings) } else { Err(PreflightError::Unbootable(fatal)) }
}

/// Why a guest is not worth starting.
#[derive(Debug, Error)]
pub enum PreflightError {
    /// A file cannot be opened.
    #[error("{noun}")]
    File {
        /// What the file is for.
        noun: &'static str,
        /// What is wrong with it.
        #[source]
        source: FileError,
    },
    /// A file cannot be read.
    #[error("read {noun} {}", path.display())]
    Read {
        /// What the file is for.
        noun: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file has no contents.
    #[error("{noun} {} is empty", path.display())]
    Empty {
        /// What the file is for.
        noun: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The files are there, but a guest cannot boot from them.
    #[error("{}", joined(.0.iter().map(|finding| &finding.what)))]
    Unbootable(Vec<Finding>),
}

impl PreflightError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File { source, .. } => source.hint(),
            Self::Read { .. } => None,
            Self::Empty { .. } => Some("was the file copied or built completely?".to_owned()),
            Self::Unbootable(findings) => Some(joined(findings.iter().map(|f| &f.fix))),
        }
    }
}

/// Several phrases as one sentence.
fn joined<'a>(phrases: impl Iterator<Item = &'a String>) -> String {
    phrases.fold(String::new(), |mut text, phrase| {
        let separator = if text.is_empty() { "" } else { "; " };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{phrase}");
        text
    })
}

/// The path as a part of a sentence.
fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}

#[cfg(test)]
mod tests;
