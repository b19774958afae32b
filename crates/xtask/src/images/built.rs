//! An image built from a Dockerfile by buildah, in each of the forms an image is handed on in.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::layout::TAG;
use crate::cache::Key;
use crate::{command, packages};

/// The files of the build: name, content, whether it can be run.
const FILES: &[(&str, &str, bool)] = &[
    ("Dockerfile", include_str!("../../../../resources/images/Dockerfile"), false),
    ("entry", include_str!("../../../../resources/images/entry"), true),
    ("greeting", include_str!("../../../../resources/images/greeting"), false),
];

const NAME: &str = "built";

/// What `docker save` would make.
pub(crate) const DOCKER_ARCHIVE: &str = "built.docker.tar";

/// An OCI layout as one file.
pub(crate) const OCI_ARCHIVE: &str = "built.oci.tar";

/// An OCI layout whose layers are compressed with zstd.
pub(crate) const ZSTD: &str = "built-zstd";

/// What the image is made from, apart from its base.
pub(crate) fn key() -> Key {
    let key = Key::new().with("forms", [DOCKER_ARCHIVE, OCI_ARCHIVE, ZSTD].join(" "));
    FILES.iter().fold(key, |key, (name, content, _)| key.with(name, content))
}

/// Makes the image at `layout` and its other forms in `entry`, on top of the layout `base`.
///
/// # Errors
/// buildah fails.
pub(crate) fn build(entry: &Path, base: &Path, layout: &Path) -> Result<()> {
    let context = entry.join("context");
    fs::create_dir(&context)?;
    for (name, content, runs) in FILES {
        let path = context.join(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(if *runs { 0o755 } else { 0o644 }))?;
    }
    let storage = Storage(entry.join("storage"));
    let mut build = storage.buildah("bud");
    // A chroot needs nothing of the kernel that a container might deny us.
    build.args(["--isolation", "chroot", "--pull-never", "--layers", "--tag", NAME]);
    // buildah makes a name of the path, and not every path is fit to be one.
    symlink(base, entry.join("base"))?;
    build.args(["--from", &format!("oci:base:{TAG}")]).arg(&context).current_dir(entry);
    command::run(&mut build)?;
    fs::remove_file(entry.join("base"))?;
    storage.push(&[], &format!("oci:{}:{TAG}", layout.display()))?;
    let zstd = format!("oci:{}:{TAG}", entry.join(ZSTD).display());
    storage.push(&["--compression-format", "zstd"], &zstd)?;
    let archive = |name| entry.join(name).display().to_string();
    storage.push(&[], &format!("oci-archive:{}:{TAG}", archive(OCI_ARCHIVE)))?;
    storage.push(&[], &format!("docker-archive:{}:{NAME}:{TAG}", archive(DOCKER_ARCHIVE)))?;
    storage.remove()?;
    Ok(fs::remove_dir_all(&context)?)
}

/// Where buildah keeps its images while it works.
struct Storage(PathBuf);

impl Storage {
    fn buildah(&self, subcommand: &str) -> Command {
        let mut buildah = Command::new("buildah");
        buildah.arg("--root").arg(self.0.join("root")).arg("--runroot").arg(self.0.join("run"));
        // Copies instead of an overlay: that works in a container and for an ordinary user.
        buildah.args(["--storage-driver", "vfs", subcommand]);
        buildah
    }

    fn push(&self, options: &[&str], target: &str) -> Result<()> {
        command::run(self.buildah("push").args(options).args([NAME, target]))
    }

    /// Removes everything; what belongs to other users of its name space only buildah can.
    fn remove(self) -> Result<()> {
        let mut remove = Command::new(if packages::is_root() { "rm" } else { "buildah" });
        if !packages::is_root() {
            remove.args(["unshare", "rm"]);
        }
        command::run(remove.args(["--recursive", "--force"]).arg(&self.0))
    }
}
