//! Running the job inside the emulated host and relaying its streams.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::power_off;
use crate::host::payload::Payload;
use crate::host::wire::{Decoder, Frame, MAX_PAYLOAD};

const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Exit statuses of a command that could not run, as in a POSIX shell.
const NOT_FOUND: i32 = 127;
const NOT_INVOCABLE: i32 = 126;

/// Wraps bytes read from the command.
type Wrap = fn(Vec<u8>) -> Frame;

/// The port, shared by the threads that write frames.
type Port = Arc<Mutex<File>>;

/// A started command and our ends of its streams.
struct Started {
    pid: Pid,
    stdin: File,
    outputs: Vec<(File, Wrap)>,
    terminal: Option<OwnedFd>,
}

/// Runs the command of `payload`, talks frames on `port` until it ended, and reports its status.
pub(super) fn run(payload: &Payload, port: File) -> Result<()> {
    let incoming = port.try_clone()?;
    let port = Arc::new(Mutex::new(port));
    send(&port, &Frame::Ready)?;
    let code = match start(payload)? {
        Ok(started) => attend(started, incoming, &port)?,
        Err(refusal) => {
            send(&port, &Frame::Stderr(refusal.message.into_bytes()))?;
            refusal.code
        }
    };
    send(&port, &Frame::Exit(code))?;
    // The outside ends this machine: powering off here could lose the last frames.
    loop {
        thread::park();
    }
}

/// Relays the streams of the command until it ends; returns its exit status.
fn attend(started: Started, incoming: File, port: &Port) -> Result<i32> {
    let Started { pid, stdin, outputs, terminal } = started;
    thread::spawn(move || obey(incoming, stdin, terminal.as_ref()));
    let relays: Vec<_> = outputs
        .into_iter()
        .map(|(from, wrap)| {
            let port = Arc::clone(port);
            thread::spawn(move || relay(from, wrap, &port))
        })
        .collect();
    let status = reap_until(pid)?;
    // What the command left in the background would hold its streams open for ever.
    Command::new("/bin/sh").args(["-c", "kill -9 -1"]).status()?;
    for relay in relays {
        let _ = relay.join();
    }
    Ok(status)
}

/// Why a command did not start, and the exit status that says so.
struct Refusal {
    message: String,
    code: i32,
}

fn start(payload: &Payload) -> Result<Result<Started, Refusal>> {
    let words: Vec<&OsStr> = payload.command.iter().map(|word| OsStr::from_bytes(word)).collect();
    let Some((program, arguments)) = words.split_first() else { bail!("the job has no command") };
    let mut command = Command::new(program);
    command.args(arguments);
    let started = match payload.terminal {
        Some(size) => start_on_terminal(&words, payload, size),
        None => start_on_pipes(command, payload),
    };
    Ok(started.map_err(|error| {
        let missing = error.kind() == ErrorKind::NotFound;
        Refusal {
            message: format!("host: cannot run {}: {error}\n", program.display()),
            code: if missing { NOT_FOUND } else { NOT_INVOCABLE },
        }
    }))
}

fn start_on_pipes(mut command: Command, payload: &Payload) -> std::io::Result<Started> {
    let (stdin_reader, stdin) = std::io::pipe()?;
    let (stdout, stdout_writer) = std::io::pipe()?;
    let (stderr, stderr_writer) = std::io::pipe()?;
    command.stdin(stdin_reader).stdout(stdout_writer).stderr(stderr_writer);
    let pid = spawn(command, payload)?;
    let file = |fd: OwnedFd| File::from(fd);
    let outputs: Vec<(File, Wrap)> =
        vec![(file(stdout.into()), Frame::Stdout), (file(stderr.into()), Frame::Stderr)];
    Ok(Started { pid, stdin: file(stdin.into()), outputs, terminal: None })
}

fn start_on_terminal(
    words: &[&OsStr],
    payload: &Payload,
    size: (u16, u16),
) -> std::io::Result<Started> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = ioctl_tiocgptpeer(&master, flags)?;
    set_size(&master, size);
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--"]).args(words);
    command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
    let pid = spawn(command, payload)?;
    let output = File::from(master.try_clone()?);
    Ok(Started {
        pid,
        stdin: File::from(master.try_clone()?),
        outputs: vec![(output, Frame::Stdout)],
        terminal: Some(master),
    })
}

/// Starts `command` and closes our copies of its ends of the streams.
fn spawn(mut command: Command, payload: &Payload) -> std::io::Result<Pid> {
    command.env_clear().envs([
        ("PATH", SEARCH_PATH),
        ("HOME", "/root"),
        ("USER", "root"),
        ("SHELL", "/bin/bash"),
        ("LANG", "C.UTF-8"),
        ("TERM", "dumb"),
    ]);
    command.envs(payload.environment.iter().map(|(name, value)| (name, value)));
    let child = command.current_dir("/root").spawn()?;
    Ok(Pid::from_child(&child))
}

/// Carries out what the outside sends; without an outside there is nothing left to do.
fn obey(mut incoming: File, stdin: File, terminal: Option<&OwnedFd>) {
    let mut stdin = Some(stdin);
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; MAX_PAYLOAD];
    while let Ok(count @ 1..) = incoming.read(&mut buffer) {
        decoder.push(buffer.get(..count).unwrap_or_default());
        while let Ok(Some(frame)) = decoder.next_frame() {
            match (frame, terminal) {
                (Frame::Stdin(bytes), _) if bytes.is_empty() => stdin = None,
                (Frame::Stdin(bytes), _) => {
                    // A command that closed its standard input is free to do so.
                    let _ = stdin.as_mut().map(|stdin| stdin.write_all(&bytes));
                }
                (Frame::Resize(rows, columns), Some(terminal)) => {
                    set_size(terminal, (rows, columns));
                }
                _ => {}
            }
        }
    }
    power_off();
}

fn set_size(terminal: &OwnedFd, (rows, columns): (u16, u16)) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // A wrong size is an inconvenience, no reason to end the session.
    let _ = tcsetwinsize(terminal, size);
}

/// Sends all that can be read from `from`; a terminal without users reads as an error, not an end.
fn relay(mut from: File, wrap: Wrap, port: &Port) {
    let mut buffer = vec![0; MAX_PAYLOAD];
    loop {
        match from.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                if send(port, &wrap(bytes)).is_err() {
                    return;
                }
            }
        }
    }
}

fn send(port: &Port, frame: &Frame) -> Result<()> {
    let mut port = port.lock().unwrap_or_else(PoisonError::into_inner);
    frame.write_to(&mut *port).context("write to the virtio-serial port")
}

/// Waits for every process that loses its parent, as the first process must, until `pid` ended.
fn reap_until(pid: Pid) -> Result<i32> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == pid => return Ok(exit_code(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the command"),
        }
    }
}

/// The status a POSIX shell would show.
fn exit_code(status: WaitStatus) -> i32 {
    let by_signal = status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or(by_signal).unwrap_or(NOT_INVOCABLE)
}
