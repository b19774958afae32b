//! What an emulated host is given: our programs, and what the cache has of kernels, root filesystems
//! and container images.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::cache::{Cache, Key};
use crate::host::{self, Job};
use crate::images::store;
use crate::workspace::{self, Profile, Program};
use crate::{image, images, kernel, rootfs};

/// The flavours of our own guest kernels.
pub(crate) const FLAVOURS: &[&str] = &["minimal", "container"];

/// A file and the path at which it is offered: in an emulated host below `/srv/vmm`.
#[derive(Clone, Debug)]
pub(crate) struct Artifact {
    path: String,
    source: PathBuf,
}

/// Room for the file system's own records, in MiB.
const OVERHEAD_MIB: u64 = 16;

/// Every kernel, root file system and container image of the tests on `arch`, built as needed.
///
/// # Errors
/// One of them cannot be built.
pub(crate) fn all(cache: &Cache, arch: Arch) -> Result<Vec<Artifact>> {
    let mut list = guest(cache, arch, FLAVOURS)?;
    let debian = rootfs::debian(cache, arch)?;
    list.push(artifact("kernels/debian/vmlinuz", debian.vmlinuz));
    list.push(artifact("kernels/debian/initrd", debian.initrd));
    list.push(artifact("kernels/debian/config", debian.config));
    for form in images::suite(cache, arch)? {
        list.extend(files(&format!("images/{}", form.name), form.path)?);
    }
    Ok(list)
}

/// Our kernels of these `flavours` and the BusyBox root file system for `arch`, built as needed.
///
/// # Errors
/// One of them cannot be built.
pub(crate) fn guest(cache: &Cache, arch: Arch, flavours: &[&str]) -> Result<Vec<Artifact>> {
    let mut list = vec![];
    for flavour in flavours {
        let built = kernel::ensure(flavour, arch)?;
        for (name, file) in built.files() {
            list.push(artifact(&format!("kernels/{flavour}/{name}"), file));
        }
    }
    let busybox = rootfs::busybox(cache, arch)?;
    list.push(artifact("rootfs/busybox.ext4", busybox.ext4));
    list.push(artifact("rootfs/busybox.cpio", busybox.cpio));
    Ok(list)
}

/// Gives the host of `job` everything: fresh builds of our programs on its search path, all artifacts
/// below `/srv/vmm`, and a store of images below `/var/lib/vmm`.
///
/// # Errors
/// Some of it cannot be built.
pub(crate) fn equip(job: &mut Job, profile: Profile) -> Result<()> {
    let cache = Cache::of_user()?;
    let programs = workspace::build_programs(job.arch, profile)?;
    job.artifacts = Some(disk(&cache, job.arch, &all(&cache, job.arch)?)?);
    // It works on this machine, whatever it imports for.
    let native = Arch::native()?;
    let importer = workspace::build_program(native, profile, store::IMPORTER, store::IMPORTER)?;
    job.store = Some(store::disk(&cache, job.arch, &importer.path)?);
    let on_path = |program: Program| (program.path, Path::new(host::BIN).join(program.name));
    job.copy.extend(programs.into_iter().map(on_path));
    Ok(())
}

/// An ext4 image that holds `list`, which is for `arch`.
///
/// # Errors
/// A file is missing, or the cache cannot be written.
pub(crate) fn disk(cache: &Cache, arch: Arch, list: &[Artifact]) -> Result<PathBuf> {
    let mut key = Key::new();
    for Artifact { path, source } in list {
        key = key.with(path, identity(source)?);
    }
    let entry = cache.short_lived_entry(&arch.kind("artifacts"), &key, |entry| {
        let tree = entry.join("tree");
        let mut size = 0;
        for Artifact { path, source } in list {
            size += place(source, &tree.join(path))?;
        }
        let size_mib = (size >> 20) * 9 / 8 + OVERHEAD_MIB;
        image::ext4(&tree, &entry.join("artifacts.ext4"), size_mib)?;
        Ok(fs::remove_dir_all(&tree)?)
    })?;
    Ok(entry.join("artifacts.ext4"))
}

impl Artifact {
    /// Where the file is on this machine.
    pub(crate) fn source(&self) -> &Path {
        &self.source
    }

    /// Where the file is offered.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

/// The file `source`, offered at `path`.
pub(crate) fn artifact(path: &str, source: PathBuf) -> Artifact {
    Artifact { path: path.to_owned(), source }
}

/// The file `source`, or all files below it in the order of their names.
///
/// # Errors
/// A directory cannot be read.
pub(crate) fn files(path: &str, source: PathBuf) -> Result<Vec<Artifact>> {
    if !source.is_dir() {
        return Ok(vec![artifact(path, source)]);
    }
    let list = fs::read_dir(&source).with_context(|| format!("list {}", source.display()))?;
    let mut names = list.map(|item| Ok(item?.file_name())).collect::<Result<Vec<_>>>()?;
    names.sort();
    let below =
        |name: &OsString| files(&format!("{path}/{}", name.to_string_lossy()), source.join(name));
    Ok(names.iter().map(below).collect::<Result<Vec<_>>>()?.concat())
}

/// Tells a file from any other and from what it was before, without reading all of it.
///
/// # Errors
/// There is no such file.
pub(crate) fn identity(file: &Path) -> Result<String> {
    let metadata = fs::metadata(file).with_context(|| format!("look at {}", file.display()))?;
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    Ok(format!("{} {} {seconds}.{nanoseconds:09}", file.display(), metadata.len()))
}

/// Makes `source` appear at `target`; returns the bytes it takes on the disk.
///
/// # Errors
/// It cannot be read or written.
pub(crate) fn place(source: &Path, target: &Path) -> Result<u64> {
    fs::create_dir_all(target.parent().unwrap_or(target))?;
    if fs::hard_link(source, target).is_err() {
        fs::copy(source, target).with_context(|| format!("copy {}", source.display()))?;
    }
    Ok(fs::metadata(target)?.blocks() * 512)
}
