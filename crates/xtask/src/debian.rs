//! What comes from Debian without being installed here: its stock cloud kernel, the files of packages,
//! whole installations.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::cache::{Cache, Key};
use crate::{command, image, packages};

/// Packages [`StockKernel::ensure`] needs.
pub(crate) const PACKAGES: &[&str] = &["apt", "dpkg", "kmod"];

/// The release that installations are made of.
pub(crate) const SUITE: &str = "bookworm";

/// Changes whenever the way the kernel is unpacked does.
const RECIPE: &str = "2";

/// Debian's stock cloud kernel, with all of its modules.
#[derive(Clone, Debug)]
pub(crate) struct StockKernel {
    directory: PathBuf,
    /// The kernel's release, as `uname -r` prints it.
    release: String,
    /// The package it came in, with its version: what is made from the kernel depends on it.
    pub(crate) package: String,
}

impl StockKernel {
    /// The stock kernel for `arch`, fetched through apt when the cache has none.
    ///
    /// # Errors
    /// apt does not offer or deliver the package.
    pub(crate) fn ensure(cache: &Cache, arch: Arch) -> Result<Self> {
        let meta = format!("linux-image-cloud-{}", arch.debian());
        let key = Key::new().with("package", &meta).with("recipe", RECIPE);
        let kind = arch.kind("debian-kernel");
        let directory = cache.entry(&kind, &key, |entry| fetch(&arch.package(&meta), entry))?;
        let release = only_entry(&directory.join("lib/modules"))?;
        let package = fs::read_to_string(directory.join("package"))?;
        Ok(Self { directory, release, package })
    }

    /// The kernel as the package has it: a bzImage on x86_64, an Image on aarch64.
    pub(crate) fn vmlinuz(&self) -> PathBuf {
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

fn fetch(meta_package: &str, entry: &Path) -> Result<()> {
    let package = kernel_behind(meta_package)?;
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
    packages::offer(package)?;
    let mut fetch = Command::new("apt-get");
    fetch.args(["download", "--quiet", package]).current_dir(into);
    command::run(&mut fetch)?;
    let name = only_entry(into)?;
    let archive = into.join(&name);
    command::run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(into))?;
    fs::remove_file(&archive)?;
    Ok(name)
}

/// Debian's static BusyBox for `arch`, and the names of its applets in lines.
///
/// # Errors
/// apt does not offer or deliver it.
pub(crate) fn busybox(arch: Arch, scratch: &Path) -> Result<(Vec<u8>, String)> {
    let program = scratch.join("bin/busybox");
    unpack("busybox-static", scratch)?;
    let applets = command::stdout(Command::new(&program).arg("--list"))?;
    if !arch.is_native() {
        // It is built alike, but cannot be asked here for its applets.
        fs::remove_dir_all(scratch)?;
        unpack(&arch.package("busybox-static"), scratch)?;
    }
    let program = fs::read(program).context("take busybox from its package")?;
    fs::remove_dir_all(scratch)?;
    Ok((program, String::from_utf8(applets)?))
}

/// What makes up Debian's smallest installation: what it calls essential, and apt.
const SMALLEST: [&str; 2] = ["?essential", "apt"];

/// Run outside an installation `$1` that was unpacked and not configured: makes the accounts and the name of
/// the search path's awk, which scripts of packages would have made.
const ACCOUNTS: &str = r#"
for name in passwd group; do
    cp "$1/usr/share/base-passwd/$name.master" "$1/etc/$name"
done
ln -sf mawk "$1/usr/bin/awk"
"#;

/// Where mmdebstrap keeps the hooks that make `/bin` a link to `/usr/bin` before packages come.
const MERGED_USR: &str = "/usr/share/mmdebstrap/hooks/merged-usr";

/// `mmdebstrap` for Debian's smallest installation of `arch` and `packages`, without documentation; its
/// target is still to be named.
///
/// On a machine of another architecture it is unpacked and not configured: no package's script can run.
pub(crate) fn installation(arch: Arch, packages: &[&str]) -> Command {
    if arch.is_native() {
        let mut install = mmdebstrap("minbase");
        if !packages.is_empty() {
            install.arg(format!("--include={}", packages.join(",")));
        }
        return install;
    }
    let mut install = mmdebstrap("extract");
    install.arg(format!("--architectures={}", arch.debian()));
    install.args(SMALLEST.iter().chain(packages).map(|package| format!("--include={package}")));
    install.arg(format!("--hook-dir={MERGED_USR}"));
    install.arg(last_hook(arch, ACCOUNTS));
    install
}

/// The argument with which mmdebstrap runs `script` when all packages of an [`installation`] are there.
pub(crate) fn last_hook(arch: Arch, script: &str) -> String {
    let step = if arch.is_native() { "customize" } else { "extract" };
    format!("--{step}-hook={script}")
}

/// What changes when an [`installation`] of another architecture is made in another way.
pub(crate) fn unpacked_key() -> String {
    format!("{SMALLEST:?} {MERGED_USR} {}", last_hook(Arch::Aarch64, ACCOUNTS))
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

/// The versioned kernel package that `meta_package` depends on.
fn kernel_behind(meta_package: &str) -> Result<String> {
    packages::offer(meta_package)?;
    let mut show = Command::new("apt-cache");
    let printed = command::stdout(show.args(["depends", "--important", meta_package]))?;
    let printed = String::from_utf8_lossy(&printed);
    let mut names = printed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let name = names.find(|name| name.starts_with("linux-image-"));
    Ok(name.with_context(|| format!("apt knows no kernel behind {meta_package}"))?.to_owned())
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
