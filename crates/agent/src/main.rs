//! The first process of a container's guest.
//!
//! It comes from an initial RAM file system, connects to the host, makes the container's surroundings
//! as it is told, and runs the processes it is asked for: [`vmm_protocol`] has the conversation.
//!
//! - [`setup`]: the agent's own root, then the container's file systems, [`cgroup`] and [`network`].
//! - [`agent`]: the event loop. [`session`]: one connection, about one [`process`] or [`copy`].
//! - [`spawn`]: from a fork to the program, with [`mounts`], [`user`] and [`caps`].
//!
//! The container is hostile, and so is its image. It runs in namespaces of its own without any mount of
//! the agent, may use docker's devices only ([`vmm_sandbox::devices`]), and cannot make a socket to the host
//! ([`seccomp`]). What the agent does inside of it is done by children that have given up everything
//! the agent has.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::as_conversions))]

mod agent;
mod caps;
mod cgroup;
mod clock;
mod copy;
mod error;
mod init;
mod link;
mod mounts;
mod network;
mod process;
mod seccomp;
mod session;
mod setup;
mod spawn;
mod stats;
mod sys;
mod user;
mod vsock;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitOptions, getpid, wait};
use rustix::system::{RebootCommand, reboot};
use vmm_protocol::{CONTROL_PORT, Notice, Order, Refusal, SESSION_PORT, Setup, Stamp, VERSION};

use crate::agent::Agent;
use crate::clock::{stamp, uptime_us};
use crate::error::{Context, Failure};
use crate::link::{Link, do_not_wait};
use crate::setup::Container;

/// How long processes that were killed may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

fn main() {
    if !getpid().is_init() {
        eprintln!("vmm-agent is the first process of a guest");
        std::process::exit(2);
    }
    if let Err(Failure { what, .. }) = run() {
        eprintln!("vmm-agent: {what}");
    }
    // Without CAP_SYS_BOOT, as another process 1 than the guest's, it can only end.
    let _ = reboot(RebootCommand::PowerOff);
}

fn run() -> Result<(), Failure> {
    let began = stamp("agent");
    let mut control = Link::new(vsock::connect(CONTROL_PORT).context("connect to the host")?);
    let (container, listener, children) = match prepare(&mut control, began) {
        Ok(Some(prepared)) => prepared,
        Ok(None) => return Ok(()),
        Err(failure) => {
            tell_failure(&mut control, &failure.what);
            return Err(failure);
        }
    };
    let mut agent = Agent::new(container, control, listener, children);
    let served = agent.run().context("serve the host");
    end(&mut agent);
    served
}

/// Says hello, and makes everything that is needed before the first process; `None` when the host wants
/// none.
fn prepare(
    control: &mut Link,
    began: Stamp,
) -> Result<Option<(Container, OwnedFd, OwnedFd)>, Failure> {
    let mut stamps = vec![began];
    // From here on the host may connect; it is served when all is ready.
    let listener = vsock::listen_on(SESSION_PORT).context("listen for sessions")?;
    control.say(&Notice::Hello { version: VERSION, uptime_us: uptime_us() });
    control.flush();
    stamps.push(stamp("hello"));
    // Whatever the host will say.
    setup::begin()?;
    stamps.push(stamp("begun"));
    let Some(setup) = order(control)? else { return Ok(None) };
    stamps.push(stamp("ordered"));
    let container = setup::container(setup, &mut stamps)?;
    // All sockets of this kind are there. What the agent starts from here on makes none either.
    seccomp::install().context("install the filter of system calls")?;
    let children = sys::child_signals().context("watch children")?;
    control.say(&Notice::Ready { stamps });
    control.flush();
    do_not_wait(control).context("serve the host")?;
    Ok(Some((container, listener, children)))
}

/// Waits for the host's first order; `None` when that is the end.
fn order(control: &mut Link) -> Result<Option<Setup>, Failure> {
    loop {
        control.receive();
        if let Some(frame) = control.next() {
            return match frame.message() {
                Ok(Order::Setup(setup)) => Ok(Some(*setup)),
                Ok(Order::Shutdown) => Ok(None),
                _ => Err(Failure::new(Refusal::Other, "the host's first order is not a set-up")),
            };
        }
        if control.is_broken() {
            return Err(Failure::new(Refusal::Other, "the host has closed the connection"));
        }
    }
}

/// Kills what still runs, and writes everything to the disks.
fn end(agent: &mut Agent) {
    // Without control groups there would be no container.
    let _ = agent.container.cgroup.kill();
    let deadline = Instant::now() + PATIENCE;
    while wait(WaitOptions::NOHANG).is_ok() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    agent.mounts = None;
    setup::end();
}

/// Tells the host why it gets no container, and waits until it knows.
fn tell_failure(control: &mut Link, what: &str) {
    control.say(&Notice::Failed { what: what.to_owned() });
    control.flush();
    let (fd, _) = control.interest();
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    // The end of the guest would overtake the message. Without an answer it comes all the same.
    let _ = poll(&mut fds, Timespec::try_from(PATIENCE).ok().as_ref());
}
