//! Root filesystems of guests, from the recipes in `resources/rootfs/`.

use std::fs::{self, File, Permissions};
use std::io::BufWriter;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::archive::Cpio;
use crate::cache::{Cache, Key};
use crate::debian::{self, StockKernel};
use crate::{image, packages};

/// Room on the ext4 image, in MiB; the file is sparse.
const EXT4_MIB: u64 = 64;

/// Changes whenever the way the trees are assembled does.
const RECIPE: &str = "1";

/// A file of the tree: its path, its content, whether it can be run.
struct Recipe(&'static str, &'static str, bool);

const FILES: &[Recipe] = &[
    Recipe("etc/console", include_str!("../../../resources/rootfs/console"), true),
    Recipe("etc/group", "root:x:0:\n", false),
    Recipe("etc/hosts", "127.0.0.1 localhost guest\n", false),
    Recipe("etc/inittab", include_str!("../../../resources/rootfs/inittab"), false),
    Recipe("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", false),
    Recipe("etc/profile", include_str!("../../../resources/rootfs/profile"), false),
    Recipe("etc/rc", include_str!("../../../resources/rootfs/rc"), true),
    Recipe("usr/bin/visit", include_str!("../../../resources/rootfs/visit"), true),
];

const DIRECTORIES: &[&str] = &["dev", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin"];

/// The first process of the initial RAM file system for Debian's stock kernel.
const INITRD_INIT: &str = include_str!("../../../resources/rootfs/initrd-debian");

/// What Debian's stock kernel needs as modules in a guest, before its root file system is there.
const GUEST_MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "crc32c_generic",
    "ext4",
    "squashfs",
    "erofs",
    "overlay",
];

/// The BusyBox root file system, in both of its forms.
pub(crate) struct BusyBox {
    /// A writable ext4 image.
    pub(crate) ext4: PathBuf,
    /// The same files as an uncompressed initial RAM file system.
    pub(crate) cpio: PathBuf,
}

/// Debian's stock kernel with an initial RAM file system that loads its virtio drivers.
pub(crate) struct DebianGuest {
    /// The kernel as the package has it: a bzImage on x86_64, an Image on aarch64.
    pub(crate) vmlinuz: PathBuf,
    /// Modules and the BusyBox files; goes on to `/dev/vda` when there is such a disk.
    pub(crate) initrd: PathBuf,
    /// The kernel's configuration.
    pub(crate) config: PathBuf,
}

/// The BusyBox root file system, built when the cache has none of this recipe.
///
/// # Errors
/// apt or mke2fs fail, or the cache cannot be written.
pub(crate) fn busybox(cache: &Cache, arch: Arch) -> Result<BusyBox> {
    packages::ensure(image::PACKAGES)?;
    packages::ensure(packages::for_unprivileged_builds())?;
    let key = tree_key().with("size", EXT4_MIB.to_string());
    let entry = cache.entry(&arch.kind("rootfs-busybox"), &key, |entry| {
        let tree = entry.join("tree");
        assemble_tree(arch, &tree, &entry.join("package"))?;
        image::ext4(&tree, &entry.join("busybox.ext4"), EXT4_MIB)?;
        let mut cpio = cpio_with_console(&entry.join("busybox.cpio"))?;
        cpio.tree(&tree)?;
        // The kernel starts this name in an initial RAM file system, the other on a disk.
        cpio.file("init", 0o755, b"#!/bin/sh\nexec /sbin/init\n")?;
        cpio.finish()?;
        Ok(fs::remove_dir_all(&tree)?)
    })?;
    Ok(BusyBox { ext4: entry.join("busybox.ext4"), cpio: entry.join("busybox.cpio") })
}

/// Debian's stock kernel as a guest kernel, fetched and assembled when the cache has none.
///
/// # Errors
/// apt fails, or the cache cannot be written.
pub(crate) fn debian(cache: &Cache, arch: Arch) -> Result<DebianGuest> {
    packages::ensure(debian::PACKAGES)?;
    let kernel = StockKernel::ensure(cache, arch)?;
    let key = tree_key()
        .with("kernel", &kernel.package)
        .with("modules", GUEST_MODULES.join(" "))
        .with("init", INITRD_INIT);
    let entry = cache.entry(&arch.kind("rootfs-debian"), &key, |entry| {
        let tree = entry.join("tree");
        assemble_tree(arch, &tree, &entry.join("package"))?;
        let mut cpio = cpio_with_console(&entry.join("initrd"))?;
        cpio.tree(&tree)?;
        cpio.file("init", 0o755, INITRD_INIT.as_bytes())?;
        cpio.directory("modules")?;
        for (index, path) in kernel.load_order(GUEST_MODULES)?.iter().enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            cpio.file(&format!("modules/{index:03}-{name}"), 0o644, &content)?;
        }
        cpio.finish()?;
        Ok(fs::remove_dir_all(&tree)?)
    })?;
    let (vmlinuz, config) = (kernel.vmlinuz(), kernel.config());
    Ok(DebianGuest { vmlinuz, initrd: entry.join("initrd"), config })
}

fn tree_key() -> Key {
    let key = Key::new().with("recipe", RECIPE).with("directories", DIRECTORIES.join(" "));
    FILES.iter().fold(key, |key, Recipe(path, content, _)| key.with(path, content))
}

/// Fills the new directory `tree` with BusyBox and the files of the recipe.
fn assemble_tree(arch: Arch, tree: &Path, package: &Path) -> Result<()> {
    let (busybox, applets) = debian::busybox(arch, package)?;
    for directory in DIRECTORIES {
        fs::create_dir_all(tree.join(directory))?;
    }
    write_file(&tree.join("usr/bin/busybox"), &busybox, true)?;
    for directory in ["bin", "sbin", "usr/sbin"] {
        let target = if directory.contains('/') { "bin" } else { "usr/bin" };
        symlink(target, tree.join(directory))?;
    }
    for applet in applets.lines().filter(|name| *name != "busybox") {
        symlink("busybox", tree.join("usr/bin").join(applet))?;
    }
    for Recipe(path, content, runs) in FILES {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap_or(tree))?;
        write_file(&path, content.as_bytes(), *runs)?;
    }
    Ok(())
}

fn write_file(path: &Path, content: &[u8], runs: bool) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
    let mode = if runs { 0o755 } else { 0o644 };
    Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
}

/// A new archive with the one device the kernel wants before anything is mounted.
fn cpio_with_console(path: &Path) -> Result<Cpio<BufWriter<File>>> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut cpio = Cpio::new(BufWriter::new(file));
    cpio.directory("dev")?;
    cpio.character_device("dev/console", 5, 1)?;
    Ok(cpio)
}
