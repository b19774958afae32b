//! The kernel of containers, where the user names none.

use std::env;
use std::path::PathBuf;

use anyhow::bail;
use serde::Deserialize;
use vmm_image::client::{find_kernel, user_directory};

use crate::config::load_toml;

/// What is settled, below a directory of configurations.
const SETTINGS: &str = "vmm/config.toml";
/// What containers need of a kernel.
const FLAVOUR: &str = "container";

/// What a user or an administrator settles for all containers.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    container: ContainerSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ContainerSettings {
    kernel: Option<PathBuf>,
}

/// `$VMM_KERNEL`; else what a file of settings says; else the kernel that was installed with this program;
/// else the newest that was built from our recipe on this machine.
///
/// # Errors
/// There is none, or a file of settings cannot be read.
pub(super) fn find() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("VMM_KERNEL").filter(|path| !path.is_empty()) {
        return Ok(env::current_dir()?.join(path));
    }
    let directories = [user_directory("XDG_CONFIG_HOME", ".config"), Some(PathBuf::from("/etc"))];
    if let Some(path) = settled(directories.into_iter().flatten())? {
        return Ok(path);
    }
    match find_kernel(FLAVOUR) {
        Some(path) => Ok(path),
        None => {
            bail!(
                "there is no kernel for containers: build one by `cargo xtask kernel container`, or name one \
                 with --kernel, VMM_KERNEL or in config.toml"
            )
        }
    }
}

/// The kernel that the first of the files `vmm/config.toml` in these directories names.
fn settled(mut directories: impl Iterator<Item = PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    let kernel = |directory: PathBuf| -> anyhow::Result<Option<PathBuf>> {
        let file = directory.join(SETTINGS);
        if !file.try_exists()? {
            return Ok(None);
        }
        let settings: Settings = load_toml(&file)?;
        Ok(settings.container.kernel.map(|kernel| directory.join("vmm").join(kernel)))
    };
    directories.find_map(|directory| kernel(directory).transpose()).transpose()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn first_file_that_names_a_kernel_counts() {
        let top = tempfile::tempdir().expect("temporary directory");
        let [own, all, none] = ["own", "all", "none"].map(|name| top.path().join(name));
        let write = |directory: &Path, text: &str| {
            std::fs::create_dir_all(directory.join("vmm")).expect("directory");
            std::fs::write(directory.join(SETTINGS), text).expect("file");
        };
        let found = || settled([&none, &own, &all].into_iter().cloned());
        assert_eq!(found().expect("no file"), None);
        write(&all, "[container]\nkernel = \"/all\"\n");
        write(&own, "");
        assert_eq!(found().expect("of all"), Some("/all".into()));
        // Relative to the file.
        write(&own, "[container]\nkernel = \"own\"\n");
        assert_eq!(found().expect("own"), Some(own.join("vmm/own")));
        write(&own, "[container]\nkernl = \"own\"\n");
        let error = found().expect_err("unknown key").to_string();
        assert!(error.contains("config.toml") && error.contains(":2"), "{error}");
    }
}
