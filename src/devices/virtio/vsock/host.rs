//! What the host's side brings about: programs that connect, sockets that change, time that passes.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::Errno;
use tracing::debug;

use super::connection::Verdict;
use super::handshake::{Handshake, Step};
use super::muxer::{Loose, Muxer};
use super::poller::{Key, Readiness, Token};

/// Host programs that may be at the start at a time; others wait for their turn.
pub(super) const MAX_HANDSHAKES: usize = 64;
/// Host programs accepted in one wake.
const ACCEPTED: usize = 64;

impl Muxer {
    /// Handles what happened on the host's side, or some of it: what is left keeps the device's
    /// descriptor readable.
    pub(super) fn handle_host(&mut self) {
        let mut events = Vec::new();
        self.poller.poll(|event| events.push(event));
        for event in events {
            match event.token {
                Token::Listener => self.accepting = true,
                Token::Timer => self.look_at_the_clock(),
                Token::Again => {}
                Token::Loose(number) => self.handle_loose(number, &event),
                Token::Connection(key) => self.handle_socket(key, &event),
            }
        }
        self.accept();
    }

    fn handle_socket(&mut self, key: Key, event: &Readiness) {
        if let Some(connection) = self.connections.get_mut(&key) {
            let verdict = connection.observe(event);
            self.settle(key, verdict);
        }
    }

    fn handle_loose(&mut self, number: u32, event: &Readiness) {
        match self.loose.get_mut(&number) {
            Some(Loose::Handshake(handshake)) => match handshake.advance(event) {
                Step::Wait => {}
                Step::Connect(port) => {
                    if let Some(Loose::Handshake(handshake)) = self.loose.remove(&number) {
                        self.request(handshake.socket, port);
                    }
                }
                Step::Refuse => self.drop_handshake(number),
            },
            Some(Loose::Leaving { socket, backlog }) => {
                let done = backlog.flush(socket).is_err() || backlog.is_empty();
                if done {
                    self.loose.remove(&number);
                }
            }
            None => {}
        }
    }

    fn drop_handshake(&mut self, number: u32) {
        self.loose.remove(&number);
        self.counters.refused.inc();
    }

    fn handshakes(&self) -> usize {
        self.loose.values().filter(|loose| matches!(loose, Loose::Handshake(_))).count()
    }

    /// Takes host programs that wait, as many as there is room for.
    fn accept(&mut self) {
        for _ in 0..ACCEPTED {
            if !self.accepting || self.handshakes() >= MAX_HANDSHAKES {
                return;
            }
            match self.listener.accept() {
                Ok(socket) if self.has_room() => self.begin_handshake(socket),
                Ok(_) => self.counters.refused.inc(),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => self.accepting = false,
                Err(e) => {
                    // Most likely there are too many descriptors: some may be free later.
                    debug!("no host program can be accepted: {e}");
                    return self.look_at_the_clock_soon();
                }
            }
        }
        // More may wait, of which nothing else would tell.
        self.poller.wake();
    }

    fn begin_handshake(&mut self, socket: OwnedFd) {
        let deadline = self.deadline();
        let number = self.keep_loose(Loose::Handshake(Handshake { socket, deadline }));
        if let Some(Loose::Handshake(handshake)) = self.loose.get(&number)
            && self.poller.watch(&handshake.socket, Token::Loose(number)).is_err()
        {
            self.drop_handshake(number);
        }
    }

    /// Gives up on those who have let others wait too long, and comes back while any may.
    fn look_at_the_clock(&mut self) {
        self.poller.fired();
        let now = Instant::now();
        let late = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let connections = self.connections.iter();
        let late_connections: Vec<Key> =
            connections.filter(|(_, c)| late(c.deadline)).map(|(key, _)| *key).collect();
        for key in late_connections {
            self.counters.timeouts.inc();
            let known = self.connections.get(&key).is_some_and(|c| c.is_known());
            self.settle(key, if known { Verdict::Reset } else { Verdict::Forget });
        }
        let late_programs: Vec<u32> = (self.loose.iter())
            .filter(|(_, loose)| {
                matches!(loose, Loose::Handshake(Handshake { deadline, .. }) if *deadline <= now)
            })
            .map(|(number, _)| *number)
            .collect();
        for number in late_programs {
            self.counters.timeouts.inc();
            self.drop_handshake(number);
        }
        let waiting = self.connections.values().any(|connection| connection.deadline.is_some());
        if waiting || self.handshakes() > 0 {
            self.look_at_the_clock_soon();
        }
    }
}
