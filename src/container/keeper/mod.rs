//! The keeper of a container: starts its machine, keeps its log, serves those who attach, and clears up.
//!
//! It is a process of its own, with one thread, and the only one that knows how its container ended.

mod guest;
mod monitor;
mod relay;
mod stop;
mod visitor;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::event::PollFlags;
use rustix::fs::Mode;
use rustix::process::{setsid, umask};

use super::cgroup;
use super::clock::Timestamp;
use super::log::LOG;
use super::machine::{make_writable, monitor_arguments};
use super::talk::{Ended, Failure, Phase, SOCKET};
use super::timing::{Moment, Moments};
use super::{Container, ContainerError, Containers, Lock, Status};
use guest::{Guest, Patience, Plan};
use monitor::Watch;
use relay::Relay;
use stop::Signals;

/// Exit status of a container that could not be started, or whose machine died.
const FAILED: u8 = 125;

/// Looks after the container called `id` until it has ended. `lock` is the container's, and `command`
/// the connection of whoever asked for it.
///
/// # Errors
/// There is no such container. What goes wrong with it is told to whoever attaches.
pub fn keep(
    containers: &Containers,
    id: &str,
    lock: OwnedFd,
    command: UnixStream,
) -> Result<(), ContainerError> {
    // Fails for the leader of a group, which is then alone already.
    let _ = setsid();
    umask(Mode::RWXG | Mode::RWXO);
    let signals = Signals::new().map_err(ContainerError::Keeper)?;
    let container = containers.get(id)?;
    let lock = Lock::from(lock);
    let mut relay = Relay::new(command, signals);
    let ended = match prepare(containers, &container, &mut relay) {
        Ok(()) => run(&container, &mut relay),
        Err(cause) => failed(Phase::Setup, cause),
    };
    let finished = finish(&container, &lock, &ended);
    // It is everybody's from here on, however slowly somebody reads.
    drop(lock);
    if let Err(e) = finished {
        // Whoever waits hears how it ended all the same.
        relay.note(&format!("what is left of the container: {}", described(&e)));
    }
    relay.say_goodbye(&ended);
    // Nobody may ever ask for anything but further containers: what killed keepers left goes here.
    containers.list().map(drop)
}

/// Makes the files of the container. The error is one line.
fn prepare(
    containers: &Containers,
    container: &Container,
    relay: &mut Relay,
) -> Result<(), String> {
    if container.spec().setup.writable_disk {
        make_writable(containers.paths(), container).map_err(|e| described(&e))?;
    }
    let log = container.file(LOG);
    relay.keep_log(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let socket = container.socket(SOCKET);
    relay.listen(&socket).map_err(|e| format!("{}: {e}", socket.display()))
}

/// Starts the machine and serves it to its end.
fn run(container: &Container, relay: &mut Relay) -> Ended {
    let group = match container.spec().cpus.quota().map(|quota| make_group(container, quota)) {
        Some(Ok(group)) => Some(group),
        Some(Err(e)) => {
            relay.note(&format!("--cpus gives whole processors here: {e}"));
            None
        }
        None => None,
    };
    let plan = match plan(container, relay, group.as_deref()) {
        Ok(plan) => plan,
        Err(e) => return failed(Phase::Setup, format!("start the monitor: {e}")),
    };
    let mut guest = match Guest::start(container, plan) {
        Ok(guest) => guest,
        Err(ended) => return *ended,
    };
    let running = Status::Running { started: Timestamp::now(), keeper: std::process::id() };
    if let Err(e) = container.set_status(&running) {
        return failed(Phase::Run, described(&e));
    }
    let ended = relay.serve(&mut guest, container.spec());
    let moments = Moments { exited: Some(Moment::now()), ..guest.moments };
    guest.end(!container.spec().auto_remove);
    Ended { moments, ..ended }
}

/// How the machine is started, and what ends that.
fn plan<'a>(container: &Container, relay: &Relay, group: Option<&'a Path>) -> io::Result<Plan<'a>> {
    let mut program = Command::new(std::env::current_exe()?);
    program.args(["monitor", "--keeper", &std::process::id().to_string()]);
    program.args(monitor_arguments(container));
    let fd = relay.signals().as_fd().try_clone_to_owned()?;
    let what = "its keeper was told to end";
    let mut watches = vec![Watch { fd, events: PollFlags::IN, what }];
    // A command that is gone before the container has started has changed its mind.
    if let Some(command) = relay.command() {
        let (fd, what) = (command.try_clone_to_owned()?, "whoever asked for it is gone");
        watches.push(Watch { fd, events: PollFlags::RDHUP, what });
    }
    Ok(Plan { program, group, watches, patience: Patience::default() })
}

/// Makes the control group that holds the machine to a part of a processor.
fn make_group(container: &Container, quota: u32) -> io::Result<PathBuf> {
    let group = cgroup::path(container.spec().id.as_str())?;
    container.note_group(&group).map_err(io::Error::other)?;
    cgroup::make(&group, quota)?;
    Ok(group)
}

/// Writes down how the container ended, or removes it if that is wanted.
fn finish(container: &Container, lock: &Lock, ended: &Ended) -> Result<(), ContainerError> {
    if container.spec().auto_remove {
        return container.remove(lock);
    }
    let started = match container.status() {
        Ok(Status::Running { started, .. }) => Some(started),
        _ => None,
    };
    // Who finds no socket any more is to find this.
    container.set_status(&Status::Exited {
        started,
        finished: Timestamp::now(),
        code: ended.code,
        oom: ended.oom,
        error: ended.error.as_ref().map(|failure| failure.cause.clone()),
    })?;
    container.remove_running_parts()
}

/// A container that could not be started, or whose machine died.
fn failed(phase: Phase, cause: String) -> Ended {
    Ended { error: Some(failure(phase, cause, vec![])), ..Ended::with(FAILED, false) }
}

fn failure(phase: Phase, cause: String, details: Vec<String>) -> Failure {
    Failure { phase, cause, details }
}

/// An error with all that caused it, in one line.
fn described(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn not_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests;
