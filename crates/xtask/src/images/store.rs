//! The store of images as the emulated host finds it: images imported before it boots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::layout::TAG;
use super::{Name, of_arch};
use crate::arch::Arch;
use crate::cache::{Cache, Key};
use crate::{command, image};

/// The program that imports images, among those of the workspace.
pub(crate) const IMPORTER: &str = "vmm-image";

/// The images that can be run in the emulated host by their short names.
const IMPORTED: &[Name] = &[Name::Busybox, Name::Debian, Name::Python, Name::Nginx];

/// Room on the disk beyond the images, in MiB: for containers and for further images.
const ROOM_MIB: u64 = 4096;

/// An ext4 image with the store that `importer` makes of the images for `arch`, for `/var/lib/vmm`. The
/// importer is a program for this machine.
///
/// # Errors
/// An image cannot be built or imported, or the cache cannot be written.
pub(crate) fn disk(cache: &Cache, arch: Arch, importer: &Path) -> Result<PathBuf> {
    let layouts = of_arch(IMPORTED, arch).into_iter().map(|name| {
        let forms = name.ensure(cache, arch)?;
        let layout = forms.into_iter().next().context("an image without a layout")?;
        Ok((name.as_str(), layout.path))
    });
    disk_of(cache, arch, importer, &layouts.collect::<Result<Vec<_>>>()?)
}

fn disk_of(
    cache: &Cache,
    arch: Arch,
    importer: &Path,
    layouts: &[(&str, PathBuf)],
) -> Result<PathBuf> {
    let program = fs::read(importer).with_context(|| format!("read {}", importer.display()))?;
    let mut key =
        Key::new().with("importer", Sha256::digest(&program)).with("room", ROOM_MIB.to_string());
    for (name, layout) in layouts {
        // The entry around it is named by what the image was made from.
        let entry = layout.parent().and_then(Path::file_name).unwrap_or_default();
        key = key.with(name, entry.as_encoded_bytes());
    }
    let entry = cache.short_lived_entry(&arch.kind("image-store"), &key, |entry| {
        let store = entry.join("store");
        for (name, layout) in layouts {
            import(importer, arch, layout, name, &store)?;
        }
        let size_mib = size_of(&store)? >> 20;
        image::ext4(&store, &entry.join("store.ext4"), size_mib * 9 / 8 + ROOM_MIB)?;
        Ok(fs::remove_dir_all(&store)?)
    })?;
    Ok(entry.join("store.ext4"))
}

/// Imports the image of `layout` into the store in the directory `store`, under `name`.
fn import(importer: &Path, arch: Arch, layout: &Path, name: &str, store: &Path) -> Result<()> {
    let mut import = Command::new(importer);
    import.arg("pull").arg(format!("oci:{}:{TAG}", layout.display())).args(["--name", name]);
    import.arg(format!("--platform=linux/{}", arch.debian()));
    command::run(import.env("VMM_DATA", store))
}

/// The bytes of all files below `directory`.
fn size_of(directory: &Path) -> Result<u64> {
    let list = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    list.map(|item| {
        let item = item?;
        let metadata = item.metadata()?;
        if metadata.is_dir() { size_of(&item.path()) } else { Ok(metadata.len()) }
    })
    .sum()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const FAKE: &str = r#"#!/bin/sh
mkdir -p "$VMM_DATA/images"
echo "$@" >>"$VMM_DATA/images/calls"
"#;

    #[test]
    fn store_holds_what_the_importer_made_of_every_layout() {
        let directory = tempfile::tempdir().unwrap();
        let importer = directory.path().join("importer");
        fs::write(&importer, FAKE).unwrap();
        fs::set_permissions(&importer, fs::Permissions::from_mode(0o755)).unwrap();
        let cache = Cache::at(&directory.path().join("cache"));
        let layouts = [("one", PathBuf::from("/k1/layout")), ("two", "/k2/layout".into())];
        let disk = || disk_of(&cache, Arch::Aarch64, &importer, &layouts).unwrap();
        let first = disk();
        let mut cat = Command::new("debugfs");
        cat.env("PATH", image::path_with_sbin()).args(["-R", "cat /images/calls"]).arg(&first);
        let calls = String::from_utf8(command::stdout(&mut cat).unwrap()).unwrap();
        let expected = "pull oci:/k1/layout:latest --name one --platform=linux/arm64\n\
                        pull oci:/k2/layout:latest --name two --platform=linux/arm64\n";
        assert_eq!(calls, expected);
        assert_eq!(disk(), first);

        fs::write(&importer, format!("{FAKE}# changed\n")).unwrap();
        assert_ne!(disk(), first);
    }
}
