//! From the kernel's bare memory file system to a container that only lacks its first process.

use std::fs;
use std::io;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, unmount};
use rustix::process::{Resource, Rlimit, setrlimit};
use vmm_protocol::{Setup, Stamp};

use crate::cgroup::{self, Cgroup};
use crate::clock::stamp;
use crate::error::{Context, Failure};
use crate::network;

/// The container's root file system, until a process makes it its own.
pub(crate) const ROOT: &str = "/root";
/// Files that the container sees in `/etc`.
pub(crate) const FILES: &str = "/files";
const LOWER: &str = "/lower";
const UPPER: &str = "/upper";

/// Descriptors a process may have, as under docker.
const NOFILE: u64 = 1 << 20;

/// What the container is made of.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) setup: Setup,
    pub(crate) cgroup: Cgroup,
}

/// Gives the agent a root of its own, with the devices, and what it needs to look at the kernel.
///
/// The file system the kernel begins with is the root of all mounts: no process can leave it behind. So
/// the agent moves into another one, which a container can.
pub(crate) fn begin() -> Result<(), Failure> {
    let plain = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    fs::create_dir("/agent").context("make a root")?;
    mount("tmpfs", "/agent", "tmpfs", plain, c"mode=0755").context("mount a root")?;
    std::env::set_current_dir("/agent").context("enter the root")?;
    // The program goes on without its name: nothing can open it any more.
    let _ = fs::remove_file("/init");
    mount_move(".", "/").context("move the root")?;
    rustix::process::chroot(".").context("enter the root")?;
    for directory in ["/dev", "/proc", cgroup::MOUNT, LOWER, UPPER, ROOT, FILES] {
        fs::create_dir(directory).context(format!("make {directory}"))?;
    }
    let devices = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devtmpfs", "/dev", "devtmpfs", devices, None).context("mount devices")?;
    mount("proc", "/proc", "proc", plain, None).context("mount proc")?;
    mount("cgroup2", cgroup::MOUNT, "cgroup2", plain, c"nsdelegate")
        .context("mount control groups")?;
    // When memory is short, this is the last to go; what it starts is not.
    fs::write("/proc/self/oom_score_adj", "-1000").context("protect the agent")?;
    // What a program may reserve is no matter of the machine's size, which is close to the container's
    // limit: what it uses is, and that limit says what happens then.
    fs::write("/proc/sys/vm/overcommit_memory", "1").context("let memory be reserved")?;
    let limits =
        [(Resource::Nofile, Some(NOFILE)), (Resource::Nproc, None), (Resource::Core, None)];
    for (resource, limit) in limits {
        setrlimit(resource, Rlimit { current: limit, maximum: limit }).context("set limits")?;
    }
    Ok(())
}

/// Makes the container's root file system, control group, network and files.
pub(crate) fn container(setup: Setup, stamps: &mut Vec<Stamp>) -> Result<Container, Failure> {
    root(&setup)?;
    stamps.push(stamp("root"));
    let cgroup = Cgroup::create(&setup)?;
    stamps.push(stamp("cgroup"));
    network::configure(setup.network.as_ref())?;
    stamps.push(stamp("network"));
    // Its processes get names of their own, which begin as copies of these.
    rustix::system::sethostname(setup.hostname.as_bytes()).context("set the host name")?;
    let hostname = format!("{}\n", setup.hostname);
    for (name, content) in
        [("hosts", &setup.hosts), ("hostname", &hostname), ("resolv.conf", &setup.resolv_conf)]
    {
        fs::write(format!("{FILES}/{name}"), content).context(format!("write {name}"))?;
    }
    Ok(Container { setup, cgroup })
}

/// The image with a layer above it that takes what is written. A root that cannot be written has one
/// too: mount points that the image lacks are made in it.
fn root(setup: &Setup) -> Result<(), Failure> {
    let none = MountFlags::empty();
    let image = mount("/dev/vda", LOWER, "erofs", MountFlags::RDONLY | MountFlags::NODEV, None);
    image.context("mount the image")?;
    if setup.writable_disk && !setup.read_only_root {
        mount_writable().context("mount the writable layer")?;
    } else {
        mount("tmpfs", UPPER, "tmpfs", MountFlags::NODEV, c"mode=0755")
            .context("mount a writable layer")?;
    }
    for directory in ["upper", "work"] {
        make_directory(&format!("{UPPER}/{directory}")).context("prepare the writable layer")?;
    }
    let options = c"lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work";
    mount("overlay", ROOT, "overlay", none, options).context("mount the root file system")
}

/// Mounts the file system of the writable layer, without work in its background: its tables of inodes are
/// zeros already, and its bitmaps can wait until they are needed.
fn mount_writable() -> rustix::io::Result<()> {
    let options = [Some(c"noinit_itable,no_prefetch_block_bitmaps"), None];
    let mut result = Ok(());
    for options in options {
        result = mount("/dev/vdb", UPPER, "ext4", MountFlags::NODEV, options);
        // Kernels before 5.8 know only one of them.
        if result != Err(rustix::io::Errno::INVAL) {
            break;
        }
    }
    result
}

/// Makes a directory, unless it is there from an earlier run.
fn make_directory(path: &str) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Writes everything to the disks and gives them up.
pub(crate) fn end() {
    for mount in [ROOT, UPPER] {
        // What could not be unmounted is at least written.
        if unmount(mount, UnmountFlags::empty()).is_err() {
            rustix::fs::sync();
        }
    }
}
