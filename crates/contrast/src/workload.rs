//! What every arm runs: a command, in the root file system of an image.

use std::path::PathBuf;

/// A command and its surroundings, the same for every arm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// The image as the user calls it.
    pub reference: String,
    /// The image's identifier.
    pub id: String,
    /// Its root file system, unpacked.
    pub rootfs: PathBuf,
    /// The same as a disk (EROFS).
    pub disk: PathBuf,
    /// Program and arguments, at least the first.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The directory to start in.
    pub cwd: String,
    /// Who it runs as.
    pub user: User,
    /// The kernel of machines that are no containers; the `minimal` one that is here, if none is named.
    pub kernel: Option<PathBuf>,
    /// Bytes of memory it may use; what the arm usually gives if nothing is said.
    pub memory: Option<u64>,
    /// Whether it gets the network that its arm gives when nothing is said, as far as that is one.
    pub network: bool,
    /// Processes that a container may have at most, as far as its runtime can say so.
    pub pids: Option<u64>,
}

/// Numbers of a user and its group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
}
