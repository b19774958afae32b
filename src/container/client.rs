//! A command's side of a container: its standard streams, its terminal and its signals on one end, a
//! keeper or an agent on the other.

use std::io::{self, stdin};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use vmm_protocol::{Frame, INITIAL_CREDIT, Kind, Reply, Request, TerminalSize};

use super::keys::{DetachKeys, Watch};
use super::link::{Link, broken};
use super::talk::{Ask, Ended, Failure, Phase, Tell};
use crate::control::terminal::RawTerminal;

/// Bytes read from standard input at a time.
const STEP: usize = 32 << 10;
/// The signals that are the container's.
const PASSED_ON: [i32; 7] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM];

/// Who is on the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The keeper, for the container's first process.
    Keeper,
    /// The agent, for a further process.
    Agent,
}

/// What a command wants of a process.
#[derive(Debug, Clone)]
pub struct Streams {
    /// Whether standard input is passed on.
    pub input: bool,
    /// Whether the process has a terminal, which is then this one.
    pub terminal: bool,
    /// Whether signals are passed on.
    pub signals: bool,
    /// The keys that leave it running.
    pub detach: DetachKeys,
    /// Whether its start is all that is waited for.
    pub until_started: bool,
}

/// Why a command is done with a process.
#[derive(Debug)]
pub enum Left {
    /// It has ended.
    Ended(Ended),
    /// It goes on.
    Detached,
    /// A signal came before it began; nothing is left of it.
    Cancelled(i32),
    /// It goes on, and what it prints cannot be written any more: the reader is gone, the disk is full.
    Unread(io::Error),
}

/// What the other end says, whoever that is.
enum Said {
    Note(String),
    Started,
    Credit(u32),
    Ended(Ended),
}

/// Connects this process's standard streams to the process behind `socket`, until that has ended.
///
/// `note` is told what the user should know beside that.
///
/// # Errors
/// The connection failed.
pub fn attend(
    socket: UnixStream,
    peer: Peer,
    streams: &Streams,
    note: fn(&str),
) -> io::Result<Left> {
    let raw = (streams.terminal && streams.input).then(RawTerminal::enter).flatten();
    let mut client = Client::new(socket, peer, streams, note)?;
    let left = client.run();
    if matches!(left, Ok(Left::Detached)) && peer == Peer::Agent {
        // One that has ended meanwhile needs it no more.
        let _: io::Result<()> = client.release();
    }
    drop(raw);
    left
}

struct Client {
    link: Link,
    peer: Peer,
    signals: SignalDelivery<UnixStream, SignalOnly>,
    watch: Option<Watch>,
    /// Whether there is more of standard input.
    input: bool,
    terminal: bool,
    passes_signals: bool,
    until_started: bool,
    credit: usize,
    started: bool,
    note: fn(&str),
}

impl Client {
    fn new(socket: UnixStream, peer: Peer, streams: &Streams, note: fn(&str)) -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let caught = PASSED_ON.into_iter().chain([SIGWINCH]);
        let watch = streams.terminal.then(|| Watch::new(streams.detach.clone()));
        Ok(Self {
            link: Link::new(socket)?,
            peer,
            signals: SignalDelivery::with_pipe(read, write, SignalOnly, caught)?,
            watch,
            input: streams.input,
            terminal: streams.terminal,
            passes_signals: streams.signals,
            until_started: streams.until_started,
            credit: usize::try_from(INITIAL_CREDIT).unwrap_or(0),
            started: false,
            note,
        })
    }

    fn run(&mut self) -> io::Result<Left> {
        loop {
            let reads = self.started && self.input && self.credit > 0 && !self.link.is_behind();
            let (typed, said, signalled) = self.wait(reads);
            // Keys may be typed right after the terminal has another size: then that is told first.
            if (signalled || typed)
                && let Some(left) = self.pass_signals_on()?
            {
                return Ok(left);
            }
            if said {
                self.link.flush();
                let open = self.link.fill()?;
                if let Some(left) = self.hear()? {
                    return Ok(left);
                }
                if !open {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            if typed && self.pass_input_on()? {
                return Ok(Left::Detached);
            }
        }
    }

    /// Has a further process go on, where the container's first one does anyway.
    fn release(&mut self) -> io::Result<()> {
        self.link.say(&Request::Release)?;
        while self.link.waiting() > 0 {
            let fd = PollFd::from_borrowed_fd(self.link.as_fd(), self.link.interest(false));
            let _ = poll(&mut [fd], None);
            self.link.flush();
        }
        Ok(())
    }

    fn wait(&self, reads: bool) -> (bool, bool, bool) {
        let input = stdin();
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.link.as_fd(), self.link.interest(true)),
            PollFd::from_borrowed_fd(self.signals.get_read().as_fd(), PollFlags::IN),
        ];
        if reads {
            fds.push(PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN));
        }
        let _ = poll(&mut fds, None);
        let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        (ready(2), ready(0), ready(1))
    }

    /// Writes what the process printed; its end is the last that is heard.
    fn hear(&mut self) -> io::Result<Option<Left>> {
        while let Some(frame) = self.link.frames.next().map_err(broken)? {
            let written = match frame.kind {
                Kind::Stdout => write_all(rustix::stdio::stdout(), frame.payload),
                Kind::Stderr => write_all(rustix::stdio::stderr(), frame.payload),
                _ => Ok(()),
            };
            if let Err(e) = written {
                return Ok(Some(Left::Unread(e)));
            }
            match frame.kind {
                Kind::Stdout | Kind::Stderr => {}
                _ => match understand(self.peer, frame)? {
                    Some(Said::Note(text)) => (self.note)(&text),
                    // What follows, however soon, is not for who waits for the start alone.
                    Some(Said::Started) if self.until_started => return Ok(Some(Left::Detached)),
                    Some(Said::Started) => {
                        self.started = true;
                        resize(&mut self.link, self.peer, self.terminal)?;
                    }
                    Some(Said::Credit(bytes)) => {
                        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                        self.credit = self.credit.saturating_add(bytes);
                    }
                    Some(Said::Ended(ended)) => return Ok(Some(Left::Ended(ended))),
                    None => {}
                },
            }
        }
        Ok(None)
    }

    /// Whether the terminal is gone, behind which a container goes on as if it had been detached from. A further
    /// process learns of it as of any signal or end of input.
    fn has_hung_up(&self) -> bool {
        let gone = || matches!(rustix::termios::tcgetwinsize(stdin()), Err(Errno::IO));
        self.terminal && self.peer == Peer::Keeper && gone()
    }

    /// Passes on what was typed; whether the detach keys were, or the terminal is gone.
    fn pass_input_on(&mut self) -> io::Result<bool> {
        let mut bytes = vec![0; STEP.min(self.credit)];
        let count = match rustix::io::read(rustix::stdio::stdin(), &mut bytes) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            // A terminal that is gone is an input that has ended.
            Err(_) => 0,
        };
        let typed = bytes.get(..count).unwrap_or_default();
        if count == 0 {
            if self.has_hung_up() {
                return Ok(true);
            }
            self.input = false;
            match self.peer {
                Peer::Keeper => self.link.say(&Ask::StdinEof)?,
                Peer::Agent => self.link.say(&Request::StdinEof)?,
            }
            return Ok(false);
        }
        let (passed, detached) = match &mut self.watch {
            Some(watch) => watch.filter(typed),
            None => (typed.to_vec(), false),
        };
        self.credit = self.credit.saturating_sub(passed.len());
        self.link.pass(Kind::Stdin, &passed);
        Ok(detached)
    }

    fn pass_signals_on(&mut self) -> io::Result<Option<Left>> {
        let pending: Vec<_> = self.signals.pending().collect();
        for signal in pending {
            match u8::try_from(signal) {
                _ if signal == SIGWINCH => resize(&mut self.link, self.peer, self.terminal)?,
                _ if !self.started => return Ok(Some(Left::Cancelled(signal))),
                _ if signal == SIGHUP && self.has_hung_up() => return Ok(Some(Left::Detached)),
                Ok(number) if self.passes_signals => match self.peer {
                    Peer::Keeper => self.link.say(&Ask::Signal(number))?,
                    Peer::Agent => self.link.say(&Request::Signal(number))?,
                },
                _ => return Ok(Some(Left::Detached)),
            }
        }
        Ok(None)
    }
}

fn understand(peer: Peer, frame: Frame<'_>) -> io::Result<Option<Said>> {
    if peer == Peer::Keeper {
        return Ok(match frame.message().map_err(broken)? {
            Tell::Started => Some(Said::Started),
            Tell::Credit(bytes) => Some(Said::Credit(bytes)),
            Tell::Ended(ended) => Some(Said::Ended(ended)),
            Tell::Note(text) => Some(Said::Note(text)),
            Tell::Stats(_) | Tell::Processes(_) => None,
        });
    }
    let ended = |code, oom, error| Some(Said::Ended(Ended { error, ..Ended::with(code, oom) }));
    Ok(match frame.message().map_err(broken)? {
        Reply::Started { .. } => Some(Said::Started),
        Reply::Credit(bytes) => Some(Said::Credit(bytes)),
        Reply::Exited(exit) => ended(exit.status.exit_code(), exit.oom, None),
        Reply::Refused { kind, what } => {
            let cause = vmm_protocol::printable(&what);
            let failure = Failure { phase: Phase::Exec, cause, details: vec![] };
            ended(kind.exit_code(), false, Some(failure))
        }
        Reply::Found(_) | Reply::Copied => None,
    })
}

/// Tells the size of this terminal, if there is one.
fn resize(link: &mut Link, peer: Peer, terminal: bool) -> io::Result<()> {
    match terminal_size().filter(|_| terminal) {
        Some(size) if peer == Peer::Keeper => link.say(&Ask::Resize(size)),
        Some(size) => link.say(&Request::Resize(size)),
        None => Ok(()),
    }
}

/// The size of the terminal on standard output or input.
pub fn terminal_size() -> Option<TerminalSize> {
    use rustix::stdio::{stdin, stdout};
    let size = rustix::termios::tcgetwinsize(stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(stdin()))
        .ok()?;
    Some(TerminalSize { rows: size.ws_row, columns: size.ws_col })
}

/// Writes all of it, however long the reader takes.
fn write_all(out: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(out, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // Another program has made it so: it is the reader's end that counts.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::from_borrowed_fd(out, PollFlags::OUT)], None);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
