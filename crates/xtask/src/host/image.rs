//! The parts an emulated host boots from, each built once and cached.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::init;
use crate::arch::Arch;
use crate::archive::Cpio;
use crate::cache::{Cache, Key};
use crate::debian::{self, StockKernel};
use crate::workspace::{self, Profile};
use crate::{command, image, packages};

/// Packages building and running an emulated host of `arch` needs.
pub(crate) fn packages_for(arch: Arch) -> Vec<&'static str> {
    vec!["apt", "dpkg", "kmod", "e2fsprogs", "mmdebstrap", qemu_package(arch), "util-linux"]
}

/// The package of the QEMU that emulates `arch` here, and runs guests of it there.
fn qemu_package(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "qemu-system-x86",
        Arch::Aarch64 => "qemu-system-arm",
    }
}

/// What an emulated host offers beyond Debian's smallest installation and QEMU.
const INSIDE: &[&str] = &[
    "crun",
    "curl",
    "docker-registry",
    "e2fsprogs",
    "erofs-utils",
    "ethtool",
    "fio",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "kmod",
    "passt",
    "procps",
    "qemu-utils",
    "runc",
    "strace",
    "umoci",
];

/// Loaded at boot, with all they need: first the way to the root disk, then the host's trade. KVM is a
/// module on x86_64 only.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "crc32c_generic",
    "ext4",
    "tun",
    "vhost_net",
    "vhost_vsock",
    "loop",
    "overlay",
];

/// Room on the root disk, in MiB. The file is sparse, and runs never write to it.
const DISK_MIB: u64 = 8192;

/// Changes whenever the way the parts are built does.
const RECIPE: &str = "1";

/// The parts of an emulated host.
pub(crate) struct Parts {
    pub(crate) kernel: PathBuf,
    /// Without a name: it holds the program that is running now.
    pub(crate) initrd: File,
    pub(crate) disk: PathBuf,
}

/// Builds what is missing and returns the parts.
///
/// # Errors
/// apt, mmdebstrap or mke2fs fail, or the cache cannot be written.
pub(crate) fn ensure(cache: &Cache, arch: Arch) -> Result<Parts> {
    packages::ensure(&packages_for(arch))?;
    packages::ensure(packages::for_unprivileged_builds())?;
    let kernel = StockKernel::ensure(cache, arch)?;
    Ok(Parts {
        initrd: initrd(cache, arch, &kernel)?,
        disk: disk(cache, arch, &kernel)?,
        kernel: kernel.vmlinuz(),
    })
}

/// The part of the initial RAM file system that seldom changes: the modules.
fn modules(cache: &Cache, arch: Arch, kernel: &StockKernel) -> Result<PathBuf> {
    let kvm: &[&str] = if arch == Arch::X86_64 { &["kvm_amd"] } else { &[] };
    let modules = [MODULES, kvm].concat();
    let key = Key::new()
        .with("kernel", &kernel.package)
        .with("modules", modules.join(" "))
        .with("recipe", RECIPE);
    let build = |entry: &Path| {
        let file = File::create(entry.join("modules.cpio"))?;
        let mut cpio = Cpio::new(BufWriter::new(file));
        cpio.directory("dev")?;
        cpio.character_device("dev/console", 5, 1)?;
        cpio.directory(init::MODULES)?;
        for (index, path) in kernel.load_order(&modules)?.iter().enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            cpio.file(&format!("{}/{index:03}-{name}", init::MODULES), 0o644, &content)?;
        }
        cpio.finish()?;
        Ok(())
    };
    Ok(cache.entry(&arch.kind("host-modules"), &key, build)?.join("modules.cpio"))
}

/// The initial RAM file system: the modules, and this very program behind them.
fn initrd(cache: &Cache, arch: Arch, kernel: &StockKernel) -> Result<File> {
    let modules = modules(cache, arch, kernel)?;
    // By this link the program is there even when a build has replaced its file since.
    let mut program = PathBuf::from("/proc/self/exe");
    if !arch.is_native() {
        program = workspace::build_program(arch, Profile::Dev, "xtask", "xtask")?.path;
    }
    let program = fs::read(&program).with_context(|| format!("read {}", program.display()))?;
    let mut initrd = cache.unnamed_file()?;
    let mut modules =
        File::open(&modules).with_context(|| format!("open {}", modules.display()))?;
    io::copy(&mut modules, &mut initrd).context("assemble the initial RAM file system")?;
    let mut cpio = Cpio::new(BufWriter::new(&initrd));
    cpio.file(init::PATH.trim_start_matches('/'), 0o755, &program)?;
    cpio.finish()?;
    Ok(initrd)
}

/// The root disk: a Debian installation with the kernel's modules.
fn disk(cache: &Cache, arch: Arch, kernel: &StockKernel) -> Result<PathBuf> {
    let mut packages = [INSIDE, &[qemu_package(arch)]].concat();
    packages.sort_unstable();
    let mut key = Key::new()
        .with("kernel", &kernel.package)
        .with("suite", debian::SUITE)
        .with("packages", packages.join(" "))
        .with("size", DISK_MIB.to_string())
        .with("recipe", RECIPE);
    if !arch.is_native() {
        key = key.with("unpacked", debian::unpacked_key());
    }
    let build = |entry: &Path| {
        eprintln!("host: building the root disk of the {arch} host (about a minute, once)");
        let archive = entry.join("root.tar");
        let mut install = debian::installation(arch, &packages);
        command::run(install.args(["--format=tar", debian::SUITE]).arg(&archive))?;
        let tree = entry.join("root");
        fs::create_dir(&tree)?;
        // One program under one fakeroot, so that owners and modes reach the image.
        let mut assemble = image::owned_by_root("sh");
        assemble.args(["-euc", ASSEMBLE, "assemble"]);
        assemble.args([&archive, &tree, kernel.root(), &entry.join("host.ext4")]);
        assemble.arg(format!("{DISK_MIB}M")).env("PATH", image::path_with_sbin());
        command::run(&mut assemble)?;
        fs::remove_dir_all(&tree)?;
        Ok(fs::remove_file(&archive)?)
    };
    Ok(cache.entry(&arch.kind("host-disk"), &key, build)?.join("host.ext4"))
}

/// Unpacks the installation `$1` into `$2`, adds the modules of `$3`, makes the image `$4` of `$5`.
const ASSEMBLE: &str = r#"
tar --extract --preserve-permissions --numeric-owner --file "$1" --directory "$2"
cp --recursive --no-preserve=ownership "$3/lib/modules" "$2/usr/lib/"
printf '127.0.0.1 localhost vmm-host\n' >"$2/etc/hosts"
mke2fs -q -F -t ext4 -m 0 -b 4096 -E root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0 \
  -d "$2" "$4" "$5"
"#;
