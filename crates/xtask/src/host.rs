//! The emulated host: a small Debian machine with hardware KVM, on any machine.
//!
//! QEMU emulates an x86_64 processor with AMD SVM and nested paging, or an aarch64 one with EL2 and a
//! virtualised GICv3, so the KVM inside has the semantics of real hardware. Each job gets a machine of its own, booted for it and thrown away
//! after it: jobs may run in parallel and leave nothing behind.

mod image;
pub(crate) mod init;
mod payload;
mod qemu;
mod session;
mod terminal;
mod wire;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

pub(crate) use image::packages_for;
pub(crate) use session::HostError;
pub(crate) use terminal::is_interactive;

use crate::arch::Arch;
use crate::cache::Cache;
use payload::Payload;
use qemu::{Machine, Qemu};
use session::{Session, Sinks};
use terminal::RawTerminal;

/// The directory of the emulated host where fresh builds go; first on the search path.
pub(crate) const BIN: &str = "/usr/local/bin";

/// A command to run in an emulated host of its own.
///
/// It runs as root in `/root`, after `copy` (source here, absolute path there; directories with all
/// they hold) was done.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The architecture of the host, and so of the guests in it.
    pub(crate) arch: Arch,
    /// Program and arguments; passed exactly, no shell is involved.
    pub(crate) command: Vec<OsString>,
    /// Files to create before, as (source here, absolute path there).
    pub(crate) copy: Vec<(PathBuf, PathBuf)>,
    /// Variables added to the environment.
    pub(crate) environment: Vec<(String, String)>,
    /// An ext4 image to be mounted read-only at `/srv/vmm`.
    pub(crate) artifacts: Option<PathBuf>,
    /// An ext4 image to be mounted at `/var/lib/vmm`; what is written to it is thrown away. It takes
    /// `artifacts` to have one.
    pub(crate) store: Option<PathBuf>,
    /// Processors of the host.
    pub(crate) cpus: u32,
    /// Memory of the host in MiB; taken from this machine only as it is used.
    pub(crate) memory_mib: u32,
    /// How long the command may take, boot included.
    pub(crate) timeout: Option<Duration>,
    /// Further arguments for the QEMU that emulates the host.
    pub(crate) qemu: Vec<String>,
}

impl Job {
    /// A job that runs `command` in an x86_64 host of the usual size.
    pub(crate) fn new<W: Into<OsString>>(command: impl IntoIterator<Item = W>) -> Self {
        Self {
            arch: Arch::X86_64,
            command: command.into_iter().map(Into::into).collect(),
            copy: vec![],
            environment: vec![],
            artifacts: None,
            store: None,
            cpus: 1,
            memory_mib: 4096,
            timeout: None,
            qemu: vec![],
        }
    }

    /// Runs the command with our standard streams and returns its exit status.
    ///
    /// # Errors
    /// [`HostError`] when the host failed or time ran out; others when it could not be prepared.
    pub(crate) fn run(&self) -> Result<i32> {
        self.relay(Box::new(io::stdin()), &mut io::stdout(), &mut io::stderr())
    }

    /// Runs the command without input, its output going to `stdout` and `stderr` as it comes.
    ///
    /// # Errors
    /// As [`Job::run`]; also when a sink fails.
    pub(crate) fn relay_to(&self, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<i32> {
        self.relay(Box::new(io::empty()), stdout, stderr)
    }

    /// As [`Job::relay_to`], with all that can be read from `input` for the command's standard input.
    ///
    /// # Errors
    /// As [`Job::relay_to`].
    pub(crate) fn relay(
        &self,
        input: Source,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<i32> {
        let session = self.start(None)?;
        session.feed(input);
        session.relay(&mut Sinks { stdout, stderr })
    }

    /// Runs the command on a terminal that is ours; returns its exit status.
    ///
    /// # Errors
    /// As [`Job::run`]; also when our standard input is no terminal.
    pub(crate) fn interact(&self) -> Result<i32> {
        let size = terminal::size()?;
        let session = self.start(Some(size))?;
        let terminal = RawTerminal::enter()?;
        session.follow_terminal(&terminal)?;
        session.feed(Box::new(io::stdin()));
        session.relay(&mut Sinks { stdout: &mut io::stdout(), stderr: &mut io::stderr() })
    }

    fn start(&self, terminal: Option<(u16, u16)>) -> Result<Session> {
        use std::os::unix::ffi::OsStrExt;
        let cache = Cache::of_user()?;
        let parts = image::ensure(&cache, self.arch)?;
        let command = self.command.iter().map(|word| word.as_bytes().to_vec()).collect();
        let mut environment = self.environment.clone();
        if terminal.is_some() {
            let term = std::env::var("TERM").unwrap_or_else(|_| "linux".into());
            environment.push(("TERM".into(), term));
        }
        let mut payload = Payload::new(command, environment, terminal);
        for (source, target) in &self.copy {
            payload.copy(source, target)?;
        }
        let job = cache.unnamed_file()?;
        payload.pack(&job)?;
        let (qemu, channel) = Qemu::start(Machine {
            arch: self.arch,
            parts,
            artifacts: self.artifacts.clone(),
            store: self.store.clone(),
            job,
            cpus: self.cpus,
            memory_mib: self.memory_mib,
            extra: self.qemu.clone(),
        })?;
        Ok(Session::new(qemu, channel, self.timeout))
    }
}

/// Reads that end when the source does.
pub(crate) type Source = Box<dyn Read + Send>;
