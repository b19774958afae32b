//! The loop of a keeper: between the container's first process, its log, and the commands that attach.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_protocol::{Exit, INITIAL_CREDIT, Kind, Notice, Order, Reply, Request};

use super::super::Spec;
use super::super::link::broken;
use super::super::log::{LogWriter, Stream};
use super::super::talk::{Ask, Ended, Phase, Tell};
use super::failed;
use super::guest::Guest;
use super::stop::{Deed, Signals, Stop};
use super::visitor::Visitor;

/// Commands that may be attached at a time.
const MAX_VISITORS: usize = 64;
/// Questions to the agent that may be open.
const MAX_QUESTIONS: usize = 256;

/// Exit status of a container whose machine was ended because somebody wanted that.
const KILLED: u8 = 137;

/// What a keeper passes on, and to whom.
pub(super) struct Relay {
    log: Option<LogWriter>,
    listener: Option<UnixListener>,
    visitors: Vec<Visitor>,
    /// Bytes of input that the agent takes now.
    credit: usize,
    /// Input that waits for credit.
    input: Vec<u8>,
    /// Whether the container is to learn, behind it, that no more follows.
    input_ends: bool,
    /// Who waits for answers of the agent, in the order of the questions.
    asked: VecDeque<u64>,
    /// Commands so far, each of which has its number.
    callers: u64,
    /// Whether a command had the machine ended.
    destroyed: bool,
    /// What tells the keeper to end, and how far that is.
    signals: Signals,
    stop: Stop,
}

impl Relay {
    /// One that serves the command that asked for the container, if that still waits.
    pub(super) fn new(command: UnixStream, signals: Signals) -> Self {
        Self {
            log: None,
            listener: None,
            visitors: Visitor::new(command, 0).into_iter().collect(),
            credit: usize::try_from(INITIAL_CREDIT).unwrap_or(0),
            input: vec![],
            input_ends: false,
            asked: VecDeque::new(),
            callers: 1,
            destroyed: false,
            signals,
            stop: Stop::default(),
        }
    }

    /// What tells the keeper to end.
    pub(super) fn signals(&self) -> &Signals {
        &self.signals
    }

    /// The connection of the command that asked for the container.
    pub(super) fn command(&self) -> Option<BorrowedFd<'_>> {
        self.visitors.first().map(AsFd::as_fd)
    }

    /// Tells whoever listens something that is not the container's output.
    pub(super) fn note(&mut self, text: &str) {
        self.tell_all(&Tell::Note(text.to_owned()));
    }

    /// Keeps what the container prints.
    pub(super) fn keep_log(&mut self, path: &Path) -> io::Result<()> {
        self.log = Some(LogWriter::open(path)?);
        Ok(())
    }

    /// Lets further commands attach.
    pub(super) fn listen(&mut self, path: &Path) -> io::Result<()> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Serves everybody until the container has ended.
    pub(super) fn serve(&mut self, guest: &mut Guest, spec: &Spec) -> Ended {
        let mut result = self.begin(guest, spec);
        loop {
            match result {
                Ok(None) => result = self.step(guest, spec),
                Ok(Some(ended)) => return ended,
                Err(_) if self.is_ending() => return Ended::with(KILLED, false),
                Err(e) => {
                    let cause = match e.kind() {
                        io::ErrorKind::InvalidData => format!("the agent makes no sense: {e}"),
                        _ if guest.has_ended() => "the machine ended".to_owned(),
                        _ => format!("the agent fell silent: {e}"),
                    };
                    let failure = guest.explain(cause);
                    return Ended { error: Some(failure), ..failed(Phase::Run, String::new()) };
                }
            }
        }
    }

    /// Hears the command that has waited for the start, before anything that is printed, and what came
    /// together with the answers of the agent.
    fn begin(&mut self, guest: &mut Guest, spec: &Spec) -> io::Result<Option<Ended>> {
        for index in (0..self.visitors.len()).rev() {
            self.hear_visitor(index, guest, spec)?;
        }
        self.hear_agent(guest)?;
        let ended = self.hear_session(guest)?;
        self.feed(guest)?;
        Ok(ended)
    }

    /// Waits for something to do, and does it. An error is one of the connections to the agent.
    fn step(&mut self, guest: &mut Guest, spec: &Spec) -> io::Result<Option<Ended>> {
        // Output that nobody can take stays in the guest.
        let reads = !self.visitors.iter().any(Visitor::is_behind);
        let ready = self.wait(guest, reads);
        if ready.words {
            guest.listen();
        }
        if ready.session {
            guest.session.flush();
            // One that has hung up sends no more than what is on its way.
            let open = !(reads || ready.hangup) || guest.session.fill()?;
            if let Some(exit) = self.hear_session(guest)? {
                return Ok(Some(exit));
            }
            if !open {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if ready.control {
            guest.control.flush();
            if !guest.control.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.hear_agent(guest)?;
        }
        if ready.monitor && self.is_ending() {
            return Ok(Some(Ended::with(KILLED, false)));
        }
        if ready.monitor {
            let failure = guest.explain("the machine ended".to_owned());
            return Ok(Some(Ended { error: Some(failure), ..failed(Phase::Run, String::new()) }));
        }
        if ready.caller {
            self.receive_callers();
        }
        for index in ready.visitors.into_iter().rev() {
            self.hear_visitor(index, guest, spec)?;
        }
        self.go_on_ending(guest, spec)?;
        self.feed(guest)?;
        Ok(None)
    }

    /// Whether somebody has the container ended.
    fn is_ending(&self) -> bool {
        self.destroyed || self.stop.begun
    }

    /// Takes the steps to the container's end that are due, when the keeper was told to end.
    fn go_on_ending(&mut self, guest: &mut Guest, spec: &Spec) -> io::Result<()> {
        let now = Instant::now();
        let patience = Duration::from_secs(spec.stop_timeout.into());
        let told = self.signals.came().then(|| self.stop.begin(spec.stop_signal, patience, now));
        match told.or_else(|| self.stop.due(now)) {
            Some(Deed::Signal(signal)) => guest.session.say(&Request::Signal(signal.0)),
            Some(Deed::Destroy) => {
                self.destroyed = true;
                guest.destroy();
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn wait(&self, guest: &Guest, reads: bool) -> Ready {
        let visitors = self.visitors.iter().map(|visitor| (visitor.as_fd(), visitor.interest()));
        let fixed = [
            (guest.session.as_fd(), guest.session.interest(reads)),
            (guest.control.as_fd(), guest.control.interest(true)),
            (guest.monitor_fd(), PollFlags::IN),
            (guest.words_fd(), PollFlags::IN),
            (self.signals.as_fd(), PollFlags::IN),
        ];
        let caller = self.listener.iter().map(|listener| (listener.as_fd(), PollFlags::IN));
        let left = self.stop.left(Instant::now());
        let ready = poll_all(fixed.into_iter().chain(caller).chain(visitors), left);
        let is_ready = |at: usize| ready.get(at).is_some_and(|flags| !flags.is_empty());
        let first = fixed.len().saturating_add(usize::from(self.listener.is_some()));
        Ready {
            session: is_ready(0),
            hangup: ready.first().is_some_and(|flags| flags.contains(PollFlags::HUP)),
            control: is_ready(1),
            monitor: is_ready(2),
            words: is_ready(3),
            caller: self.listener.is_some() && is_ready(fixed.len()),
            visitors: (0..self.visitors.len())
                .filter(|n| is_ready(first.saturating_add(*n)))
                .collect(),
        }
    }

    /// Passes on what the first process printed; its exit is the last it says.
    fn hear_session(&mut self, guest: &mut Guest) -> io::Result<Option<Ended>> {
        while let Some(frame) = guest.session.frames.next().map_err(broken)? {
            match frame.kind {
                Kind::Stdout => self.print(Kind::Stdout, Stream::Out, frame.payload),
                Kind::Stderr => self.print(Kind::Stderr, Stream::Err, frame.payload),
                _ => match frame.message().map_err(broken)? {
                    Reply::Credit(bytes) => {
                        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                        self.credit = self.credit.saturating_add(bytes);
                    }
                    Reply::Exited(Exit { status, oom, .. }) => {
                        let code = status.exit_code();
                        return Ok(Some(Ended::with(code, oom)));
                    }
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                },
            }
        }
        Ok(None)
    }

    fn print(&mut self, kind: Kind, stream: Stream, text: &[u8]) {
        // A host without room must not stop the container; the log has a gap then.
        if let Some(log) = &mut self.log {
            let _: Result<_, _> = log.append(stream, text);
        }
        self.visitors.iter_mut().for_each(|visitor| visitor.show(kind, text));
    }

    fn hear_agent(&mut self, guest: &mut Guest) -> io::Result<()> {
        while let Some(frame) = guest.control.frames.next().map_err(broken)? {
            let answer = match frame.message().map_err(broken)? {
                Notice::Stats(stats) => Tell::Stats(stats),
                Notice::Processes(list) => Tell::Processes(list),
                Notice::OomKilled { .. } => continue,
                _ => return Err(io::ErrorKind::InvalidData.into()),
            };
            let asker = self.asked.pop_front().ok_or(io::ErrorKind::InvalidData)?;
            if let Some(visitor) = self.visitors.iter_mut().find(|v| v.number() == asker) {
                visitor.tell(&answer);
            }
        }
        Ok(())
    }

    fn receive_callers(&mut self) {
        let Some(listener) = &self.listener else { return };
        while let Ok((socket, _)) = listener.accept() {
            if self.visitors.len() < MAX_VISITORS {
                self.visitors.extend(Visitor::new(socket, self.callers));
                self.callers = self.callers.saturating_add(1);
            }
        }
    }

    fn hear_visitor(&mut self, index: usize, guest: &mut Guest, spec: &Spec) -> io::Result<()> {
        let Some(visitor) = self.visitors.get_mut(index) else { return Ok(()) };
        let mut asks = vec![];
        let stays = visitor.hear(&mut asks).unwrap_or(false);
        for ask in asks {
            match ask {
                Ask::Attach { .. } => visitor.tell(&Tell::Started),
                // A guest that takes nothing in is sent no more than it can have.
                Ask::Resize(_) | Ask::Signal(_) if guest.session.is_behind() => {}
                Ask::Resize(size) => guest.session.say(&Request::Resize(size))?,
                Ask::Signal(signal) => guest.session.say(&Request::Signal(signal))?,
                Ask::Destroy => {
                    self.destroyed = true;
                    guest.destroy();
                }
                Ask::StdinEof => visitor.end_input(),
                Ask::Stats | Ask::Processes if self.asked.len() >= MAX_QUESTIONS => {}
                Ask::Stats | Ask::Processes if visitor.is_behind() => {}
                Ask::Stats => {
                    self.asked.push_back(visitor.number());
                    guest.control.say(&Order::Stats)?;
                }
                Ask::Processes => {
                    self.asked.push_back(visitor.number());
                    guest.control.say(&Order::Processes)?;
                }
            }
        }
        if !stays {
            // On a terminal others go on typing; a pipe has ended with its writer.
            if spec.start.terminal.is_none() {
                visitor.end_input();
            }
            self.input.append(&mut visitor.take_input());
            self.input_ends |= visitor.take_end();
            self.visitors.remove(index);
        }
        Ok(())
    }

    /// Passes on as much input as the container takes.
    fn feed(&mut self, guest: &mut Guest) -> io::Result<()> {
        // Whatever credit it gives, a guest that does not read gets no more.
        if guest.session.is_behind() {
            return Ok(());
        }
        if self.input.is_empty() {
            for visitor in &mut self.visitors {
                self.input.append(&mut visitor.take_input());
                self.input_ends |= visitor.take_end();
            }
        }
        let count = self.credit.min(self.input.len());
        let now: Vec<u8> = self.input.drain(..count).collect();
        self.credit = self.credit.saturating_sub(count);
        guest.session.pass(Kind::Stdin, &now);
        if self.input.is_empty() && std::mem::take(&mut self.input_ends) {
            guest.session.say(&Request::StdinEof)?;
        }
        Ok(())
    }

    fn tell_all(&mut self, message: &Tell) {
        self.visitors.iter_mut().for_each(|visitor| visitor.tell(message));
    }

    /// Tells everybody that it is over, and waits until they have heard, are gone, or the keeper is told to
    /// end: who reads slowly still gets all that was printed.
    pub(super) fn say_goodbye(mut self, ended: &Ended) {
        self.receive_callers();
        self.tell_all(&Tell::Ended(ended.clone()));
        loop {
            self.visitors.retain(|visitor| !visitor.is_served());
            if self.visitors.is_empty() || self.signals.came() {
                return;
            }
            let fds = self.visitors.iter().map(|visitor| (visitor.as_fd(), PollFlags::OUT));
            poll_all(fds.chain([(self.signals.as_fd(), PollFlags::IN)]), None);
            self.visitors.iter_mut().for_each(Visitor::flush);
        }
    }
}

/// What there is to do.
struct Ready {
    session: bool,
    hangup: bool,
    control: bool,
    monitor: bool,
    words: bool,
    caller: bool,
    visitors: Vec<usize>,
}

fn poll_all<'a>(
    fds: impl Iterator<Item = (BorrowedFd<'a>, PollFlags)>,
    limit: Option<Duration>,
) -> Vec<PollFlags> {
    let mut fds: Vec<_> =
        fds.map(|(fd, interest)| PollFd::from_borrowed_fd(fd, interest)).collect();
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    let _ = poll(&mut fds, limit.as_ref());
    fds.iter().map(PollFd::revents).collect()
}
