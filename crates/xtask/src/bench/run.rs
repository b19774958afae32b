//! One run of a monitor: started, watched, and over before long.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::command;

/// No run takes this long on the slowest machine we know.
const LIMIT: Duration = Duration::from_secs(120);

/// How many processes that do nothing make up one turn of the control.
const CONTROLS: usize = 9;

/// How many of a guest's last lines an error shows.
const SHOWN: usize = 20;

/// A running monitor. Dropping it ends it.
pub(super) struct Run {
    child: Child,
    output: BufReader<ChildStdout>,
    errors: Option<JoinHandle<String>>,
    started: Instant,
    line: String,
    seen: Vec<String>,
    /// Dropping it tells the watchdog to leave.
    _watchdog: Sender<()>,
}

impl Run {
    /// Starts `command`; its standard input is empty. The clock starts before the new process is
    /// made.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let line = command::describe(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("start `{line}`"))?;
        let output = child.stdout.take().context("no standard output")?;
        let mut errors = child.stderr.take().context("no standard error")?;
        let watchdog = watch(&child)?;
        let errors = thread::spawn(move || {
            let mut text = String::new();
            // What cannot be read cannot be shown.
            let _ = errors.read_to_string(&mut text);
            text
        });
        Ok(Self {
            child,
            output: BufReader::new(output),
            errors: Some(errors),
            started,
            line,
            seen: vec![],
            _watchdog: watchdog,
        })
    }

    /// Number of the process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the first byte of the guest; the time since the start.
    ///
    /// # Errors
    /// It ended without one.
    pub(super) fn first_byte(&mut self) -> Result<Duration> {
        let mut byte = [0];
        if self.output.read_exact(&mut byte).is_err() {
            return Err(self.failed("it printed nothing"));
        }
        Ok(self.started.elapsed())
    }

    /// Waits until the guest printed a line that contains `part`; that line and the time since the
    /// start.
    ///
    /// # Errors
    /// It ended before.
    pub(super) fn wait_for(&mut self, part: &str) -> Result<(String, Duration)> {
        loop {
            let mut line = vec![];
            if self.output.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
                return Err(self.failed(&format!("it never printed \"{part}\"")));
            }
            let time = self.started.elapsed();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if line.contains(part) {
                return Ok((line, time));
            }
            self.seen.push(line);
        }
    }

    /// Waits until the process ended; the time since the start.
    ///
    /// # Errors
    /// Its status is not `status`.
    pub(super) fn wait(mut self, status: i32) -> Result<Duration> {
        let ended = self.child.wait()?;
        let time = self.started.elapsed();
        if ended.code() != Some(status) {
            return Err(self.failed(&format!("it ended with {ended}, not with status {status}")));
        }
        Ok(time)
    }

    /// Kills the process; the time from then until its end is seen here.
    ///
    /// # Errors
    /// It had ended already.
    pub(super) fn kill(mut self) -> Result<Duration> {
        if let Some(status) = self.child.try_wait()? {
            return Err(self.failed(&format!("it ended early, with {status}")));
        }
        let killed = Instant::now();
        self.child.kill()?;
        self.child.wait()?;
        Ok(killed.elapsed())
    }

    fn failed(&mut self, what: &str) -> anyhow::Error {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let errors = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let mut rest = String::new();
        let _ = self.output.read_to_string(&mut rest);
        let lines = self.seen.iter().map(String::as_str).chain(rest.lines());
        let lines: Vec<&str> = lines.collect();
        let tail = lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default();
        anyhow::anyhow!("`{}`: {what}\n{}\n{}", self.line, tail.join("\n"), errors.trim_end())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills `child` after [`LIMIT`], unless the returned end is dropped before.
fn watch(child: &Child) -> Result<Sender<()>> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .context("open a descriptor of the new process")?;
    let (sender, receiver) = channel::<()>();
    thread::spawn(move || {
        if receiver.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            // It may have ended just now.
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    });
    Ok(sender)
}

/// The time to start a process that does nothing and to see its end, the middle one of [`CONTROLS`]: a single one
/// varies by more than the drift that it is to show.
///
/// # Errors
/// It cannot be started, or fails.
pub(super) fn control(command: &mut Command) -> Result<Duration> {
    let mut times = [Duration::ZERO; CONTROLS];
    for time in &mut times {
        let started = Instant::now();
        let status = command.stdin(Stdio::null()).status().context("start the control process")?;
        *time = started.elapsed();
        ensure!(status.success(), "the control process failed ({status})");
    }
    times.sort_unstable();
    Ok(times[CONTROLS / 2])
}

/// Milliseconds.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Runs `turn` once for each arm, `n` times over, after one turn of each that does not count.
///
/// # Errors
/// A turn failed.
pub(super) fn interleave<A: Copy>(
    n: usize,
    arms: &[A],
    mut turn: impl FnMut(A, bool) -> Result<()>,
) -> Result<()> {
    if n == 0 {
        bail!("nothing to measure: zero runs");
    }
    for round in 0..=n {
        for &arm in arms {
            turn(arm, round > 0)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_are_found_and_the_status_is_checked() {
        let mut run = Run::start(&mut shell("echo a; echo bench: b; exit 33")).unwrap();
        let (line, time) = run.wait_for("bench:").unwrap();
        assert_eq!(line, "bench: b");
        assert!(run.wait(33).unwrap() >= time);
    }

    #[test]
    fn failure_shows_what_was_printed() {
        let mut run = Run::start(&mut shell("echo before; echo oops >&2; exit 1")).unwrap();
        let error = run.wait_for("never").unwrap_err().to_string();
        assert!(error.contains("before") && error.contains("oops"), "{error}");
        let run = Run::start(&mut shell("exit 3")).unwrap();
        assert!(run.wait(0).is_err());
    }

    #[test]
    fn killing_is_timed_from_the_signal() {
        let mut run = Run::start(&mut shell("echo up; sleep 60")).unwrap();
        run.first_byte().unwrap();
        assert!(run.kill().unwrap() < Duration::from_secs(30));
    }

    #[test]
    fn warm_up_turns_do_not_count() {
        let mut turns = vec![];
        interleave(2, &['a', 'b'], |arm, counts| {
            turns.push((arm, counts));
            Ok(())
        })
        .unwrap();
        let expected =
            [('a', false), ('b', false), ('a', true), ('b', true), ('a', true), ('b', true)];
        assert_eq!(turns, expected);
    }
}
