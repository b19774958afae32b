//! What `vmm-init` is told: by a file beside it, and in its environment by words of the kernel's command line, which the
//! kernel hands on when it does not know them.

use serde::{Deserialize, Serialize};

use crate::workload::Workload;

/// The variable with the token of this run.
pub const TOKEN: &str = "VMM_TOKEN";
/// The variable that says how the guest ends its machine.
pub const END: &str = "VMM_END";
/// By a reset, in place of a power-off.
pub const RESET: &str = "reset";
/// The file with the [`Order`], in the initial RAM file system.
pub const FILE: &str = "order";
/// The directory with the image there, if it is not on a disk.
pub const IMAGE: &str = "image";

/// What is run in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The directory to start in.
    pub cwd: String,
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Order {
    /// What this workload is, in a guest.
    pub fn of(workload: &Workload) -> Self {
        let Workload { args, env, cwd, user, .. } = workload.clone();
        Self { args, env, cwd, uid: user.uid, gid: user.gid }
    }
}
