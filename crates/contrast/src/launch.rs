//! One run of a process: started, watched, and over before long.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::clock::Moment;
use crate::console::{Console, Heard};
use crate::watch::{Noticed, Watch};

/// Bytes of each stream that are kept.
pub const KEPT: usize = 64 << 10;
/// Characters of standard error that a failure shows.
const SHOWN: usize = 500;

/// A run that came to its end by itself, with status 0.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Before its process was made.
    pub began: Moment,
    /// The process has become the program.
    pub spawned: Moment,
    /// The first byte of its standard output was there.
    pub first_output: Option<Moment>,
    /// Its parent has its exit status.
    pub ended: Moment,
    /// What was noticed about the command's program, if it was watched.
    pub noticed: Noticed,
    /// What it wrote to standard output, the first of it.
    pub output: Vec<u8>,
    /// What it wrote to standard error, the first of it.
    pub errors: String,
    /// What its guest told, of a machine: then output is that of the guest's command alone.
    pub guest: Option<Heard>,
}

/// Why a run counts for nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no process.
    #[error("cannot be started: {0}")]
    Start(#[source] io::Error),
    /// It took too long and was killed.
    #[error("was killed after {} s without an end{}", time.as_secs_f64(), said(errors))]
    Timeout {
        /// How long it took.
        time: Duration,
        /// Its standard error.
        errors: String,
    },
    /// It ended with something else than success.
    #[error("ended with {status}{}", said(errors))]
    Status {
        /// How it ended.
        status: ExitStatus,
        /// Its standard error.
        errors: String,
    },
    /// Its guest ended and did not tell how its command did.
    #[error("ended without a word of its guest about how the command ended{}", said(errors))]
    Untold {
        /// Its standard error, and the last lines of the console.
        errors: String,
    },
    /// The command in its guest ended with something else than success.
    #[error("its command ended with status {status}{}", said(errors))]
    Command {
        /// As a shell has it.
        status: u8,
        /// Its standard error, and the last lines of the console.
        errors: String,
    },
    /// It printed nothing where others print something.
    #[error("printed nothing, where the same command prints something elsewhere")]
    Silent,
    /// It printed something else than what it was to measure.
    #[error("printed no measurement: {0}")]
    Unreadable(String),
    /// It is not there.
    #[error(
        "is not there: it has ended, or its processes are a daemon's, which cannot be told apart"
    )]
    Gone,
    /// What it takes cannot be read.
    #[error("cannot be measured: {0}")]
    Measure(#[source] io::Error),
    /// It left processes behind.
    #[error("left processes behind, which were killed: {}", .0.join(", "))]
    Leftovers(Vec<String>),
    /// It cannot be watched any more.
    #[error("cannot be watched: {0}")]
    Watch(#[source] io::Error),
    /// The user wants no more.
    #[error("was interrupted")]
    Interrupted,
}

/// What a process said, the first of it, as the end of a sentence.
fn said(errors: &str) -> String {
    let lines = errors.lines().map(str::trim).filter(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join("; ");
    let most = text.char_indices().nth(SHOWN).map_or(text.len(), |(at, _)| at);
    match text.get(..most) {
        None | Some("") => String::new(),
        Some(start) if most < text.len() => format!(": {start} ..."),
        Some(whole) => format!(": {whole}"),
    }
}

/// Runs `command` until it ends, `timeout` is over or `interrupt` becomes readable. Its standard input is
/// empty. The clock starts before the new process is made. Whatever else is in its process group ends
/// with a run that fails. What happens to a program under `watch` is noted.
///
/// # Errors
/// See [`Failure`].
pub fn launch(
    command: &mut Command,
    timeout: Duration,
    interrupt: BorrowedFd<'_>,
    watch: Option<&Watch>,
) -> Result<Finished, Failure> {
    launch_heard(command, timeout, interrupt, watch, &|_| ())
}

/// The same; `hear` gets what is kept of its standard output whenever there is more of it.
///
/// # Errors
/// See [`Failure`].
pub fn launch_heard(
    command: &mut Command,
    timeout: Duration,
    interrupt: BorrowedFd<'_>,
    watch: Option<&Watch>,
    hear: &dyn Fn(&[u8]),
) -> Result<Finished, Failure> {
    if let Some(watch) = watch {
        watch.forget();
    }
    run(command, timeout, interrupt, watch, None, hear)
}

/// As [`launch`], a monitor with a guest whose `console` is its standard output. The command in the guest counts as
/// what is run: its output, and its status.
///
/// # Errors
/// See [`Failure`].
pub fn launch_machine(
    command: &mut Command,
    timeout: Duration,
    interrupt: BorrowedFd<'_>,
    console: Console,
) -> Result<Finished, Failure> {
    run(command, timeout, interrupt, None, Some(console), &|_| ())
}

fn run(
    command: &mut Command,
    timeout: Duration,
    interrupt: BorrowedFd<'_>,
    watch: Option<&Watch>,
    console: Option<Console>,
    hear: &dyn Fn(&[u8]),
) -> Result<Finished, Failure> {
    let (output, stdout) = io::pipe().map_err(Failure::Start)?;
    let (errors, stderr) = io::pipe().map_err(Failure::Start)?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
    let began = Moment::now();
    let child = command.spawn();
    let spawned = Moment::now();
    // The command keeps its ends of the pipes, which would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = child.map_err(Failure::Start)?;
    let mut run = Run {
        child,
        output: Stream::new(output, console),
        errors: Stream::new(errors, None),
        watch,
        noticed: Noticed::default(),
        hear,
        over: false,
    };
    let ended = run.watch(began, timeout, interrupt)?;
    let guest = run.output.console.as_ref().map(|console| console.heard().clone());
    let (first_output, output) = match &guest {
        Some(guest) => (guest.first_output, guest.output.clone()),
        None => (run.output.first, std::mem::take(&mut run.output.kept)),
    };
    let (noticed, errors) = (run.noticed, run.errors.text());
    Ok(Finished { began, spawned, first_output, ended, noticed, output, errors, guest })
}

/// A process that may still be there. Dropping it ends it, and its group.
struct Run<'w> {
    child: Child,
    output: Stream,
    errors: Stream,
    watch: Option<&'w Watch>,
    noticed: Noticed,
    hear: &'w dyn Fn(&[u8]),
    over: bool,
}

impl Run<'_> {
    fn watch(
        &mut self,
        began: Moment,
        timeout: Duration,
        interrupt: BorrowedFd<'_>,
    ) -> Result<Moment, Failure> {
        let watch = |errno: Errno| Failure::Watch(errno.into());
        let process =
            pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).map_err(watch)?;
        loop {
            let left = timeout.checked_sub(Moment::now().since(began));
            let Some(left) = left else {
                return Err(Failure::Timeout { time: timeout, errors: self.said() });
            };
            let ready = self.wait(&process, interrupt, left).map_err(watch)?;
            if ready.process {
                return self.end();
            }
            if ready.interrupt {
                return Err(Failure::Interrupted);
            }
        }
    }

    /// Takes the exit status, and what is left in the pipes.
    fn end(&mut self) -> Result<Moment, Failure> {
        let status = self.child.wait().map_err(Failure::Watch)?;
        let ended = Moment::now();
        self.notice();
        self.output.take_all();
        self.errors.take_all();
        if !status.success() {
            return Err(Failure::Status { status, errors: self.said() });
        }
        if let Some(console) = &self.output.console {
            match console.heard().status() {
                Some(0) => {}
                Some(status) => return Err(Failure::Command { status, errors: self.said() }),
                None => return Err(Failure::Untold { errors: self.said() }),
            }
        }
        self.over = true;
        Ok(ended)
    }

    /// What a failure shows: standard error, and where the guest was.
    fn said(&self) -> String {
        let mut said = self.errors.text();
        let lines = self.output.console.as_ref().map(Console::last_lines).unwrap_or_default();
        if !lines.is_empty() {
            said.push_str("\nlast console lines:\n");
            said.push_str(&lines.join("\n"));
        }
        said
    }

    /// Takes what was noticed about the program.
    fn notice(&mut self) {
        if let Some(watch) = self.watch {
            watch.take(&mut self.noticed);
        }
    }

    /// Waits for anything, and reads what was printed.
    fn wait(
        &mut self,
        process: &OwnedFd,
        interrupt: BorrowedFd<'_>,
        left: Duration,
    ) -> Result<Ready, Errno> {
        let time = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        let (ready, output, errors, noticed) = {
            let mut fds = vec![
                PollFd::new(process, PollFlags::IN),
                PollFd::from_borrowed_fd(interrupt, PollFlags::IN),
            ];
            let streams = [&self.output, &self.errors];
            let open = streams.iter().filter_map(|stream| stream.pipe.as_ref());
            fds.extend(open.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            fds.extend(self.watch.map(|watch| PollFd::new(watch, PollFlags::IN)));
            match poll(&mut fds, Some(&time)) {
                Err(Errno::INTR) => {}
                result => {
                    result?;
                }
            }
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
            let mut next = || ready.next().unwrap_or(false);
            let found = Ready { process: next(), interrupt: next() };
            let output = self.output.pipe.is_some() && next();
            let errors = self.errors.pipe.is_some() && next();
            (found, output, errors, next())
        };
        if noticed {
            self.notice();
        }
        if output {
            self.output.take_some();
            (self.hear)(&self.output.kept);
        }
        if errors {
            self.errors.take_some();
        }
        Ok(ready)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // All of it may have ended already.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// What was waited for.
struct Ready {
    process: bool,
    interrupt: bool,
}

/// One of a process's streams, as it is read.
struct Stream {
    pipe: Option<PipeReader>,
    first: Option<Moment>,
    kept: Vec<u8>,
    /// Hears all of it in place of that.
    console: Option<Console>,
}

impl Stream {
    fn new(pipe: PipeReader, console: Option<Console>) -> Self {
        Self { pipe: Some(pipe), first: None, kept: vec![], console }
    }

    /// Reads once, from a pipe that has something or is at its end.
    fn take_some(&mut self) -> bool {
        let now = Moment::now();
        let mut buffer = [0; 4096];
        let read = self.pipe.as_mut().map(|pipe| pipe.read(&mut buffer));
        match read {
            Some(Ok(len)) if len > 0 => {
                let bytes = buffer.get(..len).unwrap_or_default();
                if let Some(console) = &mut self.console {
                    console.hear(bytes, now);
                    return true;
                }
                self.first.get_or_insert(now);
                let room = KEPT.saturating_sub(self.kept.len()).min(len);
                self.kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
                true
            }
            Some(_) => {
                self.pipe = None;
                false
            }
            None => false,
        }
    }

    /// Reads what is there, without waiting for who still holds the other end.
    fn take_all(&mut self) {
        while let Some(pipe) = &self.pipe {
            let mut fds = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut fds, Some(&now)) != Ok(1) || !self.take_some() {
                return;
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn run(script: &str, timeout: Duration) -> Result<Finished, Failure> {
        let (never, _open) = io::pipe().unwrap();
        launch(&mut shell(script), timeout, never.as_fd(), None)
    }

    #[test]
    fn moments_of_a_run_follow_each_other() {
        let done = run("echo one; sleep 0.5; echo two >&2", LONG).unwrap();
        let first = done.first_output.unwrap();
        assert!(done.began < done.spawned && done.spawned < done.ended);
        assert!(done.began < first && first < done.ended);
        assert!(done.ended.since(first) > Duration::from_millis(100));
        assert_eq!((&*done.output, &*done.errors), (&b"one\n"[..], "two\n"));
    }

    #[test]
    fn run_without_output_has_no_first_byte() {
        let done = run("true", LONG).unwrap();
        assert_eq!((done.first_output, done.output), (None, vec![]));
    }

    #[test]
    fn run_that_fails_says_how_and_what_it_said() {
        let failure = run("echo why >&2; echo; echo so >&2; exit 3", LONG).unwrap_err().to_string();
        assert_eq!(failure, "ended with exit status: 3: why; so");
        let long = run("yes | head -c 100000 >&2; exit 3", LONG).unwrap_err().to_string();
        assert!(long.ends_with(" ...") && long.len() < 600, "{long}");
        let failure = run("kill -9 $$", LONG).unwrap_err().to_string();
        assert!(failure.contains("signal: 9"), "{failure}");
        let (never, _open) = io::pipe().unwrap();
        let none = launch(&mut Command::new("/no/such"), LONG, never.as_fd(), None).unwrap_err();
        assert!(matches!(none, Failure::Start(_)), "{none}");
    }

    #[test]
    fn hanging_run_is_killed_with_its_children() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("sleep 1000 & echo $! > {}; wait", file.path().display());
        let before = Moment::now();
        let failure = run(&script, Duration::from_millis(300)).unwrap_err();
        assert!(matches!(failure, Failure::Timeout { .. }), "{failure}");
        assert!(Moment::now().since(before) < Duration::from_secs(30));
        let child = std::fs::read_to_string(file.path()).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        let is_gone = || state().map_or(true, |stat| stat.contains(") Z "));
        while !is_gone() {
            assert!(Moment::now().since(before) < LONG, "the child lives");
        }
    }

    #[test]
    fn interrupt_ends_the_run() {
        let (interrupt, mut other) = io::pipe().unwrap();
        other.write_all(b"x").unwrap();
        let failure = launch(&mut shell("sleep 1000"), LONG, interrupt.as_fd(), None).unwrap_err();
        assert!(matches!(failure, Failure::Interrupted), "{failure}");
    }

    /// A monitor that is a script.
    fn machine(script: &str) -> Result<Finished, Failure> {
        let (never, _open) = io::pipe().unwrap();
        launch_machine(&mut shell(script), LONG, never.as_fd(), Console::new("00ff"))
    }

    #[test]
    fn output_and_status_of_a_machine_are_those_of_its_command() {
        let script = "printf 'noise\\n\\03600ffb\\n\\03600ffx\\n'; sleep 0.5; printf 'hi\\n\\03600ffe0\\nmore\\n'";
        let done = machine(script).unwrap();
        assert_eq!(done.output, b"hi\n");
        let steps = done.guest.unwrap().steps;
        let (_, exec) = *steps.get(1).unwrap();
        assert!(done.first_output.unwrap().since(exec) > Duration::from_millis(100));
    }

    #[test]
    fn machine_without_the_right_word_at_its_end_is_a_failure() {
        let why = |script: &str| machine(script).unwrap_err().to_string();
        assert_eq!(
            why("printf 'panic\\n\\03600fee0\\n'; echo so >&2"),
            "ended without a word of its guest about how the command ended: so; last console lines:; \
             panic; 00fee0"
        );
        assert!(why("printf '\\03600ffe7\\n'").starts_with("its command ended with status 7"));
        let crashed = why("printf 'here\\n\\03600ffe0\\n'; kill -SEGV $$");
        assert!(crashed.contains("signal: 11") && crashed.ends_with("here"), "{crashed}");
    }

    #[test]
    fn output_without_end_is_read_and_forgotten() {
        let done = run("head -c 3000000 /dev/zero", LONG).unwrap();
        assert_eq!(done.output.len(), KEPT);
    }

    #[test]
    fn who_holds_the_streams_after_the_end_is_not_waited_for() {
        let before = Moment::now();
        let done = run("(sleep 3; true) & echo x", LONG).unwrap();
        assert_eq!(done.output, b"x\n");
        assert!(Moment::now().since(before) < Duration::from_secs(2));
    }
}
