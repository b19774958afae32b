//! What comes from Debian without being installed here: its stock cloud kernel, the files of packages,
//! whole installations.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key};
use crate::{command, image, packages};

/// Packages [`StockKernel::ensure`] needs.
pub(crate) const PACKAGES: &[&str] = &["apt", "dpkg", "kmod"];

/// The release that installations are made of.
pub(crate) const SUITE: &str = "bookworm";

const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Changes whenever the way the kernel is unpacked does.
const RECIPE: &str = "2";

/// Debian's stock cloud kernel for x86_64, with all of its modules.
#[derive(Clone, Debug)]
pub(crate) struct StockKernel {
    directory: PathBuf,
    /// The kernel's release, as `uname -r` prints it.
    release: String,
    /// The package it came in, with its version: what is made from the kernel depends on it.
    pub(crate) package: String,
}

impl StockKernel {
    /// The stock kernel, fetched through apt when the cache has none.
    ///
    /// # Errors
    /// apt does not offer or deliver the package.
    pub(crate) fn ensure(cache: &Cache) -> Result<Self> {
        let key = Key::new().with("package", META_PACKAGE).with("recipe", RECIPE);
        let directory = cache.entry("debian-kernel", &key, fetch)?;
        let release = only_entry(&directory.join("lib/modules"))?;
        let package = fs::read_to_string(directory.join("package"))?;
        Ok(Self { directory, release, package })
    }

    /// The bzImage.
    pub(crate) fn bzimage(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The configuration it was built with.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.join("config")
    }

    /// The directory that holds `lib/modules`, with the dependency tables of depmod.
    pub(crate) fn root(&self) -> &Path {
        &self.directory
    }

    /// The files of `modules` and of all they need, each after what it needs.
    ///
    /// Modules built into the kernel have no file and are left out.
    ///
    /// # Errors
    /// The kernel has no such module.
    pub(crate) fn load_order(&self, modules: &[&str]) -> Result<Vec<PathBuf>> {
        let base = self.directory.join("lib/modules").join(&self.release);
        let read = |name: &str| {
            let path = base.join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let paths = load_order(&read("modules.dep")?, &read("modules.builtin")?, modules)?;
        Ok(paths.into_iter().map(|path| base.join(path)).collect())
    }
}

fn fetch(entry: &Path) -> Result<()> {
    let package = dependency_of_meta_package()?;
    eprintln!("kernel: fetching {package} (Debian's stock kernel, not installed on this machine)");
    let unpacked = entry.join("unpacked");
    fs::write(entry.join("package"), unpack(&package, &unpacked)?)?;
    let boot = unpacked.join("boot");
    let release = only_entry(&unpacked.join("lib/modules"))?;
    fs::rename(boot.join(format!("vmlinuz-{release}")), entry.join("vmlinuz"))?;
    fs::rename(boot.join(format!("config-{release}")), entry.join("config"))?;
    fs::rename(unpacked.join("lib"), entry.join("lib"))?;
    fs::remove_dir_all(&unpacked)?;
    let mut depmod = Command::new("depmod");
    depmod.arg("--basedir").arg(entry).arg(&release).env("PATH", image::path_with_sbin());
    command::run(&mut depmod)
}

/// Fetches a Debian package through apt and unpacks its files into the new directory `into`;
/// returns the name of the package's file, which tells its version.
///
/// # Errors
/// apt does not offer or deliver it.
pub(crate) fn unpack(package: &str, into: &Path) -> Result<String> {
    fs::create_dir(into).with_context(|| format!("create {}", into.display()))?;
    packages::refresh_lists_for(package)?;
    let mut fetch = Command::new("apt-get");
    fetch.args(["download", "--quiet", package]).current_dir(into);
    command::run(&mut fetch)?;
    let name = only_entry(into)?;
    let archive = into.join(&name);
    command::run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(into))?;
    fs::remove_file(&archive)?;
    Ok(name)
}

/// `mmdebstrap` for an installation without documentation; its target is still to be named.
pub(crate) fn mmdebstrap(variant: &str) -> Command {
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", &format!("--variant={variant}")]);
    for path in ["doc", "man", "locale", "info"] {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
    }
    mmdebstrap
}

/// The versioned kernel package behind the meta package.
fn dependency_of_meta_package() -> Result<String> {
    packages::refresh_lists_for(META_PACKAGE)?;
    let mut show = Command::new("apt-cache");
    let printed = command::stdout(show.args(["depends", "--important", META_PACKAGE]))?;
    let printed = String::from_utf8_lossy(&printed);
    let mut names = printed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let name = names.find(|name| name.starts_with("linux-image-"));
    Ok(name.with_context(|| format!("apt knows no kernel behind {META_PACKAGE}"))?.to_owned())
}

fn only_entry(directory: &Path) -> Result<String> {
    let mut names = fs::read_dir(directory)
        .with_context(|| format!("list {}", directory.display()))?
        .map(|item| Ok(item?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    match (names.pop(), names.is_empty()) {
        (Some(name), true) => Ok(name),
        _ => bail!("{} should hold exactly one entry", directory.display()),
    }
}

/// Resolves `modules` by the tables depmod(8) and the kernel's build write.
fn load_order(dependencies: &str, builtin: &str, modules: &[&str]) -> Result<Vec<String>> {
    let mut order: Vec<String> = vec![];
    for module in modules {
        if builtin.lines().any(|path| module_name(path) == *module) {
            continue;
        }
        let line = dependencies.lines().filter_map(|line| line.split_once(':'));
        let mut found = line.filter(|(path, _)| module_name(path) == *module);
        let (path, needs) = found.next().with_context(|| format!("no kernel module {module}"))?;
        // depmod lists the direct needs first, so loading goes from the last to the first.
        for path in needs.split_whitespace().rev().chain([path]) {
            if !order.iter().any(|known| known == path) {
                order.push(path.to_owned());
            }
        }
    }
    Ok(order)
}

/// The name of the module in the file `path`; the kernel takes `-` and `_` for the same.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/virtio.ko: kernel/ring.ko\n\
        kernel/ring.ko:\n\
        kernel/net/virtio_net.ko: kernel/net/net-failover.ko kernel/failover.ko kernel/virtio.ko kernel/ring.ko\n";

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let order = load_order(DEPENDENCIES, "", &["virtio", "virtio_net"]).unwrap();
        let names: Vec<_> = order.iter().map(|path| module_name(path)).collect();
        assert_eq!(names, ["ring", "virtio", "failover", "net_failover", "virtio_net"]);
    }

    #[test]
    fn builtin_modules_have_nothing_to_load() {
        let order = load_order(DEPENDENCIES, "kernel/fs/ext4.ko\n", &["ext4"]).unwrap();
        assert!(order.is_empty());
    }

    #[test]
    fn unknown_module_is_an_error_that_names_it() {
        let error = load_order(DEPENDENCIES, "", &["nonesuch"]).unwrap_err();
        assert!(error.to_string().contains("nonesuch"));
    }
}
