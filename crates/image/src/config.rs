//! What an image says about the process it is for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::platform::Platform;

/// What an image says about the process it is for, taken over from the image's own configuration.
///
/// All of it is what a stranger wrote. It is for the guest, or to be shown; nothing of it may become a
/// path or a command on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// Variables, each `NAME=value`.
    pub env: Vec<String>,
    /// What always starts, before the words of the command line.
    pub entrypoint: Vec<String>,
    /// What starts, or follows the entrypoint, where the command line names nothing.
    pub cmd: Vec<String>,
    /// `name`, `uid`, and maybe `:group`; empty for root.
    pub user: String,
    /// The directory to start in; empty for `/`.
    pub working_dir: String,
    /// What the image's maker noted down.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the process to end, by name or number.
    pub stop_signal: Option<String>,
    /// Ports that are meant to be published, such as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Directories that are meant to outlive the container.
    pub volumes: Vec<String>,
    /// The processor, such as `amd64`.
    pub architecture: String,
    /// The variant of the processor, such as `v8`.
    pub variant: Option<String>,
    /// The operating system, such as `linux`.
    pub os: String,
}

impl ImageConfig {
    /// What the image was built for.
    pub fn platform(&self) -> Platform {
        let (os, architecture) = (self.os.clone(), self.architecture.clone());
        Platform { os, architecture, variant: self.variant.clone() }
    }
}
