//! Conversations with rtnetlink(7), and the one that every new network namespace needs.

use std::io;

use rustix::fd::OwnedFd;
use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// The index of the loopback interface is the same in every network.
pub const LOOPBACK: u32 = 1;
/// A message that makes or changes an interface, `linux/rtnetlink.h`.
pub const NEW_LINK: u16 = 16;
/// Flags of a message: it changes something, and wants an acknowledgement.
pub const CHANGE: u16 = 0x1 | 0x4;
/// Bytes of a message before its body.
pub const HEADER: usize = 16;

/// The type of an answer.
const ERROR: u16 = 2;

/// A socket to the kernel of this process's network.
///
/// # Errors
/// The kernel's.
pub fn open() -> Result<OwnedFd> {
    // The protocol 0 of the family is rtnetlink.
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
}

/// Sends a message and waits for its acknowledgement.
///
/// # Errors
/// The kernel refuses it, or answers with something else.
pub fn request(socket: &OwnedFd, message: &[u8]) -> Result<()> {
    send(socket, message, SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (len, _) = recv(socket, &mut answer, RecvFlags::empty())?;
    match acknowledged(answer.get(..len).unwrap_or_default()) {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw_os_error(error.saturating_neg())),
        None => Err(Errno::PROTO),
    }
}

/// The error number in an answer, zero or negative.
fn acknowledged(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let error = i32::from_ne_bytes(answer.get(HEADER..)?.first_chunk().copied()?);
    (kind == ERROR).then_some(error)
}

/// Brings the loopback interface up. Takes no memory.
///
/// # Errors
/// This network is not the process's to change.
pub fn loopback_up() -> Result<()> {
    request(&open()?, &loopback_message().map_err(|_| Errno::NOMEM)?)
}

fn loopback_message() -> io::Result<[u8; 32]> {
    use std::io::Write as _;
    const UP: u32 = 1;
    let mut message = [0; 32];
    let mut rest = &mut message[..];
    rest.write_all(&32_u32.to_ne_bytes())?;
    rest.write_all(&NEW_LINK.to_ne_bytes())?;
    rest.write_all(&CHANGE.to_ne_bytes())?;
    // Sequence number and sender, family and type of the interface matter to nobody here.
    rest.write_all(&[0; 12])?;
    for word in [LOOPBACK, UP, UP] {
        rest.write_all(&word.to_ne_bytes())?;
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_error_numbers() {
        let answer = |kind: u16, error: i32| {
            let mut answer = vec![36, 0, 0, 0];
            answer.extend(kind.to_ne_bytes());
            answer.extend([0; 10]);
            answer.extend(error.to_ne_bytes());
            answer
        };
        assert_eq!(acknowledged(&answer(2, 0)), Some(0));
        assert_eq!(acknowledged(&answer(2, -17)), Some(-17));
        assert_eq!(acknowledged(&answer(3, 0)), None);
        assert_eq!(acknowledged(&answer(2, 0)[..18]), None);
        assert_eq!(acknowledged(&[]), None);
    }

    #[test]
    fn message_fills_its_length() {
        let message = loopback_message().unwrap();
        assert_eq!(message[..4], 32_u32.to_ne_bytes());
        assert_eq!(message[20..24], LOOPBACK.to_ne_bytes());
        assert_eq!(message[28..], 1_u32.to_ne_bytes());
    }
}
