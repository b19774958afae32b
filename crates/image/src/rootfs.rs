//! One read-only root file system from the layers of an image.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};

use crate::erofs::{self, Data};
use crate::layer::{self, Allowance, Budget, Failure, Fault};
use crate::tree::{PathError, Tree, TreeError};

/// A layer: a tar archive, perhaps compressed by gzip or zstd, which its first bytes tell.
#[derive(Debug)]
pub struct Layer<R> {
    /// The archive as it is stored.
    pub compressed: R,
    /// SHA-256 of the uncompressed archive, from the image's configuration; checked.
    pub diff_id: [u8; 32],
}

/// How much an image may take, so that a hostile one cannot fill memory or disk.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Layers.
    pub layers: usize,
    /// Members of all layers.
    pub members: u64,
    /// Files, directories and others that exist at a time: about 300 bytes of memory each.
    pub inodes: usize,
    /// Directories in each other.
    pub depth: usize,
    /// Names looked up to find all paths, those of symbolic links on the way included.
    pub lookups: u64,
    /// Bytes of paths, link targets and extended attributes of all members.
    pub text_bytes: u64,
    /// Bytes of all layers uncompressed.
    pub uncompressed_bytes: u64,
    /// How much larger than its compressed form a layer may be.
    pub ratio: u64,
    /// Bytes of a layer for which its ratio does not matter.
    pub ratio_from: u64,
    /// Bytes of the root file system.
    pub image_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layers: 256,
            members: 4 << 20,
            inodes: 2 << 20,
            depth: 1024,
            lookups: 1 << 28,
            text_bytes: 512 << 20,
            uncompressed_bytes: 64 << 30,
            ratio: 200,
            ratio_from: 1 << 30,
            image_bytes: 64 << 30,
        }
    }
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the root file system, its holes included.
    pub bytes: u64,
    /// Bytes of it that are holes, because later layers replaced what was there.
    pub discarded_bytes: u64,
    /// Files, directories and others in it.
    pub inodes: u64,
    /// Members of all layers.
    pub members: u64,
    /// Bytes of all layers uncompressed.
    pub uncompressed_bytes: u64,
}

/// Why there is no root file system.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// An image without layers has nothing to run.
    #[error("the image has no layers, so there is no root file system to make")]
    NoLayers,
    /// Nothing is left when all layers are applied.
    #[error("the image's layers leave an empty root file system")]
    Empty,
    /// More layers than [`Limits::layers`].
    #[error("the image has more than {0} layers")]
    TooManyLayers(usize),
    /// The caller could not hand over a layer.
    #[error("layer {layer}: {source}")]
    Open {
        /// The layer's number from 1.
        layer: usize,
        /// What went wrong.
        source: io::Error,
    },
    /// A layer's contents are not those that the image's configuration names.
    #[error(
        "layer {layer}: its contents do not have the digest that the image's configuration names"
    )]
    DiffId {
        /// The layer's number from 1.
        layer: usize,
    },
    /// A layer is more than the limits allow.
    #[error("layer {layer}{}: {reason}", about(path))]
    Limit {
        /// The layer's number from 1.
        layer: usize,
        /// The member, escaped.
        path: Option<String>,
        /// Which limit.
        reason: String,
    },
    /// A layer cannot be used.
    #[error("layer {layer}{}: {reason}", about(path))]
    Layer {
        /// The layer's number from 1.
        layer: usize,
        /// The member, escaped.
        path: Option<String>,
        /// What is wrong with it.
        reason: String,
    },
    /// The root file system cannot be written.
    #[error("cannot write the root file system: {0}")]
    Write(#[source] io::Error),
}

fn about(path: &Option<String>) -> String {
    path.as_ref().map(|path| format!(": `{path}`")).unwrap_or_default()
}

impl RootfsError {
    fn new(layer: usize, failure: Failure) -> Self {
        let Failure { path, fault } = failure;
        let path = path.map(|path| path.escape_ascii().to_string());
        let reason = fault.to_string();
        match fault {
            Fault::Write(error) => Self::Write(error),
            Fault::DiffId => Self::DiffId { layer },
            fault if is_limit(&fault) => Self::Limit { layer, path, reason },
            _ => Self::Layer { layer, path, reason },
        }
    }
}

fn is_limit(fault: &Fault) -> bool {
    use TreeError::{TooDeep, TooManyInodes, TooManyLookups};
    match fault {
        Fault::TooLarge(_)
        | Fault::Ratio(_)
        | Fault::TooManyMembers(_)
        | Fault::TooManyStretches(_) => true,
        Fault::ImageTooLarge(_) | Fault::Text(_) | Fault::TooManyXattrs(_) => true,
        Fault::Path(PathError::TooLong | PathError::NameTooLong) => true,
        Fault::Tree(error) => matches!(error, TooDeep(_) | TooManyInodes(_) | TooManyLookups),
        _ => false,
    }
}

/// Puts `layers`, the lowest first, on each other and writes what results to `output` as an EROFS file
/// system.
///
/// `output` is emptied first; after an error what is in it is of no use. It is not synchronised with
/// the disk. The same layers make the same bytes.
///
/// # Errors
///
/// When a layer cannot be read, is damaged, is not the one its digest names or exceeds `limits`, when
/// there is nothing in the root file system, or when it cannot be written.
pub fn build<R: Read>(
    layers: impl IntoIterator<Item = io::Result<Layer<R>>>,
    limits: &Limits,
    output: &File,
) -> Result<Summary, RootfsError> {
    let fail = |layer| move |fault: Fault| RootfsError::new(layer, fault.into());
    let mut tree = Tree::new(limits);
    let mut data = Data::new(output, limits.image_bytes).map_err(fail(0))?;
    let mut budget = Budget::new(limits);
    let mut count = 0;
    for layer in layers {
        count += 1;
        if count > limits.layers {
            return Err(RootfsError::TooManyLayers(limits.layers));
        }
        let Layer { compressed, diff_id } =
            layer.map_err(|source| RootfsError::Open { layer: count, source })?;
        layer::apply(compressed, &diff_id, &mut tree, &mut data, &mut budget)
            .map_err(|failure| RootfsError::new(count, failure))?;
    }
    if count == 0 {
        return Err(RootfsError::NoLayers);
    }
    if tree.is_empty() {
        return Err(RootfsError::Empty);
    }
    let discarded_bytes = data.discarded();
    let written = erofs::finish(&tree, data).map_err(fail(count))?;
    Ok(Summary {
        bytes: written.bytes,
        discarded_bytes,
        inodes: written.inodes,
        members: budget.members,
        uncompressed_bytes: budget.bytes.limit - budget.bytes.left,
    })
}

impl Budget {
    fn new(limits: &Limits) -> Self {
        let Limits { uncompressed_bytes: limit, ratio, ratio_from, members, .. } = *limits;
        Self {
            bytes: Allowance { limit, left: limit, ratio, ratio_from },
            max_members: members,
            members: 0,
            max_text: limits.text_bytes,
            text: 0,
        }
    }
}
