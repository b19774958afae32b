//! A terminal for a command, as a person has it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::world::{number, wait_for_end};

/// A command on a terminal of its own.
pub struct Pty {
    control: File,
    child: Child,
    /// What it printed.
    seen: Vec<u8>,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Pty {
    /// Starts `command` on a terminal of that size.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Self {
        let control = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
        let control = control.expect("terminal");
        grantpt(&control).expect("granted");
        unlockpt(&control).expect("unlocked");
        tcsetwinsize(&control, size(rows, columns)).expect("size");
        let name = ptsname(&control, vec![]).expect("name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs: OwnedFd = open(name.as_c_str(), flags, Mode::empty()).expect("terminal");
        let stream = || Stdio::from(theirs.try_clone().expect("descriptor"));
        // A session of its own, which the terminal controls.
        let mut line = Command::new("setsid");
        line.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            line.env(name, value.expect("set"));
        }
        let child = line.stdin(stream()).stdout(stream()).stderr(stream()).spawn();
        Self { control: control.into(), child: child.expect("setsid"), seen: vec![] }
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.control, size(rows, columns)).expect("size");
    }

    pub fn type_in(&mut self, keys: &[u8]) {
        self.control.write_all(keys).expect("type");
    }

    /// Reads until `text` was printed; forgets and returns everything up to there.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let now = String::from_utf8_lossy(&self.seen).into_owned();
            if let Some(at) = now.find(text) {
                self.seen = now.as_bytes()[at + text.len()..].to_vec();
                return now[..at + text.len()].to_owned();
            }
            assert!(self.read() && Instant::now() < deadline, "no {text:?} in {now:?}");
        }
    }

    /// Takes the terminal away, as when its window is closed; returns how the command ended.
    pub fn hang_up(mut self) -> i32 {
        self.control = File::open("/dev/null").expect("nothing");
        number(wait_for_end(&mut self.child))
    }

    /// Reads to the end; returns what was printed, and the exit status.
    pub fn finish(mut self) -> (String, i32) {
        while self.read() {}
        let status = number(wait_for_end(&mut self.child));
        (String::from_utf8_lossy(&self.seen).into_owned(), status)
    }

    /// `false` at the end, or when nothing has come for long.
    fn read(&mut self) -> bool {
        let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.control, PollFlags::IN)];
        if poll(&mut fds, Some(&limit)) == Ok(0) {
            return false;
        }
        let mut bytes = [0; 4096];
        let count = self.control.read(&mut bytes).unwrap_or(0);
        // How often lines are ended is a matter of how many terminals there are on the way.
        self.seen.extend(bytes[..count].iter().filter(|byte| **byte != b'\r'));
        count > 0
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // It has ended, unless the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
