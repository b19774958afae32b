//! Copies between host and container: a tar stream of a path, out or in.
//!
//! Each runs in a process of its own, which may wait. It sees the container's mounts and nothing else,
//! and opens every path below the container's root by openat2(2), so that links of the container lead
//! nowhere else, neither to what proc shows of this process.

mod files;

use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::process::{DumpableBehavior, chdir, chroot, set_dumpable_behavior};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use vmm_protocol::{Kind, Refusal, Reply, Request};
use vmm_sandbox::process::{self, Forked};

use crate::error::{Context, Failure};
use crate::link::{Link, do_wait};
use crate::setup::ROOT;

/// Bytes beyond the first credit that may be on their way into the container: what waits for its disk.
const AHEAD: u32 = 1 << 20;

/// Starts a process that does what `request` says and ends the session; `first` is the container's first
/// process, if it runs.
pub(crate) fn start(
    link: &mut Link,
    request: &Request,
    first: Option<BorrowedFd<'_>>,
) -> Result<(), Failure> {
    match process::fork(0, None).context("make a process")? {
        Forked::Parent(_) => Ok(()),
        Forked::Child => {
            if let Err(Failure { kind, what }) = run(link, request, first) {
                link.say(&Reply::Refused { kind, what });
            }
            link.flush();
            std::process::exit(0)
        }
    }
}

fn run(link: &mut Link, request: &Request, first: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
    let mut kept = vec![link.interest().0.as_raw_fd()];
    kept.extend(first.as_ref().map(AsRawFd::as_raw_fd));
    process::close_from(3, &mut kept);
    // The container must not look into this process. It can fail only for other values than this.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    do_wait(&*link).context("wait for the host")?;
    match first {
        Some(first) => move_into_thread_name_spaces(first, ThreadNameSpaceType::MOUNT),
        None => chroot(ROOT).and_then(|()| chdir("/")),
    }
    .context("enter the container")?;
    match request {
        Request::Stat { path, follow } => {
            link.say(&Reply::Found(files::stat(path, *follow)?));
        }
        Request::CopyOut { path, follow } => {
            link.say(&Reply::Found(files::stat(path, *follow)?));
            files::send(path, *follow, &mut Outgoing { link })?;
            link.say(&Reply::Copied);
        }
        Request::CopyIn { directory } => {
            link.say(&Reply::Credit(AHEAD));
            link.flush();
            files::receive(directory, &mut Incoming::new(link))?;
            link.say(&Reply::Copied);
        }
        _ => return Err(Failure::new(Refusal::Other, "no copy")),
    }
    Ok(())
}

/// Bytes to the host.
struct Outgoing<'a> {
    link: &'a mut Link,
}

impl io::Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.link.pass(Kind::Stdout, bytes);
        self.link.flush();
        if self.link.is_broken() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes of the host, until it says that there are no more.
struct Incoming<'a> {
    link: &'a mut Link,
    /// What has come and was not read.
    bytes: Vec<u8>,
    read: usize,
    ended: bool,
}

impl<'a> Incoming<'a> {
    fn new(link: &'a mut Link) -> Self {
        Self { link, bytes: Vec::new(), read: 0, ended: false }
    }

    /// Waits for the next bytes, and gives credit for as many: the host sends them while these are used.
    fn refill(&mut self) -> io::Result<()> {
        self.bytes.clear();
        self.read = 0;
        while self.bytes.is_empty() && !self.ended {
            if let Some(frame) = self.link.next() {
                match frame.kind {
                    Kind::Stdin => self.bytes.extend_from_slice(frame.payload),
                    Kind::Message if matches!(frame.message(), Ok(Request::StdinEof)) => {
                        self.ended = true;
                    }
                    _ => self.link.give_up(),
                }
            } else if self.link.is_broken() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            } else {
                self.link.receive();
            }
        }
        if !self.bytes.is_empty() {
            self.link.say(&Reply::Credit(u32::try_from(self.bytes.len()).unwrap_or(0)));
            self.link.flush();
        }
        Ok(())
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.read >= self.bytes.len() {
            self.refill()?;
        }
        let mut rest = self.bytes.get(self.read..).unwrap_or_default();
        let len = rest.read(room)?;
        self.read = self.read.saturating_add(len);
        Ok(len)
    }
}
