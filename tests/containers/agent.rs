//! Who plays the agents of a world's containers.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_protocol::{
    CONTROL_PORT, Exit, FrameReader, Kind, Notice, Order, Reply, Request, Stats, Status, VERSION,
    push_data, push_message,
};

use super::world;

/// How often is looked for new containers.
const STEP: Duration = Duration::from_millis(2);

/// Plays an agent for each container whose sockets appear in a directory.
pub struct Agents {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Agents {
    pub fn new(runtime: PathBuf) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let seen = done.clone();
        let thread = thread::spawn(move || {
            let mut known = HashSet::new();
            while !seen.load(Ordering::Relaxed) {
                for entry in fs::read_dir(&runtime).into_iter().flatten().flatten() {
                    let place = entry.path();
                    if port(&place).exists() && known.insert(place.clone()) {
                        // Whoever is killed ends the conversation.
                        thread::spawn(move || play(&place));
                    }
                }
                thread::sleep(STEP);
            }
        });
        Self { done, thread: Some(thread) }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Where the keeper waits for the agent.
fn port(place: &Path) -> PathBuf {
    place.join(format!("vsock.sock_{CONTROL_PORT}"))
}

/// The agent of the container with the sockets in `place`; `None` when somebody else has ended it.
fn play(place: &Path) -> Option<()> {
    let vsock = place.join("vsock.sock");
    while !vsock.exists() {
        // Without a keeper there will be none.
        place.metadata().ok()?;
        thread::sleep(STEP);
    }
    // In the place of the monitor, whose guest has nothing that would answer.
    let own = place.join("agent.sock");
    let sessions = UnixListener::bind(&own).ok()?;
    fs::rename(&own, &vsock).ok()?;
    let mut control = Talk::new(UnixStream::connect(port(place)).ok()?);
    control.say(&Notice::Hello { version: VERSION, uptime_us: 1 })?;
    let Order::Setup(_) = control.hear()? else { return None };
    control.say(&Notice::Ready { stamps: vec![] })?;
    let place = place.to_owned();
    thread::spawn(move || obey(control, &place));
    for session in sessions.incoming() {
        thread::spawn(|| serve(session.ok()?));
    }
    None
}

/// Does what the keeper orders.
fn obey(mut control: Talk, place: &Path) -> Option<()> {
    loop {
        match control.hear()? {
            Order::Stats => control.say(&Notice::Stats(Stats::default()))?,
            Order::Processes => control.say(&Notice::Processes(vec![]))?,
            Order::Shutdown => world::power_off(place),
            Order::Setup(_) => return None,
        }
    }
}

/// A process: the first word of its command line says what it does.
fn serve(mut session: UnixStream) -> Option<()> {
    let mut line = [0; 13];
    session.read_exact(&mut line).ok()?;
    session.write_all(b"OK 1\n").ok()?;
    let mut talk = Talk::new(session);
    let Request::Start(start) = talk.hear()? else { return None };
    let mut words = start.args.iter().map(String::as_str);
    let (what, number) = (words.next()?, words.next().and_then(|word| word.parse().ok()));
    talk.say(&Reply::Started { pid: 1, uptime_us: 2 })?;
    match what {
        // Takes a moment, and returns a number.
        "exit" => thread::sleep(Duration::from_millis(20)),
        // Prints for ever.
        "yes" => {
            let mut bytes = vec![];
            push_data(&mut bytes, Kind::Stdout, &b"y\n".repeat(500));
            let mut socket = talk.socket.try_clone().ok()?;
            thread::spawn(move || while socket.write_all(&bytes).is_ok() {});
            let signal = talk_signal(&mut talk, &[9])?;
            return talk.end_with(signal);
        }
        // As "yes", with as many messages that mean nothing, and as much credit as there is.
        "flood" => {
            let credit = Reply::Credit(u32::MAX);
            let mut bytes = vec![];
            for _ in 0..1000 {
                push_message(&mut bytes, &credit).unwrap();
            }
            push_data(&mut bytes, Kind::Stdout, &b"y\n".repeat(50_000));
            (0..500).try_for_each(|_| talk.socket.write_all(&bytes).ok())?;
            let signal = talk_signal(&mut talk, &[9])?;
            return talk.end_with(signal);
        }
        // Ends by the signal it is asked to end by.
        "polite" => {
            let signal = talk_signal(&mut talk, &[9, 15])?;
            return talk.end_with(signal);
        }
        // Ends by nothing but KILL.
        "deaf" => {
            let signal = talk_signal(&mut talk, &[9])?;
            return talk.end_with(signal);
        }
        // Does not even hear that.
        _ => {
            talk_signal(&mut talk, &[])?;
        }
    }
    talk.end_with(Status::Code(number.unwrap_or(0)))
}

/// Waits for one of these signals.
fn talk_signal(talk: &mut Talk, heeded: &[u8]) -> Option<Status> {
    loop {
        if let Request::Signal(number) = talk.hear()?
            && heeded.contains(&number)
        {
            return Some(Status::Signal(number));
        }
    }
}

/// A connection that carries messages.
struct Talk {
    socket: UnixStream,
    frames: FrameReader,
}

impl Talk {
    fn new(socket: UnixStream) -> Self {
        Self { socket, frames: FrameReader::new() }
    }

    fn say(&mut self, message: &impl serde::Serialize) -> Option<()> {
        let mut bytes = vec![];
        push_message(&mut bytes, message).unwrap();
        self.socket.write_all(&bytes).ok()
    }

    fn hear<M: serde::de::DeserializeOwned>(&mut self) -> Option<M> {
        loop {
            while let Some(frame) = self.frames.next().unwrap() {
                if frame.kind == Kind::Message {
                    return Some(frame.message().unwrap());
                }
            }
            if self.frames.fill_from(&mut self.socket).ok()? == 0 {
                return None;
            }
        }
    }

    fn end_with(&mut self, status: Status) -> Option<()> {
        self.say(&Reply::Exited(Exit { status, oom: false, uptime_us: 3 }))
    }
}
