//! The devices under test, each with a request that works: what is done to one is done to all.

use std::io::Write;
use std::path::PathBuf;

use tempfile::{NamedTempFile, TempDir};

use super::driver::{Device, Outcome, State, place};
use super::machine::RAM;
use super::ring::{Desc, Ring, chained};
use super::script::Script;
use super::vmm::{MEMORY, Vmm};

/// Guest memory the tests use: the queue, then buffers for its requests.
pub const RING: u64 = RAM + 0x40_0000;
pub const BUFFER: u64 = RAM + 0x50_0000;
/// Room for whatever a case needs besides.
pub const SPARE: u64 = RAM + 0x80_0000;
/// The first address behind it.
pub const TOP: u64 = RAM + MEMORY;

/// Length of the disk, in bytes.
pub const DISK: u64 = 1 << 20;
/// Every byte of the disk, to begin with.
pub const FILLING: u8 = 0x5a;

/// A device, and a request to it that works.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    pub name: &'static str,
    pub device: Device,
    /// The queue that takes the request.
    pub queue: u32,
    /// Number of queues.
    pub queues: u32,
    pub device_type: u64,
    /// Most entries of the queue.
    pub queue_size: u16,
    /// Bytes the device writes to the buffers of the request.
    pub writes: u32,
    pub request: fn() -> Vec<Desc>,
}

pub const BLOCK: Subject = Subject {
    name: "block",
    device: Device::nth(0),
    queue: 0,
    queues: 1,
    device_type: 2,
    queue_size: 256,
    writes: 513,
    request: || {
        vec![
            Desc::readable(BUFFER, 16),
            Desc::writable(BUFFER + 0x1000, 512),
            Desc::writable(BUFFER + 0x2000, 1),
        ]
    },
};

pub const NET: Subject = Subject {
    name: "net",
    device: Device::nth(1),
    queue: 1,
    queues: 2,
    device_type: 1,
    queue_size: 256,
    writes: 0,
    request: || vec![Desc::readable(BUFFER, 12), Desc::readable(BUFFER + 0x1000, 60)],
};

pub const RNG: Subject = Subject {
    name: "rng",
    device: Device::nth(2),
    queue: 0,
    queues: 1,
    device_type: 4,
    queue_size: 64,
    writes: 64,
    request: || vec![Desc::writable(BUFFER, 64)],
};

pub const VSOCK: Subject = Subject {
    name: "vsock",
    device: Device::nth(3),
    queue: 1,
    queues: 3,
    device_type: 19,
    queue_size: 256,
    writes: 0,
    request: || vec![Desc::readable(BUFFER, 44)],
};

/// Takes pages out of the balloon, which a guest may say of any.
pub const BALLOON: Subject = Subject {
    name: "balloon",
    device: Device::nth(4),
    queue: 1,
    queues: 4,
    device_type: 5,
    queue_size: 64,
    writes: 0,
    request: || vec![Desc::readable(BUFFER, 64)],
};

/// The first port of a console device, which is unused where the serial port is the console.
pub const CONSOLE: Subject = Subject {
    name: "console",
    device: Device::nth(5),
    queue: 1,
    queues: 6,
    device_type: 3,
    queue_size: 64,
    writes: 0,
    request: || vec![Desc::readable(BUFFER, 60)],
};

/// Every device, in the order of the machine of [`Everything`].
pub const SUBJECTS: [Subject; 6] = [BLOCK, NET, RNG, VSOCK, BALLOON, CONSOLE];

impl Subject {
    /// The request that works, as a chain from descriptor 0 on. Its buffers want zeros.
    pub fn request(&self) -> Vec<Desc> {
        chained(&(self.request)())
    }

    /// A descriptor that points the way the device wants it, with `len` bytes at `addr`.
    pub fn buffer(&self, addr: u64, len: u32) -> Desc {
        match self.name {
            "rng" => Desc::writable(addr, len),
            _ => Desc::readable(addr, len),
        }
    }

    /// Brings the device to work on `ring`.
    pub fn start(&self, script: &mut Script, features: u64, ring: &Ring) {
        self.device.start(script, features, (self.queue, ring));
    }

    pub fn kick(&self, script: &mut Script) {
        self.device.kick(script, self.queue);
    }

    /// Resets the device, brings it to work and has it serve the request that works (O6).
    pub fn works(&self, script: &mut Script) -> Works {
        let ring = Ring::at(RING, 8);
        for at in [0, 0x1000, 0x2000] {
            script.fill(BUFFER + at, 64, 0);
        }
        place(script, &ring.contents().descriptors(0, &self.request()).available(&[0]));
        self.start(script, 0, &ring);
        self.kick(script);
        Works { subject: *self, outcome: self.device.settle(script, &ring, 1) }
    }
}

/// Whether a device works.
#[derive(Clone, Debug)]
pub struct Works {
    subject: Subject,
    outcome: Outcome,
}

impl Works {
    /// Panics unless it does.
    #[track_caller]
    pub fn expect(&self, output: &[u8], after: &str) {
        let state = self.outcome.state(output);
        let what = format!("{} after {after}", self.subject.name);
        state.expect_returned(1, &what);
        let State { used_head, used_len, .. } = state;
        assert_eq!((used_head, used_len), (0, self.subject.writes), "{what}");
    }
}

/// A machine with every device, and what it needs of the host.
pub struct Everything {
    pub disk: NamedTempFile,
    sockets: TempDir,
}

impl Everything {
    pub fn new() -> Self {
        let mut disk = NamedTempFile::new().unwrap();
        disk.write_all(&vec![FILLING; DISK as usize]).unwrap();
        Self { disk, sockets: TempDir::new().unwrap() }
    }

    /// The path of the socket device's socket.
    pub fn socket(&self) -> PathBuf {
        self.sockets.path().join("vsock")
    }

    /// The machine, which performs `script`, in a network namespace of its own.
    pub fn vmm(&self, script: &[u8]) -> Vmm {
        let vmm = Vmm::evil(script).disk(self.disk.path(), "").in_own_network();
        let vmm = vmm.args(["--net", "tap=vmm0,mac=02:00:00:00:00:02"]);
        let vsock = format!("cid=3,socket={}", self.socket().display());
        let port = format!("name=port,socket={}", self.sockets.path().join("port").display());
        let vmm = vmm.args(["--balloon", "statistics=1s", "--port", &port]);
        vmm.arg("--vsock").arg(vsock)
    }
}

/// Performs what `build` adds for every device, checks that every device works afterwards, and
/// gives `check` what `build` made and the output.
pub fn on_every_device<T>(
    build: impl FnMut(&Subject, &mut Script) -> T,
    check: impl Fn(&Subject, T, &[u8]),
) {
    on_every_device_with_memory("32M", build, check);
}

/// The same on a machine with more memory.
pub fn on_every_device_with_memory<T>(
    memory: &'static str,
    mut build: impl FnMut(&Subject, &mut Script) -> T,
    check: impl Fn(&Subject, T, &[u8]),
) {
    let mut script = Script::new();
    let mut cases: Vec<(Subject, T, Works)> = Vec::new();
    for subject in SUBJECTS {
        let case = build(&subject, &mut script);
        cases.push((subject, case, subject.works(&mut script)));
        // The next one has its queue in the same memory: a kick that is still on its way must not serve that.
        subject.device.reset(&mut script);
    }
    let everything = Everything::new();
    let end = everything.vmm(&script.then_reset()).memory(memory).run().expect(0);
    for (subject, case, works) in cases {
        check(&subject, case, &end.stdout);
        works.expect(&end.stdout, "the case");
    }
}
