//! What the process inside says to the one outside: when its steps ended, or what went wrong.
//!
//! It is said through a socket, in one write for each of the two, so that neither takes memory nor locks. The
//! answer is one byte: the program may begin.

use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::io::{Errno, read, retry_on_intr};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use crate::clock::Moment;

/// The steps whose ends the process inside notes, in order: it is in its namespaces; the image is its root;
/// `/proc`, `/sys` and `/dev` are there, and what is to be hidden is; it has lost what rights it is to lose.
pub(super) const STEPS: [&str; 4] = ["namespaces", "root", "files", "rights"];

/// The ends of the socket, outside and inside.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Lets the program begin; to whom has ended it does not matter any more.
pub(super) fn allow(outside: &OwnedFd) {
    let _ = send(outside, &[1], SendFlags::NOSIGNAL);
}

/// Waits until the program may begin; an error when it may not.
pub(super) fn await_allowed(inside: &OwnedFd) -> Result<(), Errno> {
    match retry_on_intr(|| read(inside, &mut [0]))? {
        0 => Err(Errno::PIPE),
        _ => Ok(()),
    }
}

/// The stamps of the process inside.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    nanos: [u64; STEPS.len()],
    len: usize,
}

/// Bytes of the stamps in the pipe.
const STAMPS: usize = STEPS.len() * 8;
/// The most that is said.
const LONGEST: usize = 512;
/// What is said begins with one of these.
const STAMPED: u8 = 0;
const SURROUNDINGS: u8 = 1;
const PROGRAM: u8 = 2;

impl Stamps {
    /// The next step has ended.
    pub(super) fn put(&mut self) {
        if let Some(place) = self.nanos.get_mut(self.len) {
            *place = Moment::now().nanos();
            self.len += 1;
        }
    }

    /// Says all of them; an error when nobody is there to hear it.
    pub(super) fn tell(&self, socket: &OwnedFd) -> Result<(), Errno> {
        let mut bytes = [STAMPED; 1 + STAMPS];
        for (place, nanos) in bytes[1..].chunks_exact_mut(8).zip(self.nanos) {
            place.copy_from_slice(&nanos.to_ne_bytes());
        }
        send(socket, &bytes, SendFlags::NOSIGNAL).map(|_| ())
    }
}

/// What went wrong inside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault<T> {
    /// What was tried.
    pub(super) what: T,
    /// The reason.
    pub(super) errno: Errno,
    /// Whether the container was ready, and only the program could not begin.
    pub(super) exec: bool,
}

impl Fault<&[u8]> {
    /// Says it, cut short if it is long.
    pub(super) fn tell(&self, socket: &OwnedFd) {
        let mut bytes = [0; LONGEST];
        let mut rest = &mut bytes[..];
        // After the stamps, which are those there are.
        let kind = if self.exec { PROGRAM } else { SURROUNDINGS };
        let _ = rest.write_all(&[kind]);
        let _ = rest.write_all(&self.errno.raw_os_error().to_ne_bytes());
        let _ = rest.write_all(self.what);
        let free = rest.len();
        // Who does not hear it sees the end of the process.
        let _ = send(socket, &bytes[..LONGEST - free], SendFlags::NOSIGNAL);
    }
}

/// Everything that was said.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) stamps: Vec<(&'static str, Moment)>,
    pub(super) fault: Option<Fault<String>>,
}

impl Report {
    /// Hears all, until the program begins or the process ends.
    pub(super) fn read(socket: &OwnedFd) -> Self {
        let mut said = vec![];
        let mut part = [0; LONGEST];
        while let Ok(len @ 1..) = retry_on_intr(|| read(socket, &mut part)) {
            said.extend_from_slice(&part[..len]);
        }
        Self::parse(&said)
    }

    fn parse(said: &[u8]) -> Self {
        let never = || Fault {
            what: "the process ended before its program began".to_owned(),
            errno: Errno::CHILD,
            exec: false,
        };
        let (stamps, rest) = match said.first() {
            Some(&STAMPED) => said[1..].split_at(STAMPS.min(said.len() - 1)),
            _ => (&[][..], said),
        };
        let nanos = stamps
            .chunks_exact(8)
            .filter_map(|bytes| Some(u64::from_ne_bytes(bytes.try_into().ok()?)));
        let stamps = STEPS.into_iter().zip(nanos.map(Moment::from_nanos)).collect::<Vec<_>>();
        let fault = match rest {
            [] if stamps.is_empty() => Some(never()),
            [] => None,
            [kind, number @ ..] => Some(Fault {
                errno: number.first_chunk().map_or(Errno::CHILD, |bytes| {
                    Errno::from_raw_os_error(i32::from_ne_bytes(*bytes))
                }),
                what: String::from_utf8_lossy(number.get(4..).unwrap_or_default()).into_owned(),
                exec: *kind == PROGRAM,
            }),
        };
        Self { stamps, fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is heard of what `tell` says.
    fn heard(tell: impl FnOnce(&OwnedFd)) -> Report {
        let (outside, inside) = pair().unwrap();
        tell(&inside);
        drop(inside);
        Report::read(&outside)
    }

    #[test]
    fn stamps_come_with_their_steps() {
        let report = heard(|socket| {
            let mut stamps = Stamps::default();
            (0..9).for_each(|_| stamps.put());
            stamps.tell(socket).unwrap();
        });
        let steps: Vec<&str> = report.stamps.iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, STEPS);
        assert!(report.stamps.is_sorted_by_key(|(_, moment)| *moment));
        assert_eq!(report.fault, None);
    }

    #[test]
    fn faults_come_with_or_without_stamps() {
        let long = [b'x'; 2 * LONGEST];
        fn fault(what: &[u8], exec: bool) -> Fault<&[u8]> {
            Fault { what, errno: Errno::ACCESS, exec }
        }
        let report = heard(|socket| fault(b"mount /proc", false).tell(socket));
        let expected = Fault { what: "mount /proc".into(), errno: Errno::ACCESS, exec: false };
        assert_eq!((report.fault, report.stamps.len()), (Some(expected), 0));
        let report = heard(|socket| {
            Stamps::default().tell(socket).unwrap();
            fault(&long, true).tell(socket);
        });
        assert_eq!(report.stamps.len(), STEPS.len());
        let said = report.fault.unwrap();
        assert!(said.exec && said.what.len() < LONGEST && said.errno == Errno::ACCESS);
    }

    #[test]
    fn silence_and_nonsense_are_faults() {
        assert_eq!(heard(|_| ()).fault.unwrap().errno, Errno::CHILD);
        for said in [&[STAMPED][..], &[PROGRAM], &[SURROUNDINGS, 1, 2], &[77; 3]] {
            assert!(Report::parse(said).fault.is_some(), "{said:?}");
        }
        let cut = [STAMPED, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(Report::parse(&cut).stamps.len(), 1);
    }
}
