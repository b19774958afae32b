//! Containers, each in a virtual machine of its own: what `vmm run` and its sisters do.
//!
//! A container is a directory ([`Containers`]), a *keeper* that looks after it, and a *monitor* that is
//! its machine. The keeper starts the monitor, speaks to the agent in the guest, keeps the log, and
//! serves those who attach. There is no daemon: every command looks at the directories, and finishes
//! what a dead keeper left undone.

pub mod call;
mod cgroup;
pub mod client;
pub mod clock;
pub mod copy;
mod hosts;
mod id;
mod keeper;
mod keys;
mod link;
pub mod log;
pub mod machine;
mod network;
pub mod nouns;
mod options;
mod paths;
mod spawn;
mod spec;
mod state;
pub mod talk;
#[cfg(test)]
pub(crate) mod testing;
pub mod timing;

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;
use vmm_protocol::MAX_MESSAGE;

pub use id::{Id, Name, NameError};
pub use keeper::keep;
pub use keys::DetachKeys;
pub use network::{Network, Tap, USER_ADDRESS, USER_GATEWAY, USER_PREFIX};
pub use nouns::{PortMapping, Signal};
pub use options::{RunOptions, TimingForm};
pub use paths::{Paths, make_private};
pub use spawn::start;
pub use spec::{Sources, Spec, framed};
pub use state::{Container, Containers, Lock, Status};

/// Why a container cannot be made, found or looked after.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// The images, or the directory they share with the containers.
    #[error(transparent)]
    Store(#[from] vmm_image::store::StoreError),
    /// A directory that cannot be made, or is another user's.
    #[error("make directory {} for this user alone", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: Errno,
    },
    /// A lock that cannot be taken.
    #[error("lock {}", path.display())]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: Errno,
    },
    /// A file that cannot be used.
    #[error("use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The kernel gives no random numbers.
    #[error("make an identifier")]
    Random(#[source] io::Error),
    /// A program of ours that is not where it should be.
    #[error("find the agent")]
    NoAgent(#[from] vmm_image::client::ClientError),
    /// The keeper does not run.
    #[error("start the keeper of a container")]
    Keeper(#[source] io::Error),
    /// A name that another container has.
    #[error("the name {name} is taken by container {id}")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// No container is called so.
    #[error("no such container: {0}")]
    NoSuch(String),
    /// Several are called so.
    #[error("several containers begin with {0}")]
    Ambiguous(String),
    /// Nothing to run.
    #[error("image {0} has no command of its own, and none was given")]
    NoCommand(String),
    /// More than a message to the agent holds.
    #[error(
        "command line and environment take {bytes} bytes, a container takes {MAX_MESSAGE}: hand it a file of them instead"
    )]
    TooLong {
        /// Their size, as it is sent.
        bytes: usize,
    },
    /// A word that is no capability.
    #[error("there is no capability {0:?}")]
    NoCapability(String),
}

impl ContainerError {
    fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }
}
