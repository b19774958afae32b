//! The first process of the emulated host: mounts, loads modules, runs the one job, reports.
//!
//! It is this very program, started by the kernel from the initial RAM file system under the name
//! [`PATH`]. Whatever fails before the job starts is printed on the host's console.

mod job;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::system::{RebootCommand, reboot};

use super::payload::Payload;
use crate::arch::Arch;
use crate::artifacts::FLAVOURS;
use crate::kernel;

/// Where the program lies in the initial RAM file system, and how it knows its role.
pub(crate) const PATH: &str = "/host-init";

/// The directory of the initial RAM file system with the modules, named in the order of loading.
pub(crate) const MODULES: &str = "modules";

/// The name of the virtio-serial port that carries the frames.
pub(crate) const PORT: &str = "vmm.job";

/// Where the kernels and root filesystems of the cache appear.
pub(crate) const ARTIFACTS: &str = "/srv/vmm";

/// Where `vmm` keeps the images and containers of root.
const STORE: &str = "/var/lib/vmm";

/// Where programs of ours look for what was installed with them.
const INSTALLED: &str = "/usr/local/lib/vmm";

const ROOT_DISK: &str = "/dev/vda";
const JOB_DISK: &str = "/dev/vdb";
const ARTIFACTS_DISK: &str = "/dev/vdc";
const STORE_DISK: &str = "/dev/vdd";

/// How long a device may take to appear after its driver was loaded.
const DEVICE_DEADLINE: Duration = Duration::from_secs(30);

/// Whether this process was started as the first one of an emulated host.
pub(crate) fn is_our_role() -> bool {
    std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == PATH)
}

/// Runs the host's one job and powers off.
pub(crate) fn main() -> ! {
    if let Err(error) = run() {
        eprintln!("host: {error:#}");
    }
    power_off()
}

fn run() -> Result<()> {
    pseudo_filesystems(&[("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")])?;
    load_modules(&Path::new("/").join(MODULES))?;
    enter_root()?;
    settle_in()?;
    let disk = File::open(JOB_DISK).with_context(|| format!("open {JOB_DISK}"))?;
    let payload = Payload::unpack(disk, Path::new("/"))?;
    let port = open_port()?;
    job::run(&payload, port)
}

fn load_modules(directory: &Path) -> Result<()> {
    let list = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let mut paths = list.map(|item| Ok(item?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        rustix::system::finit_module(&file, c"", 0)
            .with_context(|| format!("load {}", path.display()))?;
    }
    Ok(())
}

/// Makes the root disk the root directory, as switch_root(8) does.
fn enter_root() -> Result<()> {
    const STAGING: &str = "/new-root";
    wait_for(Path::new(ROOT_DISK))?;
    fs::create_dir(STAGING)?;
    mount(ROOT_DISK, STAGING, "ext4", MountFlags::NOATIME, None)
        .with_context(|| format!("mount {ROOT_DISK}"))?;
    std::env::set_current_dir(STAGING)?;
    mount_move(".", "/").context("move the root file system")?;
    rustix::process::chroot(".").context("enter the root file system")?;
    Ok(std::env::set_current_dir("/")?)
}

fn settle_in() -> Result<()> {
    pseudo_filesystems(&[
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("cgroup2", "/sys/fs/cgroup"),
    ])?;
    fs::create_dir_all(ARTIFACTS)?;
    mount_if_present(ARTIFACTS_DISK, ARTIFACTS, MountFlags::RDONLY)?;
    mount_if_present(STORE_DISK, STORE, MountFlags::NOATIME)?;
    install_kernels()?;
    rustix::system::sethostname(b"vmm-host")?;
    let lo = std::process::Command::new("/sbin/ip").args(["link", "set", "lo", "up"]).status()?;
    if !lo.success() {
        bail!("cannot bring up the loopback interface: ip ended with {lo}");
    }
    Ok(())
}

/// Puts the kernels where a package would.
fn install_kernels() -> Result<()> {
    let image = kernel::image_name(Arch::native()?);
    for flavour in FLAVOURS {
        let built = Path::new(ARTIFACTS).join(format!("kernels/{flavour}/{image}"));
        if !built.exists() {
            continue;
        }
        fs::create_dir_all(INSTALLED)?;
        let place = Path::new(INSTALLED).join(format!("vmlinux-{flavour}"));
        match symlink(built, &place) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(e).with_context(|| format!("make {}", place.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn mount_if_present(disk: &str, target: &str, flags: MountFlags) -> Result<()> {
    if !Path::new(disk).exists() {
        return Ok(());
    }
    fs::create_dir_all(target)?;
    mount(disk, target, "ext4", flags, None).with_context(|| format!("mount {disk}"))
}

fn pseudo_filesystems(list: &[(&str, &str)]) -> Result<()> {
    for &(kind, target) in list {
        fs::create_dir_all(target).with_context(|| format!("create {target}"))?;
        match mount(kind, target, kind, MountFlags::NOSUID, None) {
            // The kernel may have mounted devtmpfs itself.
            Err(rustix::io::Errno::BUSY) | Ok(()) => {}
            Err(error) => return Err(error).with_context(|| format!("mount {target}")),
        }
    }
    Ok(())
}

/// Opens the port named [`PORT`]; there is no udev to make a link for it.
fn open_port() -> Result<File> {
    let deadline = Instant::now() + DEVICE_DEADLINE;
    let device = loop {
        match named_port()? {
            Some(device) => break device,
            None if Instant::now() > deadline => bail!("no virtio-serial port named {PORT}"),
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let opened = File::options().read(true).write(true).open(&device);
    opened.with_context(|| format!("open {}", device.display()))
}

fn named_port() -> Result<Option<PathBuf>> {
    let list = match fs::read_dir("/sys/class/virtio-ports") {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        list => list?,
    };
    for port in list {
        let port = port?;
        let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
        let device = Path::new("/dev").join(port.file_name());
        if name.trim_end() == PORT && device.exists() {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

fn wait_for(path: &Path) -> Result<()> {
    let deadline = Instant::now() + DEVICE_DEADLINE;
    while !path.exists() {
        if Instant::now() > deadline {
            bail!("{} did not appear", path.display());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn power_off() -> ! {
    let error = reboot(RebootCommand::PowerOff);
    eprintln!("host: cannot power off: {error:?}");
    loop {
        std::thread::park();
    }
}
