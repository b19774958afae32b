//! When a program in the unpacked root file system begins and ends, whoever starts it: its file is opened to be
//! executed, and closed when its last process is gone. Both are told by inotify(7), whose watch is on the file
//! itself, so that namespaces and runtimes make no difference.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;

use crate::clock::Moment;

/// Bytes of notices that are read at once.
const BUFFER: usize = 4096;

/// A watch on one program.
pub struct Watch {
    notices: OwnedFd,
}

/// What was noticed about a program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Noticed {
    /// It was first opened.
    pub opened: Option<Moment>,
    /// It was last closed.
    pub closed: Option<Moment>,
}

impl Watch {
    /// A watch on the program `name`, which is looked for in `rootfs` as a process would whose root that is, on the
    /// path in `env`. Nothing where it is not found or cannot be watched.
    pub fn on(rootfs: &Path, name: &str, env: &[String]) -> Option<Self> {
        let program = find(rootfs, name, env)?;
        let notices = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        let path = format!("/proc/self/fd/{}", program.as_raw_fd());
        add_watch(&notices, path, WatchFlags::OPEN | WatchFlags::CLOSE_NOWRITE).ok()?;
        Some(Self { notices })
    }

    /// Notes what has happened until now, as of now.
    pub(crate) fn take(&self, noticed: &mut Noticed) {
        let now = Moment::now();
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut notices = Reader::new(&self.notices, &mut buffer);
        loop {
            match notices.next() {
                Ok(notice) if notice.events().contains(ReadFlags::OPEN) => {
                    noticed.opened.get_or_insert(now);
                }
                Ok(_) => noticed.closed = Some(now),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Forgets what has happened until now.
    pub(crate) fn forget(&self) {
        self.take(&mut Noticed::default());
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notices.as_fd()
    }
}

/// The file of a program, without opening it.
fn find(rootfs: &Path, name: &str, env: &[String]) -> Option<OwnedFd> {
    let root = open(rootfs, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let file = |path: String| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
        let found = fstat(&file).ok()?;
        let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        is_file.then_some(file)
    };
    if name.contains('/') {
        return file(name.to_owned());
    }
    let path = env.iter().find_map(|variable| variable.strip_prefix("PATH="))?;
    path.split(':').find_map(|directory| file(format!("{directory}/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    #[test]
    fn program_is_noticed_when_it_begins_and_when_it_ends() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("bin")).unwrap();
        fs::copy("/bin/sleep", root.path().join("bin/real")).unwrap();
        std::os::unix::fs::symlink("/bin/real", root.path().join("bin/sleep")).unwrap();
        let env = ["PATH=/sbin:/bin".to_owned()];
        let watch = Watch::on(root.path(), "sleep", &env).unwrap();
        let mut noticed = Noticed::default();
        watch.take(&mut noticed);
        assert_eq!(noticed, Noticed::default());
        let mut child = Command::new(root.path().join("bin/real")).arg("0.2").spawn().unwrap();
        watch.take(&mut noticed);
        assert!(noticed.opened.is_some() && noticed.closed.is_none(), "{noticed:?}");
        child.wait().unwrap();
        watch.take(&mut noticed);
        assert!(noticed.closed > noticed.opened, "{noticed:?}");
        assert!(Watch::on(root.path(), "nosuch", &env).is_none());
        assert!(Watch::on(root.path(), "/bin", &env).is_none());
    }
}
