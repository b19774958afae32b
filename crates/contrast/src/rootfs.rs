//! The root file system of an image as a directory, for arms without a machine: unpacked once for each image.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use vmm_image::store::ImageRecord;
use vmm_image::unpack::{UnpackError, Unpacked, unpack};

/// Where the root file systems are, below the directory of data.
const DIRECTORY: &str = "cache/unpacked";

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The image cannot be unpacked.
    #[error("unpack the image: {0}")]
    Unpack(#[from] UnpackError),
    /// A file is in the way, or cannot be made.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The root file system of `image`, below `data`, and what was unpacked for it just now.
///
/// It is made under another name and then renamed: what is there is whole.
///
/// # Errors
/// It cannot be made.
pub fn ensure(
    image: &ImageRecord,
    data: &Path,
) -> Result<(PathBuf, Option<Unpacked>), RootfsError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| RootfsError::File { path, source }
    };
    let base = data.join(DIRECTORY);
    let name = image.id.to_string().replace(':', "-");
    let target = base.join(&name);
    if target.is_dir() {
        return Ok((target, None));
    }
    fs::create_dir_all(&base).map_err(file(&base))?;
    // An image may have set-user-ID programs, which are not for the users of this host.
    fs::set_permissions(&base, Permissions::from_mode(0o700)).map_err(file(&base))?;
    let making = base.join(format!("{name}.{}", std::process::id()));
    fs::create_dir(&making).map_err(file(&making))?;
    let erofs = File::open(&image.rootfs).map_err(file(&image.rootfs));
    let made = erofs.and_then(|erofs| Ok(unpack(&erofs, &making)?));
    let placed = made.and_then(|unpacked| {
        // Another process may have been faster; what it made is as good.
        fs::rename(&making, &target)
            .or_else(|error| if target.is_dir() { Ok(()) } else { Err(error) })
            .map_err(file(&target))?;
        Ok(unpacked)
    });
    if making.exists() {
        // It is of no use, and nothing finds it by its name.
        let _ = fs::remove_dir_all(&making);
    }
    placed.map(|unpacked| (target, Some(unpacked)))
}
