//! The process that becomes the container's program: what it does from clone3 to exec.
//!
//! It is a copy of one thread of a process that may have more, so nothing here takes memory: all words were
//! made by [`Plan::new`], and faults are told from where they stand.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, mkdir, open};
use rustix::io::{Errno, write};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change,
    mount_remount, move_mount, open_tree,
};
use rustix::process::{
    Signal, chdir, getegid, geteuid, set_parent_process_death_signal, setsid, umask,
};
use rustix::system::sethostname;
use rustix::thread::{
    CapabilitySet, Gid, Uid, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};
use vmm_sandbox::filter::{self, Filters};
use vmm_sandbox::mounts::{self, Nodes};
use vmm_sandbox::process::{self, Words};
use vmm_sandbox::{capabilities, network};

use super::report::{Fault, Stamps, await_allowed};
use super::{ContainerError, Writes, group};
use crate::workload::User;

/// The namespaces that clone3 makes. That of control groups is made later, that of users perhaps.
pub(super) const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// All that the process needs, in memory.
pub(super) struct Plan {
    pub(super) root: CString,
    pub(super) writes: Writes,
    pub(super) map_users: bool,
    pub(super) hostname: Vec<u8>,
    pub(super) user: User,
    pub(super) cwd: CString,
    /// Lists of processes of control groups of version 1.
    pub(super) join: Vec<OwnedFd>,
    /// Lines of the maps of users and groups.
    maps: [String; 2],
    capabilities: CapabilitySet,
    filters: Filters,
    /// Where the program may be.
    candidates: Vec<CString>,
    args: Words,
    env: Words,
}

impl Plan {
    pub(super) fn new(
        candidates: Vec<CString>,
        args: Vec<CString>,
        env: Vec<CString>,
    ) -> Result<Self, ContainerError> {
        let filters = filter::docker()
            .map_err(|error| ContainerError::step("compile the filter", io::Error::other(error)))?;
        Ok(Self {
            root: CString::default(),
            writes: Writes::default(),
            map_users: false,
            hostname: vec![],
            user: User::default(),
            cwd: CString::default(),
            join: vec![],
            // Root inside is the one who asks, the only one who may be mapped without further rights.
            maps: [geteuid().as_raw(), getegid().as_raw()].map(|id| format!("0 {id} 1\n")),
            capabilities: capabilities::docker(),
            filters,
            candidates,
            args: Words::new(args),
            env: Words::new(env),
        })
    }
}

/// Says what was tried when it failed.
trait Try<T> {
    fn to(self, what: &'static str) -> Result<T, Fault<&'static [u8]>>;
}

impl<T, E: Into<io::Error>> Try<T> for Result<T, E> {
    fn to(self, what: &'static str) -> Result<T, Fault<&'static [u8]>> {
        self.map_err(|error| {
            let errno = error.into().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
            Fault { what: what.as_bytes(), errno, exec: false }
        })
    }
}

/// Becomes the program, or says through `socket` why not and ends.
pub(super) fn run(plan: &Plan, socket: &OwnedFd) -> ! {
    // Whatever else is open here would hide the runtime's end from the guard and from this process, and is not
    // the program's to have.
    let mut kept = [socket.as_raw_fd(); 1 + group::MOST_LISTS];
    for (place, list) in kept.iter_mut().zip(&plan.join) {
        *place = list.as_raw_fd();
    }
    kept[group::MOST_LISTS] = socket.as_raw_fd();
    process::close_from(3, &mut kept);
    let mut stamps = Stamps::default();
    match surround(plan, &mut stamps) {
        // Without anybody outside there is nothing to be run for.
        Ok(()) if stamps.tell(socket).and_then(|()| await_allowed(socket)).is_ok() => {
            exec(plan).tell(socket);
        }
        Ok(()) => {}
        Err(fault) => fault.tell(socket),
    }
    process::end(255)
}

fn surround(plan: &Plan, stamps: &mut Stamps) -> Result<(), Fault<&'static [u8]>> {
    namespaces(plan)?;
    stamps.put();
    let nodes =
        if plan.map_users { Nodes::of_host().to("find the host's devices")? } else { Nodes::Make };
    root(plan)?;
    stamps.put();
    files(plan, &nodes)?;
    network::loopback_up().to("bring loopback up")?;
    stamps.put();
    rights(plan)?;
    stamps.put();
    Ok(())
}

/// The rest of what it is a member of.
fn namespaces(plan: &Plan) -> Result<(), Fault<&'static [u8]>> {
    // The guard ends a container with control groups also if it has undone this, or become another user.
    set_parent_process_death_signal(Some(Signal::KILL)).to("end with the runtime")?;
    for list in &plan.join {
        // Zero is whoever writes it.
        write(list, b"0").to("enter a control group")?;
    }
    if plan.map_users {
        // Nobody may take groups off who could be kept out by them.
        for (path, line) in [
            ("/proc/self/setgroups", "deny"),
            ("/proc/self/uid_map", &plan.maps[0]),
            ("/proc/self/gid_map", &plan.maps[1]),
        ] {
            let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            file.and_then(|file| write(&file, line.as_bytes())).to("map users")?;
        }
    }
    process::new_cgroup_namespace().to("make a control group namespace")?;
    sethostname(&plan.hostname).to("set the host name")?;
    setsid().to("begin a session")?;
    Ok(())
}

/// The image becomes the root of everything: itself, or below a layer in memory.
fn root(plan: &Plan) -> Result<(), Fault<&'static [u8]>> {
    umask(Mode::from_bits_retain(0o022));
    // No mount made here reaches the host, nor the other way round.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .to("detach from the host's mounts")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let image = open_tree(CWD, &*plan.root, flags).to("open the root file system")?;
    let place =
        |target| move_mount(&image, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
    if plan.writes != Writes::Memory {
        place(&*plan.root).to("mount the root file system")?;
        return mounts::enter_root(&*plan.root).to("enter the root file system");
    }
    // In front of the image is a place that is certain to exist. All names below it are our own.
    mount("tmpfs", &*plan.root, "tmpfs", MountFlags::NODEV, c"mode=755")
        .to("mount a layer in memory")?;
    chdir(&*plan.root).to("enter the layer in memory")?;
    for name in ["image", "upper", "work", "root"] {
        mkdir(name, Mode::from_bits_retain(0o755)).to("prepare the layer in memory")?;
    }
    place(c"image").to("mount the root file system")?;
    let options = if plan.map_users {
        c"lowerdir=image,upperdir=upper,workdir=work,userxattr"
    } else {
        c"lowerdir=image,upperdir=upper,workdir=work"
    };
    mount("overlay", "root", "overlay", MountFlags::empty(), options).to("mount the overlay")?;
    mounts::enter_root("root").to("enter the root file system")
}

/// What the kernel shows of itself, less what would tell or change too much.
fn files(plan: &Plan, nodes: &Nodes) -> Result<(), Fault<&'static [u8]>> {
    for kernel in mounts::KERNEL {
        kernel.mount().to(kernel.target)?;
    }
    mounts::leave_host().to("leave the host's root")?;
    mounts::devices(nodes).to("make /dev")?;
    mounts::shared_memory(mounts::SHM).to("mount /dev/shm")?;
    mounts::sysctls();
    for path in mounts::READ_ONLY {
        mounts::read_only(path).to(path)?;
    }
    for path in mounts::MASKED {
        mounts::mask(path).to(path)?;
    }
    // As under docker it is made if it is missing; entering it says why it cannot be.
    let _ = mkdir(&*plan.cwd, Mode::from_bits_retain(0o755));
    chdir(&*plan.cwd).to("enter the working directory")?;
    if plan.writes == Writes::Nowhere {
        mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, c"")
            .to("make the root file system read-only")?;
    }
    Ok(())
}

/// From here on it can do no more than the program will.
fn rights(plan: &Plan) -> Result<(), Fault<&'static [u8]>> {
    capabilities::bound(plan.capabilities).to("bound capabilities")?;
    if !plan.map_users {
        set_thread_groups(&[]).to("leave all groups")?;
    }
    let (uid, gid) = (Uid::from_raw(plan.user.uid), Gid::from_raw(plan.user.gid));
    set_thread_res_gid(gid, gid, gid).to("become the group")?;
    // Leaves capabilities to root alone.
    set_thread_res_uid(uid, uid, uid).to("become the user")?;
    if uid.is_root() {
        capabilities::limit(plan.capabilities).to("limit capabilities")?;
    }
    set_no_new_privs(true).to("renounce privileges")?;
    process::reset_signals(1..=process::LAST_SIGNAL);
    // What is left to be called is allowed.
    plan.filters.install().to("filter system calls")
}

/// Tries all places where the program may be; returns why none of them has one.
fn exec(plan: &Plan) -> Fault<&[u8]> {
    let mut fault = Fault { what: &b"exec"[..], errno: Errno::NOENT, exec: true };
    for path in &plan.candidates {
        let Err(error) = process::exec(path, &plan.args, &plan.env);
        let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        // A file that cannot be run is the reason, though it may still be found elsewhere.
        if fault.errno == Errno::NOENT {
            fault = Fault { what: path.to_bytes(), errno, exec: true };
        }
    }
    fault
}
