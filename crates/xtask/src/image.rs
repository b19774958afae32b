//! ext4 images made from a directory, without mounting anything.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{command, packages};

/// Packages [`ext4`] needs.
pub(crate) const PACKAGES: &[&str] = &["e2fsprogs"];

/// Writes the files below `tree` into a new ext4 file system at `image`, all owned by root.
///
/// The image is sparse: `size_mib` is the room inside, not what it takes on the disk.
///
/// # Errors
/// mke2fs is missing, or the tree does not fit.
pub(crate) fn ext4(tree: &Path, image: &Path, size_mib: u64) -> Result<()> {
    let mut mke2fs = owned_by_root("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096"]);
    // Nothing is left for the kernel to initialise in the background of a measurement.
    mke2fs.args(["-E", "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"]);
    mke2fs.arg("-d").arg(tree).arg(image).arg(format!("{size_mib}M"));
    // Debian keeps it out of the path of ordinary users.
    mke2fs.env("PATH", path_with_sbin());
    command::run(&mut mke2fs)
}

/// `program`, run so that the caller's files look owned by root.
pub(crate) fn owned_by_root(program: &str) -> Command {
    if packages::is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("fakeroot");
    command.arg("--").arg(program);
    command
}

/// The search path with the directories of system programs.
pub(crate) fn path_with_sbin() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}
