//! What can be wrong with a layer.

use std::io;

use crate::tree::{PathError, TreeError};

/// Why a layer or one of its members cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("cannot read it: {0}")]
    Read(#[source] io::Error),
    #[error("it is compressed by {0}, which is not supported; gzip and zstd are")]
    Compression(&'static str),
    #[error("its contents do not have the digest that the image's configuration names (diff_id)")]
    DiffId,
    #[error("it ends in the middle of a member")]
    Truncated,
    #[error("the image's layers are more than {0} bytes uncompressed")]
    TooLarge(u64),
    #[error("it becomes more than {0} times as large when it is uncompressed")]
    Ratio(u64),
    #[error("the image's layers have more than {0} members")]
    TooManyMembers(u64),
    #[error("the root file system is larger than {0} bytes")]
    ImageTooLarge(u64),
    #[error("cannot write the root file system: {0}")]
    Write(#[source] io::Error),
    #[error("it is no tar archive, or a damaged one: {0}")]
    Tar(&'static str),
    #[error("{0}")]
    Path(#[from] PathError),
    #[error("{0}")]
    Tree(#[from] TreeError),
    #[error("members of type {0:?} are not supported")]
    Kind(char),
    #[error("the owner {0} is not one Linux can have")]
    Owner(u64),
    #[error("the device number {0}:{1} is not one Linux can have")]
    DeviceNumber(u64, u64),
    #[error("the symbolic link leads to nothing, or to a path that is too long or has a NUL byte")]
    SymlinkTarget,
    #[error("the whiteout names nothing that could be hidden")]
    Whiteout,
    #[error("it has more than {0} extended attributes")]
    TooManyXattrs(usize),
    #[error("an extended attribute has a name that Linux does not take, or more than {0} bytes")]
    Xattr(usize),
    #[error("the paths, link targets and extended attributes of the image are more than {0} bytes")]
    Text(u64),
    #[error("the sparse files of the image have more than {0} stretches")]
    TooManyStretches(u64),
}
