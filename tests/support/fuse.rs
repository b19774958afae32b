//! A disk image that misbehaves: the one file of a FUSE file system whose server is the test.
//!
//! The file system is mounted in a namespace of the monitor's own, which needs no privilege and
//! vanishes with it. Structures and numbers: include/uapi/linux/fuse.h of Linux, version 7.31.

use std::ffi::OsString;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tempfile::TempDir;

use super::vmm::{Running, Vmm};

/// The descriptor the file system is mounted on, in the monitor.
const MOUNTED: i32 = 9;
const MOUNT: &str = "exec 9<>/dev/fuse && \
    mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0,max_read=131072 fuse \"$1\" && \
    shift && exec \"$@\"";

/// The same, with a read-only overlay over it: a file system of the kernel that the server can make
/// wait. Its name comes second.
const MOUNT_BELOW: &str = "exec 9<>/dev/fuse && \
    mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0,max_read=131072 fuse \"$1\" && \
    mount -t overlay -o \"lowerdir=$1:$2\" overlay \"$2\" && shift 2 && exec \"$@\"";

const ROOT: u64 = 1;
const FILE: u64 = 2;
const MAX_TRANSFER: u32 = 128 << 10;

/// What goes wrong. Offsets are bytes of the image.
#[derive(Clone, Default)]
pub struct Faults {
    /// Reads of this range are not answered until [`Fuse::release`].
    pub hang: Option<Range<u64>>,
    /// Transfers that touch this range fail.
    pub bad: Option<(Range<u64>, Errno)>,
    /// So many transfers from now on fail.
    pub fail_next: Option<(u32, Errno)>,
    /// So many syncs from now on fail.
    pub fail_syncs: u32,
    /// A transfer moves no more than this.
    pub short: Option<usize>,
    /// Whether every access comes here. Otherwise reads go through the page cache.
    pub uncached: bool,
}

/// What the server knows.
pub struct State {
    pub image: Vec<u8>,
    pub faults: Faults,
    /// Reads that hang, by their numbers.
    hanging: Vec<(u64, Range<usize>)>,
    /// Syncs so far.
    pub syncs: u32,
    /// The image as it was at the last sync: what a power cut leaves.
    pub durable: Vec<u8>,
}

/// The file system.
pub struct Fuse {
    directory: TempDir,
    overlay: Option<TempDir>,
    state: Arc<Mutex<State>>,
    device: OnceLock<Arc<OwnedFd>>,
}

impl Fuse {
    /// A file system whose file holds `image`.
    pub fn new(image: Vec<u8>, faults: Faults) -> Self {
        let state = State { image, faults, hanging: vec![], syncs: 0, durable: vec![] };
        let state = Arc::new(Mutex::new(state));
        Self {
            directory: tempfile::tempdir().unwrap(),
            overlay: None,
            state,
            device: OnceLock::new(),
        }
    }

    /// Hides it below an overlay, in which the file is read-only.
    pub fn below_overlay(self) -> Self {
        Self { overlay: Some(tempfile::tempdir().unwrap()), ..self }
    }

    /// Where the file will be.
    pub fn path(&self) -> PathBuf {
        self.overlay.as_ref().unwrap_or(&self.directory).path().join("disk")
    }

    /// The monitor with the file system in its namespace.
    pub fn around(&self, vmm: Vmm) -> Vmm {
        let unshare = ["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c"];
        let mount = if self.overlay.is_some() { MOUNT_BELOW } else { MOUNT };
        let directories = [Some(&self.directory), self.overlay.as_ref()].into_iter().flatten();
        let words = unshare.into_iter().chain([mount, "sh"]).map(OsString::from);
        vmm.by(words.chain(directories.map(|directory| directory.path().as_os_str().to_owned())))
    }

    /// Starts `vmm` and serves it.
    pub fn spawn(&self, vmm: Vmm) -> Running {
        let running = self.around(vmm).spawn();
        let (device, state) = (Arc::new(take_device(running.pid())), self.state.clone());
        self.device.set(device.clone()).unwrap();
        spawn(move || serve(&device, &state));
        running
    }

    /// Looks at the server's state, or changes it.
    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// Waits until `count` reads hang.
    #[track_caller]
    pub fn wait_for_hanging(&self, count: usize) {
        let asked = Instant::now();
        while self.with(|state| state.hanging.len()) < count {
            assert!(asked.elapsed() < Duration::from_secs(10), "no read hangs");
            sleep(Duration::from_millis(1));
        }
    }
}

impl Fuse {
    /// Answers the reads that hang, with what was asked for; from now on none hangs.
    pub fn release(&self) {
        let device = self.device.get().unwrap();
        self.with(|state| {
            state.faults.hang = None;
            for (unique, range) in std::mem::take(&mut state.hanging) {
                let bytes = state.image[range].to_vec();
                // It fails when the reader is gone.
                let _ = rustix::io::write(device, &frame(unique, &Ok(bytes)));
            }
        });
    }
}

/// Gets the descriptor that process `pid` mounts the file system on.
fn take_device(pid: u32) -> OwnedFd {
    let process = Pid::from_raw(pid as i32).unwrap();
    let process = pidfd_open(process, PidfdFlags::empty()).unwrap();
    let link = format!("/proc/{pid}/fd/{MOUNTED}");
    for _ in 0..20_000 {
        if std::fs::read_link(&link).is_ok_and(|target| target == Path::new("/dev/fuse")) {
            return pidfd_getfd(&process, MOUNTED, PidfdGetfdFlags::empty()).unwrap();
        }
        sleep(Duration::from_millis(1));
    }
    panic!("the file system was not mounted");
}

fn serve(device: &OwnedFd, state: &Mutex<State>) {
    let mut buffer = vec![0; MAX_TRANSFER as usize + 4096];
    loop {
        match rustix::io::read(device, &mut buffer) {
            Ok(len) => {
                let request = Request::parse(&buffer[..len]);
                if let Some(reply) = request.answer(&mut state.lock().unwrap()) {
                    // It fails when the asker was interrupted meanwhile.
                    let _ = rustix::io::write(device, &frame(request.unique, &reply));
                }
            }
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => {}
            // Not mounted yet.
            Err(Errno::PERM) => sleep(Duration::from_millis(1)),
            Err(_) => return,
        }
    }
}

type Reply = Result<Vec<u8>, Errno>;

fn frame(unique: u64, reply: &Reply) -> Vec<u8> {
    let (body, error) = match reply {
        Ok(body) => (body.as_slice(), 0),
        Err(errno) => (&[][..], -errno.raw_os_error()),
    };
    let len = 16 + body.len() as u32;
    [&len.to_le_bytes()[..], &error.to_le_bytes(), &unique.to_le_bytes(), body].concat()
}

struct Request<'b> {
    kind: u32,
    unique: u64,
    node: u64,
    body: &'b [u8],
}

impl<'b> Request<'b> {
    fn parse(bytes: &'b [u8]) -> Self {
        let (header, body) = bytes.split_at(40);
        let header = Request { kind: 0, unique: 0, node: 0, body: header };
        Self { kind: header.u32(4), unique: header.u64(8), node: header.u64(16), body }
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.body[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.body[at..at + 8].try_into().unwrap())
    }

    /// `None`: no answer, for now or for ever.
    fn answer(&self, state: &mut State) -> Option<Reply> {
        let size = state.image.len() as u64;
        Some(match self.kind {
            // FORGET, INTERRUPT, BATCH_FORGET
            2 | 36 | 42 => return None,
            // LOOKUP
            1 if self.body == b"disk\0" => {
                let words = [FILE, 0, 0, 0, 0].map(u64::to_le_bytes).concat();
                Ok([words, attributes(FILE, size)].concat())
            }
            1 => Err(Errno::NOENT),
            // GETATTR, SETATTR
            3 => Ok([vec![0; 16], attributes(self.node, size)].concat()),
            4 => {
                const SIZE: u32 = 8;
                if self.u32(0) & SIZE != 0 {
                    state.image.resize(self.u64(16) as usize, 0);
                }
                Ok([vec![0; 16], attributes(self.node, state.image.len() as u64)].concat())
            }
            // OPEN; OPENDIR
            14 => Ok([0, u64::from(state.faults.uncached)].map(u64::to_le_bytes).concat()),
            27 => Ok(vec![0; 16]),
            15 => return self.read(state),
            16 => self.write(state),
            // STATFS
            17 => Ok(vec![0; 80]),
            // RELEASE, RELEASEDIR, DESTROY, ACCESS
            18 | 29 | 38 | 34 => Ok(vec![]),
            20 => sync(state),
            26 => Ok(initial()),
            _ => Err(Errno::NOSYS),
        })
    }

    fn transfer(&self, state: &mut State) -> Result<Range<usize>, Errno> {
        let (start, len) = (self.u64(8), u64::from(self.u32(16)));
        if let Some((left @ 1.., errno)) = &mut state.faults.fail_next {
            *left -= 1;
            return Err(*errno);
        }
        match &state.faults.bad {
            Some((bad, errno)) if start < bad.end && bad.start < start + len => Err(*errno),
            _ => {
                let len = state.faults.short.unwrap_or(usize::MAX).min(len as usize);
                Ok(start as usize..start as usize + len)
            }
        }
    }

    fn read(&self, state: &mut State) -> Option<Reply> {
        let start = self.u64(8);
        if state.faults.hang.as_ref().is_some_and(|hang| hang.contains(&start)) {
            let end = (start + u64::from(self.u32(16))).min(state.image.len() as u64);
            state.hanging.push((self.unique, start as usize..end as usize));
            return None;
        }
        Some(self.transfer(state).map(|range| {
            let size = state.image.len();
            state.image[range.start.min(size)..range.end.min(size)].to_vec()
        }))
    }

    fn write(&self, state: &mut State) -> Reply {
        let range = self.transfer(state)?;
        let len = range.len();
        if state.image.len() < range.end {
            state.image.resize(range.end, 0);
        }
        state.image[range].copy_from_slice(&self.body[40..40 + len]);
        Ok((len as u64).to_le_bytes().to_vec())
    }
}

fn sync(state: &mut State) -> Reply {
    state.syncs += 1;
    match state.faults.fail_syncs.checked_sub(1) {
        None => {
            state.durable.clone_from(&state.image);
            Ok(vec![])
        }
        Some(left) => {
            state.faults.fail_syncs = left;
            Err(Errno::IO)
        }
    }
}

/// struct fuse_init_out: the page cache may read asynchronously, and writes may be large.
fn initial() -> Vec<u8> {
    const ASYNC_READ: u32 = 1;
    const BIG_WRITES: u32 = 1 << 5;
    let words = [7, 31, MAX_TRANSFER, ASYNC_READ | BIG_WRITES, 12 | 9 << 16, MAX_TRANSFER, 1];
    let mut bytes = words.map(u32::to_le_bytes).concat();
    bytes.resize(64, 0);
    bytes
}

/// struct fuse_attr.
fn attributes(node: u64, size: u64) -> Vec<u8> {
    let (mode, size): (u32, u64) = if node == ROOT { (0o40755, 0) } else { (0o100_666, size) };
    let words = [node, size, size.div_ceil(512), 0, 0, 0].map(u64::to_le_bytes).concat();
    let halves = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].map(u32::to_le_bytes).concat();
    [words, halves].concat()
}
