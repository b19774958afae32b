//! No container at all: a process of this host whose root is the image's.

// UNSAFETY: what a new process does before it becomes its program is a closure that runs after a fork.
#![expect(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{chdir, chroot, geteuid};
use rustix::thread::{Gid, Uid, set_thread_gid, set_thread_groups, set_thread_uid};

use super::{Absent, Arm, Instance, Setting};
use crate::launch::Finished;
use crate::timeline::{Phase, Stamps};
use crate::workload::Workload;

struct Process {
    workload: Workload,
    rootfs: CString,
    cwd: CString,
}

/// A plain process.
pub(super) fn open(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    if !geteuid().is_root() {
        return Err(Absent("only root may change a process's root directory".to_owned()));
    }
    let workload = setting.workload.clone();
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|error| Absent(error.to_string()));
    let rootfs = text(workload.rootfs.as_os_str().as_bytes())?;
    let cwd = text(workload.cwd.as_bytes())?;
    Ok(Box::new(Process { workload, rootfs, cwd }))
}

impl Arm for Process {
    fn version(&self) -> String {
        "fork, chroot, exec".to_owned()
    }

    fn prepared(&self) -> Vec<String> {
        vec![]
    }

    fn command(&self, _: &Instance) -> Command {
        let Workload { args, env, user, .. } = &self.workload;
        let mut words = args.iter();
        let mut command = Command::new(words.next().map_or("", String::as_str));
        command.args(words).env_clear();
        command.envs(env.iter().filter_map(|variable| variable.split_once('=')));
        let (rootfs, cwd) = (self.rootfs.clone(), self.cwd.clone());
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        let enter = move || -> io::Result<()> {
            chroot(&*rootfs)?;
            chdir(&*cwd)?;
            set_thread_groups(&[])?;
            set_thread_gid(gid)?;
            Ok(set_thread_uid(uid)?)
        };
        // SAFETY: between fork and exec it makes system calls on what was made before; it allocates nothing and
        // takes no lock. The new process has one thread, whose identity is its own.
        unsafe { command.pre_exec(enter) };
        command
    }

    fn stamps(&self, finished: &Finished) -> Stamps {
        let mut stamps = Stamps::default();
        stamps.put(Phase::Exec, finished.spawned);
        stamps.put(Phase::Run, finished.ended);
        stamps
    }

    fn clean(&self, _: &Instance) {}
}
