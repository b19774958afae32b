//! The line with which a host program names the guest's port: `CONNECT 1234`.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, recv};

use super::packet::ANY_PORT;
use super::poller::Readiness;

/// Most bytes of the line, its end included.
const MAX_LINE: usize = 32;

/// A host program that has connected, and not said yet where to.
#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) socket: OwnedFd,
    /// When it has waited too long.
    pub(super) deadline: Instant,
}

/// How far a host program came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The line is not complete.
    Wait,
    /// It wants this port of the guest.
    Connect(u32),
    /// It says something else, or has gone.
    Refuse,
}

impl Handshake {
    /// Reads the line, once it is complete, and no byte of what follows it.
    pub(super) fn advance(&self, event: &Readiness) -> Step {
        let mut line = [0; MAX_LINE];
        let peeked = retry_on_intr(|| recv(&self.socket, &mut line, RecvFlags::PEEK));
        let len = match peeked {
            Ok((len, _)) => len,
            Err(Errno::AGAIN) => 0,
            Err(_) => return Step::Refuse,
        };
        let seen = line.get(..len).unwrap_or_default();
        let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
            return if len == MAX_LINE || event.ended { Step::Refuse } else { Step::Wait };
        };
        let Some(port) = seen.get(..end).and_then(parse) else { return Step::Refuse };
        // The bytes are there: reading them cannot fail or be short.
        let (taken, _) = line.split_at_mut(end + 1);
        match retry_on_intr(|| recv(&self.socket, &mut *taken, RecvFlags::empty())) {
            Ok((got, _)) if got == end + 1 => Step::Connect(port),
            _ => Step::Refuse,
        }
    }
}

fn parse(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(b"CONNECT ")?;
    // Parsing alone would take a sign.
    let digits = Some(digits).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let port = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(port).filter(|port| *port != ANY_PORT)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::super::poller::Token;
    use super::*;

    const OPEN: Readiness = Readiness {
        token: Token::Loose(3),
        readable: true,
        writable: true,
        ended: false,
        gone: false,
    };

    fn pair() -> (Handshake, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Handshake { socket: ours.into(), deadline: Instant::now() }, theirs)
    }

    #[test]
    fn line_that_comes_byte_by_byte_is_read_to_its_end_and_no_further() {
        let (handshake, mut program) = pair();
        assert_eq!(handshake.advance(&OPEN), Step::Wait);
        for byte in b"CONNECT 4294967294" {
            program.write_all(&[*byte]).unwrap();
            assert_eq!(handshake.advance(&OPEN), Step::Wait);
        }
        program.write_all(b"\nhello").unwrap();
        assert_eq!(handshake.advance(&OPEN), Step::Connect(u32::MAX - 1));
        let mut rest = [0; 16];
        let len = UnixStream::from(handshake.socket).read(&mut rest).unwrap();
        assert_eq!(&rest[..len], b"hello");
    }

    /// V11.
    #[test]
    fn lines_that_are_no_request_are_refused_at_their_end_or_after_32_bytes() {
        for line in [
            "CONNECT x\n",
            "CONNECT \n",
            "CONNECT\n",
            "\n",
            "CONNECT -1\n",
            "CONNECT +1\n",
            "CONNECT 1 2\n",
            "CONNECT 1\r\n",
            "CONNECT  1\n",
            "connect 1\n",
            "CONNECT 4294967295\n",
            "CONNECT 4294967296\n",
            "CONNECT 1\0\n",
            "CONNECT 00000000000000000000001\n",
            "GET / HTTP/1.1\r\nHost: guest\r\n\r\n",
            &"C".repeat(1 << 17),
        ] {
            let (handshake, mut program) = pair();
            program.set_nonblocking(true).unwrap();
            let written = program.write(line.as_bytes()).unwrap();
            assert!(written > 0);
            let expected = match line {
                // A number is a number, if it fits the line.
                "CONNECT 00000000000000000000001\n" => Step::Connect(1),
                _ => Step::Refuse,
            };
            assert_eq!(handshake.advance(&OPEN), expected, "{line:.40}");
        }
    }

    /// V11.
    #[test]
    fn program_that_goes_before_the_end_of_its_line_is_refused() {
        let (handshake, mut program) = pair();
        program.write_all(b"CONNECT 1").unwrap();
        assert_eq!(handshake.advance(&OPEN), Step::Wait);
        assert_eq!(handshake.advance(&Readiness { ended: true, ..OPEN }), Step::Refuse);
        program.write_all(b"\n").unwrap();
        assert_eq!(handshake.advance(&Readiness { ended: true, ..OPEN }), Step::Connect(1));
    }
}
