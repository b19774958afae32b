//! Containers on disk: a directory for each, a lock that says whether it lives, and what is left to do
//! when its keeper died.
//!
//! ```text
//! DATA/containers/lock        held while names are given out
//! DATA/containers/ID/lock     held by the keeper: whoever gets it knows that there is none; its text is the name
//! DATA/containers/ID/spec     what was asked for, written once
//! DATA/containers/ID/status   what became of it, replaced as a whole
//! DATA/containers/ID/cgroup   control group, noted before it is made
//! DATA/containers/ID/...      writable layer, log, messages of the monitor
//! RUNTIME/SHORT-ID/           sockets
//! ```
//!
//! No process number is trusted to find anybody: it may be another's by now.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::io::Errno;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::cgroup;
use super::clock::Timestamp;
use super::paths::make_private;
use super::{ContainerError, Id, Paths, Spec};

mod find;

/// Largest file of ours that is read back.
const MAX_RECORD: u64 = 4 << 20;

const SPEC: &str = "spec.json";
const STATUS: &str = "status.json";
const LOCK: &str = "lock";
const GROUP: &str = "cgroup.json";

/// What became of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Status {
    /// Its machine is being started.
    Created,
    /// Its first process runs.
    Running {
        /// Since when.
        started: Timestamp,
        /// The keeper, to tell people; nothing is sent to it.
        keeper: u32,
    },
    /// It has ended.
    Exited {
        /// When its first process began, if it did.
        started: Option<Timestamp>,
        /// When it ended, or was found to have ended.
        finished: Timestamp,
        /// Exit status, docker's conventions.
        code: u8,
        /// Whether its memory limit ended it.
        oom: bool,
        /// Why it did not run, or did not end by itself.
        error: Option<String>,
    },
}

impl From<OwnedFd> for Lock {
    /// A lock that another process held and has handed over.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// One container.
#[derive(Debug, Clone)]
pub struct Container {
    directory: PathBuf,
    runtime: PathBuf,
    spec: Spec,
}

/// Says, as long as it is held, that a container has somebody who looks after it. It may be handed to
/// a child process by leaving the descriptor open.
#[derive(Debug)]
pub struct Lock(OwnedFd);

impl Lock {
    /// The descriptor, for a child to inherit.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Says whose lock it is, for those who look for somebody. Where that cannot be written, they look closer.
    fn write(&self, text: &str) {
        let _ = rustix::io::write(&self.0, text.as_bytes());
    }

    /// The lock `file`, unless somebody has it.
    fn take(file: &Path) -> Result<Option<Self>, ContainerError> {
        let lock = Self::open(file, OFlags::empty())?;
        match flock(&lock.0, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => lock.if_there(file).map(Some),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(source) => Err(ContainerError::Lock { path: file.to_owned(), source }),
        }
    }

    /// The lock `file`, made if it is not there, when nobody has it any more.
    pub(super) fn wait(file: &Path) -> Result<Self, ContainerError> {
        Self::open(file, OFlags::CREATE)?.when_free(file)
    }

    /// The lock `file`, which is there, when nobody has it any more.
    fn wait_if_there(file: &Path) -> Result<Self, ContainerError> {
        Self::open(file, OFlags::empty())?.when_free(file)?.if_there(file)
    }

    fn when_free(self, file: &Path) -> Result<Self, ContainerError> {
        loop {
            match flock(&self.0, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(self),
                Err(Errno::INTR) => {}
                Err(source) => {
                    return Err(ContainerError::Lock { path: file.to_owned(), source });
                }
            }
        }
    }

    /// Whoever had it before may have removed it with its container.
    fn if_there(self, file: &Path) -> Result<Self, ContainerError> {
        let failed = |source| ContainerError::Lock { path: file.to_owned(), source };
        match fstat(&self.0).map_err(failed)?.st_nlink {
            0 => Err(failed(Errno::NOENT)),
            _ => Ok(self),
        }
    }

    fn open(file: &Path, how: OFlags) -> Result<Self, ContainerError> {
        let flags = how | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        open(file, flags, Mode::RUSR | Mode::WUSR)
            .map(Self)
            .map_err(|source| ContainerError::Lock { path: file.to_owned(), source })
    }
}

/// Whether the lock that could not be had is gone, and its container with it.
fn is_gone(error: &ContainerError) -> bool {
    matches!(error, ContainerError::Lock { source: Errno::NOENT, .. })
}

impl Container {
    /// What was asked for.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// A file of the container.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A socket of the container.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.runtime.join(name)
    }

    /// The directory of its sockets.
    pub fn sockets(&self) -> &Path {
        &self.runtime
    }

    /// What became of it. Where a power cut took the answer, it counts as just created.
    ///
    /// # Errors
    /// The host cannot say.
    pub fn status(&self) -> Result<Status, ContainerError> {
        Ok(read_json(&self.file(STATUS))?.unwrap_or(Status::Created))
    }

    /// Says what became of it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_status(&self, status: &Status) -> Result<(), ContainerError> {
        write_json(&self.directory, STATUS, status)
    }

    /// Its lock, if nobody has it: then nobody looks after the container.
    ///
    /// # Errors
    /// The lock cannot be opened.
    pub fn try_lock(&self) -> Result<Option<Lock>, ContainerError> {
        Lock::take(&self.file(LOCK))
    }

    /// Waits until nobody looks after the container any more; `None` when its keeper has removed it.
    ///
    /// # Errors
    /// The lock cannot be opened.
    pub fn wait_for_keeper(&self) -> Result<Option<Lock>, ContainerError> {
        match Lock::wait_if_there(&self.file(LOCK)) {
            Err(error) if is_gone(&error) => Ok(None),
            lock => lock.map(Some),
        }
    }

    /// Notes a control group before it is made, so that whoever comes after a dead keeper removes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn note_group(&self, group: &Path) -> Result<(), ContainerError> {
        write_json(&self.directory, GROUP, &group)
    }

    /// Removes the control group, if one was noted.
    fn remove_group(&self) -> Result<(), ContainerError> {
        let Some(group) = read_json::<PathBuf>(&self.file(GROUP))? else { return Ok(()) };
        cgroup::remove(&group).map_err(|e| ContainerError::file(&group, e))
    }

    /// Bytes of the disk that it takes.
    ///
    /// # Errors
    /// The host cannot say.
    pub fn size(&self) -> Result<u64, ContainerError> {
        let failed = |e| ContainerError::file(&self.directory, e);
        let entries = fs::read_dir(&self.directory).map_err(failed)?;
        let blocks = entries.map(|entry| Ok(entry?.metadata()?.blocks()));
        let blocks: io::Result<u64> = blocks.sum();
        Ok(blocks.map_err(failed)?.saturating_mul(512))
    }

    /// Removes everything of it. `_lock` shows that nobody looks after it.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn remove(&self, _lock: &Lock) -> Result<(), ContainerError> {
        self.remove_running_parts()?;
        // Without its specification it is no container any more, whatever interrupts the rest.
        match fs::remove_file(self.file(SPEC)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(ContainerError::file(&self.file(SPEC), e))
            }
            _ => remove_directory(&self.directory),
        }
    }

    /// Removes what only a running container has.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn remove_running_parts(&self) -> Result<(), ContainerError> {
        self.remove_group()?;
        remove_tree(&self.runtime)
    }
}

/// The containers of one user.
#[derive(Debug)]
pub struct Containers {
    paths: Paths,
}

impl Containers {
    /// The containers below `paths`; makes the directories.
    ///
    /// # Errors
    /// A directory cannot be made.
    pub fn open(paths: Paths) -> Result<Self, ContainerError> {
        make_private(&paths.containers())?;
        make_private(&paths.runtime)?;
        Ok(Self { paths })
    }

    /// The directories.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Makes a container that has nothing but its specification, locked for the caller.
    ///
    /// # Errors
    /// Its name is another's; or a file cannot be made, in which case nothing is left.
    pub fn create(&self, spec: Spec) -> Result<(Container, Lock), ContainerError> {
        let _names = self.lock_names()?;
        for other in self.entries()?.into_iter().filter(|other| other.spec.name == spec.name) {
            // One that was to be removed has its name no longer than its keeper lives.
            if self.reconcile(&other)?.is_some() {
                return Err(ContainerError::NameTaken {
                    name: spec.name.as_str().to_owned(),
                    id: other.spec.id.short().to_owned(),
                });
            }
        }
        let container = self.container(spec);
        make_private(&container.directory)?;
        let made = self.fill(&container);
        if made.is_err() {
            // What stopped the making may stop the removal; then the next command tries again.
            let _: Result<_, _> = remove_tree(&container.runtime);
            let _: Result<_, _> = remove_directory(&container.directory);
        }
        Ok((container, made?))
    }

    fn fill(&self, container: &Container) -> Result<Lock, ContainerError> {
        let lock = Lock::wait(&container.file(LOCK))?;
        lock.write(container.spec.name.as_str());
        make_private(&container.runtime)?;
        write_json(&container.directory, SPEC, &container.spec)?;
        Ok(lock)
    }

    /// Every container, oldest first, after what dead keepers left has been dealt with.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<(Container, Status)>, ContainerError> {
        self.remove_halves()?;
        let mut found = vec![];
        for container in self.entries()? {
            if let Some(status) = self.reconcile(&container)? {
                found.push((container, status));
            }
        }
        found.sort_by_key(|(container, _)| container.spec.created);
        Ok(found)
    }

    /// The container with this whole identifier, as it is.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, id: &str) -> Result<Container, ContainerError> {
        let no_such = || ContainerError::NoSuch(id.to_owned());
        let id = Id::try_from(id.to_owned()).map_err(|_| no_such())?;
        self.entry(&id)?.ok_or_else(no_such)
    }

    /// Finds out whether a container still has a keeper, and if not, does what the keeper would have
    /// done at the end. `None` when nothing of it is left.
    fn reconcile(&self, container: &Container) -> Result<Option<Status>, ContainerError> {
        let lock = container.try_lock();
        let status = container.status()?;
        // Whoever removes a container begins with this: what was read before is what it said.
        if !container.file(SPEC).exists() {
            return Ok(None);
        }
        let lock = match lock {
            Ok(Some(lock)) => lock,
            Ok(None) => return Ok(Some(status)),
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if container.spec.auto_remove && container.remove(&lock).is_ok() {
            return Ok(None);
        }
        let started = match status {
            Status::Exited { .. } => {
                // What holds on to them is no reason to know nothing of the container, or of others: the
                // next command tries again, and its removal says why it fails.
                let _: Result<_, _> = container.remove_running_parts();
                return Ok(Some(status));
            }
            Status::Running { started, .. } => Some(started),
            Status::Created => None,
        };
        let status = Status::Exited {
            started,
            finished: Timestamp::now(),
            code: 255,
            oom: false,
            error: Some("its keeper was killed, and the machine with it".to_owned()),
        };
        container.set_status(&status)?;
        let _: Result<_, _> = container.remove_running_parts();
        Ok(Some(status))
    }

    /// Every directory that has a readable specification of its own.
    fn entries(&self) -> Result<Vec<Container>, ContainerError> {
        let mut found = vec![];
        for id in self.directories()? {
            found.extend(self.entry(&id)?);
        }
        Ok(found)
    }

    fn entry(&self, id: &Id) -> Result<Option<Container>, ContainerError> {
        let spec = read_json::<Spec>(&self.directory(id).join(SPEC))?;
        Ok(spec.filter(|spec| spec.id == *id).map(|spec| self.container(spec)))
    }

    /// Removes directories whose making or removal was interrupted, also by a power cut: nobody was told
    /// of such a container.
    fn remove_halves(&self) -> Result<(), ContainerError> {
        let _names = self.lock_names()?;
        for id in self.directories()? {
            let directory = self.directory(&id);
            // What another version of this program has written is JSON as well.
            if read_json::<IgnoredAny>(&directory.join(SPEC))?.is_some() {
                continue;
            }
            let _lock = match Lock::take(&directory.join(LOCK)) {
                Ok(Some(lock)) => Some(lock),
                Ok(None) => continue,
                // It is the first to be made and the last to be removed.
                Err(error) if is_gone(&error) => None,
                Err(error) => return Err(error),
            };
            remove_tree(&self.runtime(&id))?;
            remove_directory(&directory)?;
        }
        Ok(())
    }

    fn directories(&self) -> Result<Vec<Id>, ContainerError> {
        let path = self.paths.containers();
        let failed = |e| ContainerError::file(&path, e);
        let mut ids = vec![];
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().into_string();
            ids.extend(name.ok().and_then(|name| Id::try_from(name).ok()));
        }
        Ok(ids)
    }

    fn container(&self, spec: Spec) -> Container {
        Container { directory: self.directory(&spec.id), runtime: self.runtime(&spec.id), spec }
    }

    fn directory(&self, id: &Id) -> PathBuf {
        self.paths.containers().join(id.as_str())
    }

    fn runtime(&self, id: &Id) -> PathBuf {
        self.paths.runtime.join(id.short())
    }

    fn lock_names(&self) -> Result<Lock, ContainerError> {
        Lock::wait(&self.paths.containers().join(LOCK))
    }
}

/// Removes a tree of our own; none of its names is a guest's.
fn remove_tree(path: &Path) -> Result<(), ContainerError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ContainerError::file(path, e)),
        _ => Ok(()),
    }
}

/// Removes the directory of a container. The lock goes last: as long as there is one, whoever has it is
/// the only one at work here.
fn remove_directory(path: &Path) -> Result<(), ContainerError> {
    let removed = |result: io::Result<()>| match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ContainerError::file(path, e)),
        _ => Ok(()),
    };
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| ContainerError::file(path, e))?,
    };
    for entry in entries {
        let entry = entry.map_err(|e| ContainerError::file(path, e))?;
        if entry.file_name() != LOCK {
            removed(fs::remove_file(entry.path()))?;
        }
    }
    removed(fs::remove_file(path.join(LOCK)))?;
    removed(fs::remove_dir(path))
}

/// What is in the file, if there is one and it is whole. One that cannot be read may be whole.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ContainerError> {
    let mut text = vec![];
    let read = File::open(path).and_then(|file| file.take(MAX_RECORD).read_to_end(&mut text));
    match read {
        Ok(_) => Ok(serde_json::from_slice(&text).ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ContainerError::file(path, e)),
    }
}

/// Puts `value` into the file `name` of `directory`, or leaves what was there.
fn write_json(directory: &Path, name: &str, value: &impl Serialize) -> Result<(), ContainerError> {
    let (path, new) = (directory.join(name), directory.join(format!("{name}.new")));
    let text = serde_json::to_vec(value).map_err(io::Error::from);
    let write = |text: Vec<u8>| {
        File::create(&new)?.write_all(&text)?;
        fs::rename(&new, &path)
    };
    text.and_then(write).map_err(|e| ContainerError::file(&path, e))
}

#[cfg(test)]
mod tests;
