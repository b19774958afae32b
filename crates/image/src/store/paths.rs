//! Where things are kept.

use std::path::{Path, PathBuf};

use super::StoreError;

/// The directories below `DATA`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePaths {
    data: PathBuf,
}

impl StorePaths {
    /// The directories below `data`.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self { data: data.into() }
    }

    /// The directories of this user: below `$VMM_DATA` if that is set, else `/var/lib/vmm` for root and
    /// `$XDG_DATA_HOME/vmm` (`~/.local/share/vmm`) for anybody else.
    ///
    /// # Errors
    ///
    /// The environment names no directory, or a relative one.
    pub fn from_environment() -> Result<Self, StoreError> {
        let root = rustix::process::geteuid().is_root();
        let variable =
            |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        Self::choose(root, variable)
    }

    fn choose(root: bool, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, StoreError> {
        let data = match variable("VMM_DATA") {
            Some(data) => data,
            None if root => PathBuf::from("/var/lib/vmm"),
            None => {
                let home = || variable("HOME").map(|home| home.join(".local/share"));
                let base = variable("XDG_DATA_HOME").filter(|base| base.is_absolute());
                base.or_else(home).ok_or(StoreError::NoHome)?.join("vmm")
            }
        };
        if !data.is_absolute() {
            return Err(StoreError::Relative(data));
        }
        Ok(Self { data })
    }

    /// The directory of everything that outlives a command.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// One directory for each container.
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// Everything about images; nothing else is reached by what reads a stranger's bytes.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Layers, configurations and manifests by digest.
    pub fn blobs(&self) -> PathBuf {
        self.images().join("blobs/sha256")
    }

    /// File systems made from layers.
    pub fn rootfs(&self) -> PathBuf {
        self.images().join("rootfs")
    }

    /// What is known about each image.
    pub fn records(&self) -> PathBuf {
        self.images().join("records")
    }

    /// What is not finished.
    pub fn temporary(&self) -> PathBuf {
        self.images().join("tmp")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(root: bool, set: &[(&str, &str)]) -> Result<PathBuf, StoreError> {
        let value = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into());
        StorePaths::choose(root, value).map(|paths| paths.data)
    }

    #[test]
    fn each_user_has_a_place() {
        assert_eq!(choose(true, &[("HOME", "/root")]).unwrap(), Path::new("/var/lib/vmm"));
        let home = ("HOME", "/home/u");
        assert_eq!(choose(false, &[home]).unwrap(), Path::new("/home/u/.local/share/vmm"));
        let xdg = ("XDG_DATA_HOME", "/data");
        assert_eq!(choose(false, &[home, xdg]).unwrap(), Path::new("/data/vmm"));
        let relative = ("XDG_DATA_HOME", "data");
        let chosen = choose(false, &[home, relative]).unwrap();
        assert_eq!(chosen, Path::new("/home/u/.local/share/vmm"));
        assert_eq!(choose(true, &[("VMM_DATA", "/x")]).unwrap(), Path::new("/x"));
        assert!(choose(true, &[("VMM_DATA", "x")]).is_err());
        assert!(choose(false, &[]).is_err());
    }
}
