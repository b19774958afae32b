//! A host network without privilege: passt, a program that speaks to the guest in frames and to
//! the world in sockets of its own (<https://passt.top>).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd, ioctl_fionbio, read};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use thiserror::Error;
use tracing::{debug, warn};

use super::backend::Backend;
use super::header::HEADER_LEN;
use super::stream::Stream;
use crate::config::{self, Protocol};

const PROGRAM: &str = "passt";
/// How long it may take until it answers; what it does by then costs tens of milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// passt that cannot be used.
#[derive(Debug, Error)]
pub enum PasstError {
    /// There is no such program.
    #[error("passt is not installed, which a user network needs (the package is called passt)")]
    Missing,
    /// The program is there, but cannot be run.
    #[error("start passt")]
    Start(#[source] io::Error),
    /// It started and gave up.
    #[error("passt ended: {0}")]
    Ended(String),
    /// The host lacks what it takes to talk to it.
    #[error("connect to passt")]
    Connect(#[source] Errno),
}

/// passt as a host network. The program ends with this, and also when this process dies in any
/// way: it ends when its socket does.
pub struct Passt {
    stream: Stream,
    process: Process,
}

impl Passt {
    /// Starts passt for a guest with the hardware address `mac`, and waits until it serves.
    ///
    /// # Errors
    /// [`PasstError`]; nothing is left behind.
    pub fn start(net: &config::Net, mac: [u8; 6]) -> Result<Self, PasstError> {
        Self::start_program(PROGRAM, net, mac)
    }

    fn start_program(program: &str, net: &config::Net, mac: [u8; 6]) -> Result<Self, PasstError> {
        let (own, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(PasstError::Connect)?;
        ioctl_fionbio(&own, true).map_err(PasstError::Connect)?;
        // The kernel keeps the last words, and no more than fit a pipe: passt never waits for a
        // reader.
        let (words, stderr) =
            pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(PasstError::Connect)?;
        let stream = Stream::new(own).map_err(PasstError::Connect)?;
        // For the child to inherit; nothing else is started meanwhile.
        fcntl_setfd(&theirs, FdFlags::empty()).map_err(PasstError::Connect)?;
        let child = Command::new(program)
            .args(["--foreground", "--quiet", "--fd", &theirs.as_raw_fd().to_string()])
            .args(arguments(net))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => PasstError::Missing,
                _ => PasstError::Start(e),
            })?;
        drop(theirs);
        let mut passt = Self { stream, process: Process { child, words, reported: false } };
        passt.wait_until_it_serves(mac)?;
        Ok(passt)
    }

    /// Asks for a hardware address: an answer, as anything else it sends, says that all ports are
    /// bound.
    fn wait_until_it_serves(&mut self, mac: [u8; 6]) -> Result<(), PasstError> {
        const SENDER: [u8; 4] = [0; 4];
        const TARGET: [u8; 4] = [169, 254, 1, 1];
        let request = [
            &[0xff; 6][..],
            &mac,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &mac,
            &SENDER,
            &[0; 6],
            &TARGET,
        ];
        let _ = self.stream.send(&[&[0; HEADER_LEN][..], &request.concat()].map(IoSlice::new));
        let end = Instant::now() + PATIENCE;
        let mut frame = vec![0; 1 << 17];
        loop {
            match self.stream.receive(&mut [IoSliceMut::new(&mut frame)]) {
                Ok(_) => break,
                Err(Errno::AGAIN) => {}
                Err(_) => return Err(PasstError::Ended(self.process.end())),
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                debug!("passt does not answer: it may have no IPv4");
                break;
            }
            let left = Timespec::try_from(left).ok();
            let _ = poll(&mut [PollFd::new(&self.stream.socket(), PollFlags::IN)], left.as_ref());
        }
        // What it says about its start is not why it ends some day.
        if let Some(said) = self.process.last_words() {
            debug!("passt: {said}");
        }
        Ok(())
    }
}

/// What the user asked for, in the words of passt(1).
fn arguments(net: &config::Net) -> Vec<String> {
    // Services of the host's own loopback interface are not the guest's to use.
    let mut words = vec!["--no-map-gw".to_owned()];
    let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
    if let Some(mtu) = net.largest_packet() {
        add("--mtu", mtu.to_string());
    }
    if let Some(ip) = net.ip {
        add("--address", ip.address().to_string());
        add("--netmask", ip.prefix().to_string());
    }
    if let Some(gateway) = net.gateway {
        add("--gateway", gateway.to_string());
    }
    if let Some(ip6) = net.ip6 {
        add("--address", ip6.to_string());
    }
    for publish in &net.publish {
        let flag = match publish.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        add(flag, format!("{}/{}:{}", publish.address, publish.host_port, publish.guest_port));
    }
    words
}

impl Backend for Passt {
    fn fd(&self) -> RawFd {
        self.stream.socket().as_raw_fd()
    }

    fn features(&self) -> u64 {
        0
    }

    fn set_offloads(&mut self, _features: u64) -> Result<(), Errno> {
        Ok(())
    }

    fn receive(&mut self, frame: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        self.stream.receive(frame).inspect_err(|e| {
            if *e != Errno::AGAIN {
                self.process.report_end();
            }
        })
    }

    fn congested(&mut self) -> bool {
        self.stream.congested()
    }

    fn send(&mut self, frame: &[IoSlice<'_>]) -> Result<(), Errno> {
        self.stream.send(frame)
    }
}

/// The program while it runs. Dropping it ends it and waits for that.
struct Process {
    child: Child,
    /// What it prints on standard error.
    words: OwnedFd,
    reported: bool,
}

impl Process {
    /// Ends it, unless it has ended; tells why that was, in its own words where it had some.
    fn end(&mut self) -> String {
        let status = self.child.try_wait().ok().flatten();
        self.stop();
        let status = || status.map(|status| status.to_string());
        let said = self.last_words().or_else(status);
        said.unwrap_or_else(|| "it does not say why".to_owned())
    }

    fn last_words(&self) -> Option<String> {
        let mut said = [0; 4096];
        let len = read(&self.words, &mut said).unwrap_or(0);
        last_line(said.get(..len).unwrap_or_default())
    }

    fn report_end(&mut self) {
        if !self.reported {
            let said = self.end();
            warn!("passt is gone: {said}");
        }
        self.reported = true;
    }

    fn stop(&mut self) {
        // Both fail once it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The last line of `said` that is about the matter, without what a terminal might obey.
fn last_line(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let about_log = |line: &str| line.starts_with("Failed to send") && line.ends_with("to syslog");
    let mut lines = text.lines().rev().map(str::trim);
    let last = lines.find(|line| !line.is_empty() && !about_log(line))?;
    Some(last.chars().filter(|c| !c.is_control()).collect())
}

#[cfg(test)]
mod tests;
