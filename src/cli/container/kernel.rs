//! The kernel of containers, where the user names none.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::bail;

/// The file in a package, beside the programs that are not for the shell.
const INSTALLED: &str = "vmlinux-container";
/// The file in the directory of a kernel that was built from our recipe.
const BUILT: &str = "vmlinux";

/// `$VMM_KERNEL`; else the kernel that was installed with this program; else the newest that was
/// built from our recipe on this machine.
///
/// # Errors
/// There is none.
pub(super) fn find() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("VMM_KERNEL").filter(|path| !path.is_empty()) {
        return Ok(env::current_dir()?.join(path));
    }
    let own = env::current_exe()?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    for place in [".", "../libexec/vmm", "../lib/vmm"] {
        let path = beside.join(place).join(INSTALLED);
        if path.is_file() {
            return Ok(path);
        }
    }
    match newest_built() {
        Some(path) => Ok(path),
        None => {
            bail!("there is no kernel for containers: set VMM_KERNEL, or give one with --kernel")
        }
    }
}

fn newest_built() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    let entries = std::fs::read_dir(cache.join("vmm/kernels")).ok()?;
    let prefix = format!("container-{}-", env::consts::ARCH);
    let kernels = entries.filter_map(Result::ok).filter_map(|entry| {
        let is_ours = entry.file_name().to_str()?.starts_with(&prefix);
        let path = entry.path().join(BUILT);
        let built = path.metadata().ok()?.modified().ok()?;
        is_ours.then_some((built, path))
    });
    kernels.max().map(|(_, path)| path)
}
