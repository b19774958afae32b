//! The outer end of a running job: relays its streams until it ends.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use thiserror::Error;

use super::Source;
use super::qemu::Qemu;
use super::terminal::RawTerminal;
use super::wire::{Decoder, Frame, MAX_PAYLOAD};

/// How long a host may take to start its command. Several hundred times the usual on a busy
/// machine would still be a fault worth reporting.
const BOOT_DEADLINE: Duration = Duration::from_secs(180);

/// How long an interrupt that the emulation lost may stop the host (docs/test-hosts.md).
const TICK: Duration = Duration::from_secs(1);

/// Why the emulated host, not the command in it, failed.
#[derive(Debug, Error)]
pub(crate) enum HostError {
    /// It never came to starting the command.
    #[error("the emulated host did not boot: {reason}; its console ended with:\n{console}")]
    NotBooted {
        /// What was observed.
        reason: &'static str,
        /// The last lines of the console.
        console: String,
    },
    /// It was gone before the command ended.
    #[error("the emulated host stopped while the command ran; its console ended with:\n{console}")]
    Stopped {
        /// The last lines of the console.
        console: String,
    },
    /// The command took longer than allowed.
    #[error("timed out after {} s; the command was still running", .0.as_secs())]
    TimedOut(Duration),
}

/// Where the command's output goes.
pub(crate) struct Sinks<'a> {
    pub(crate) stdout: &'a mut dyn Write,
    pub(crate) stderr: &'a mut dyn Write,
}

/// A job in a host that is booting or running.
pub(crate) struct Session {
    qemu: Qemu,
    channel: UnixStream,
    outgoing: Outgoing,
    started: Instant,
    timeout: Option<Duration>,
    ready: bool,
}

/// Writes frames from several threads.
#[derive(Clone)]
struct Outgoing(Arc<Mutex<Option<UnixStream>>>);

/// What to do after some frames were carried out.
enum Progress {
    Continue,
    Ended(i32),
    Silence,
}

impl Session {
    pub(crate) fn new(qemu: Qemu, channel: UnixStream, timeout: Option<Duration>) -> Self {
        let outgoing = Outgoing(Arc::new(Mutex::new(channel.try_clone().ok())));
        outgoing.tick();
        Self { qemu, channel, outgoing, started: Instant::now(), timeout, ready: false }
    }

    /// Sends all that can be read from `source` to the command's standard input.
    pub(crate) fn feed(&self, mut source: Source) {
        let outgoing = self.outgoing.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; MAX_PAYLOAD];
            loop {
                let count = match source.read(&mut buffer) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(_) => 0,
                    Ok(count) => count,
                };
                let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                if outgoing.send(&Frame::Stdin(bytes)).is_err() || count == 0 {
                    return;
                }
            }
        });
    }

    /// Tells the host whenever our terminal changes its size.
    ///
    /// # Errors
    /// The signals cannot be watched.
    pub(crate) fn follow_terminal(&self, terminal: &RawTerminal) -> Result<()> {
        let outgoing = self.outgoing.clone();
        terminal.on_resize(move |rows, columns| {
            // Without a host there is nobody to tell.
            let _ = outgoing.send(&Frame::Resize(rows, columns));
        })
    }

    /// Relays the command's output to `sinks` until it ended; returns its exit status.
    ///
    /// # Errors
    /// [`HostError`], or a sink failed.
    pub(crate) fn relay(mut self, sinks: &mut Sinks<'_>) -> Result<i32> {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; MAX_PAYLOAD];
        loop {
            let Some(count) = self.receive(&mut buffer)? else { return Err(self.overdue()) };
            decoder.push(buffer.get(..count).unwrap_or_default());
            match self.carry_out(&mut decoder, sinks)? {
                Progress::Ended(status) => return Ok(status),
                Progress::Silence | Progress::Continue if count == 0 => return Err(self.gone()),
                Progress::Silence | Progress::Continue => {}
            }
        }
    }

    fn carry_out(&mut self, decoder: &mut Decoder, sinks: &mut Sinks<'_>) -> Result<Progress> {
        let mut progress = Progress::Silence;
        while let Some(frame) = decoder.next_frame()? {
            progress = Progress::Continue;
            match frame {
                Frame::Ready => self.ready = true,
                Frame::Stdout(bytes) => pass(sinks.stdout, &bytes).context("standard output")?,
                Frame::Stderr(bytes) => pass(sinks.stderr, &bytes).context("standard error")?,
                Frame::Exit(status) => return Ok(Progress::Ended(status)),
                Frame::Stdin(_) | Frame::Resize(..) | Frame::Tick => {}
            }
        }
        Ok(progress)
    }

    /// Waits for bytes from the host; nothing when the time is over.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        loop {
            let Some(left) = self.time_left() else { return Ok(None) };
            self.channel.set_read_timeout(left)?;
            match self.channel.read(buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Some(0)),
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error).context("read from the emulated host"),
            }
        }
    }

    /// The time until the nearest deadline, `Some(None)` without one, nothing when one has passed.
    fn time_left(&self) -> Option<Option<Duration>> {
        let boot = (!self.ready).then_some(BOOT_DEADLINE);
        let Some(limit) = [boot, self.timeout].into_iter().flatten().min() else {
            return Some(None);
        };
        let left = limit.checked_sub(self.started.elapsed())?;
        // Zero would mean to wait without end.
        Some(Some(left.max(Duration::from_millis(1))))
    }

    fn overdue(self) -> anyhow::Error {
        match self.timeout {
            Some(timeout) if timeout <= self.started.elapsed() => {
                HostError::TimedOut(timeout).into()
            }
            _ => {
                let console = self.qemu.end();
                HostError::NotBooted { reason: "no sign of life in time", console }.into()
            }
        }
    }

    fn gone(self) -> anyhow::Error {
        let console = self.qemu.end();
        if self.ready {
            return HostError::Stopped { console }.into();
        }
        HostError::NotBooted { reason: "it stopped", console }.into()
    }
}

impl Outgoing {
    /// Sends a tick now and then, as long as there is a host.
    fn tick(&self) {
        let outgoing = self.clone();
        thread::spawn(move || {
            while outgoing.send(&Frame::Tick).is_ok() {
                thread::sleep(TICK);
            }
        });
    }

    fn send(&self, frame: &Frame) -> io::Result<()> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match stream.as_mut() {
            Some(stream) => frame.write_to(stream),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }
}

fn pass(sink: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    sink.write_all(bytes)?;
    sink.flush()
}
