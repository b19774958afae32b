//! Frames over a stream socket: each behind its length, four bytes in network byte order, as
//! passt and QEMU's `-netdev stream` have it. The peer is not trusted: nothing it sends, or does
//! not take, makes this side wait, grow or fail beyond the network itself.

use std::io::{IoSlice, IoSliceMut};
use std::mem::take;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::io::{Errno, pwritev};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use vm_memory::VolatileSlice;

use super::header::{ETHERNET, HEADER_LEN, MAX_FRAME};
use crate::devices::virtio::iovec::recycle;

/// Length of the length before each frame, in bytes.
const PREFIX: usize = 4;

/// A connection that carries frames.
pub(super) struct Stream {
    socket: OwnedFd,
    incoming: Incoming,
    /// The end of a frame that the socket had no room for, in a file: the kernel alone may read
    /// what the guest can still change.
    spill: OwnedFd,
    spilled: std::ops::Range<u64>,
    list: Vec<IoSlice<'static>>,
}

/// What has come of the next frame.
struct Incoming {
    bytes: Vec<u8>,
    filled: usize,
    /// The peer ended, or sent what is no frame: where the next one begins is not known.
    over: Option<Errno>,
}

impl Stream {
    /// Frames over `socket`, a connected stream socket that does not block.
    ///
    /// # Errors
    /// The host has no file to spill to.
    pub(super) fn new(socket: OwnedFd) -> Result<Self, Errno> {
        let spill = memfd_create("frame", MemfdFlags::CLOEXEC)?;
        // Room for one frame and the length of the next one.
        let bytes = vec![0; PREFIX + usize::try_from(MAX_FRAME).unwrap_or(0) + PREFIX];
        let incoming = Incoming { bytes, filled: 0, over: None };
        Ok(Self { socket, incoming, spill, spilled: 0..0, list: Vec::new() })
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Takes the next frame, behind a header of zeros: it is a whole frame with all checksums.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when it has not come whole; others when no more will come.
    pub(super) fn receive(&mut self, frame: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        if let Some(why) = self.incoming.over {
            return Err(why);
        }
        loop {
            let wanted = self.incoming.wanted().inspect_err(|e| self.incoming.over = Some(*e))?;
            if let Some(len) = self.incoming.whole(wanted) {
                return Ok(self.incoming.take(len, frame));
            }
            let room = self.incoming.bytes.get_mut(self.incoming.filled..wanted);
            match recv(&self.socket, room.unwrap_or_default(), RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.incoming.over = Some(Errno::CONNRESET),
                Ok((len, _)) => self.incoming.filled += len,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Err(Errno::AGAIN),
                Err(e) => self.incoming.over = Some(e),
            }
            if let Some(why) = self.incoming.over {
                return Err(why);
            }
        }
    }

    /// Sends a frame without its header; keeps what the socket has no room for.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] while the end of another frame is kept, [`Errno::MSGSIZE`] for a frame of
    /// 64 KiB or more, others when the peer is gone.
    pub(super) fn send(&mut self, frame: &[IoSlice<'_>]) -> Result<(), Errno> {
        if self.congested() {
            return Err(Errno::AGAIN);
        }
        let Some((_header, frame)) = frame.split_first() else { return Ok(()) };
        let len: usize = frame.iter().map(|part| part.len()).sum();
        // Peers of this protocol take what fits a packet with its Ethernet header, and may give up
        // on a peer that sends more.
        let Ok(short) = u16::try_from(len) else { return Err(Errno::MSGSIZE) };
        let prefix = u32::from(short).to_be_bytes();
        let mut list = recycle(take(&mut self.list));
        list.push(IoSlice::new(&prefix));
        list.extend(frame.iter().map(|part| IoSlice::new(part)));
        let result = self.begin(&mut list, PREFIX + len);
        self.list = recycle(list);
        result
    }

    /// Whether the end of a frame is kept for which the socket still has no room.
    pub(super) fn congested(&mut self) -> bool {
        while !self.spilled.is_empty() {
            let left = usize::try_from(self.spilled.end - self.spilled.start).unwrap_or(0);
            // The offset moves on by what was sent.
            match sendfile(&self.socket, &self.spill, Some(&mut self.spilled.start), left) {
                Ok(1..) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                // The next frame meets the same error.
                Ok(0) | Err(_) => self.spilled = 0..0,
            }
        }
        false
    }

    fn begin(&mut self, mut list: &mut [IoSlice<'_>], len: usize) -> Result<(), Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match sendmsg(&self.socket, list, &mut SendAncillaryBuffer::default(), flags) {
            Ok(sent) if sent >= len => return Ok(()),
            Ok(sent) => sent,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(e) => return Err(e),
        };
        IoSlice::advance_slices(&mut list, sent);
        let left = u64::try_from(len - sent).unwrap_or(0);
        let kept = pwritev(&self.spill, list, 0)?;
        if u64::try_from(kept) == Ok(left) {
            self.spilled = 0..left;
            return Ok(());
        }
        // Half a frame would turn all that follow into nonsense.
        Err(Errno::IO)
    }
}

impl Incoming {
    /// How many bytes the frame needs with the length of the next one, or to tell its own.
    fn wanted(&self) -> Result<usize, Errno> {
        let prefix = self.bytes.first_chunk::<PREFIX>().filter(|_| self.filled >= PREFIX);
        let Some(prefix) = prefix else { return Ok(PREFIX) };
        let len = u32::from_be_bytes(*prefix);
        if !(ETHERNET..=MAX_FRAME).contains(&len) {
            return Err(Errno::PROTO);
        }
        Ok(PREFIX + usize::try_from(len).map_err(|_| Errno::PROTO)? + PREFIX)
    }

    /// The length of the frame, if it is there.
    fn whole(&self, wanted: usize) -> Option<usize> {
        let end = wanted.checked_sub(PREFIX).filter(|end| (1..=self.filled).contains(end))?;
        end.checked_sub(PREFIX)
    }

    /// Moves the frame of `len` bytes to `frame`, as far as that reaches, and tells how many that
    /// were with the header.
    fn take(&mut self, len: usize, frame: &mut [IoSliceMut<'_>]) -> usize {
        let end = PREFIX + len;
        let body = self.bytes.get(PREFIX..end).unwrap_or_default();
        let moved = scatter([&[0; HEADER_LEN], body], frame);
        self.bytes.copy_within(end..self.filled.max(end), 0);
        self.filled = self.filled.saturating_sub(end);
        moved
    }
}

/// Copies `sources` to `parts`, as far as those reach; tells how many bytes that were. The guest
/// may look on.
fn scatter(sources: [&[u8]; 2], parts: &mut [IoSliceMut<'_>]) -> usize {
    let mut parts = parts.iter_mut();
    let (mut room, mut moved) = (&mut [][..], 0);
    for mut source in sources {
        while !source.is_empty() {
            if room.is_empty() {
                let Some(next) = parts.next() else { return moved };
                room = next;
                continue;
            }
            let len = source.len().min(room.len());
            let (now, later) = source.split_at(len);
            let (filled, rest) = take(&mut room).split_at_mut(len);
            VolatileSlice::from(filled).copy_from(now);
            (source, room, moved) = (later, rest, moved + len);
        }
    }
    moved
}

#[cfg(test)]
mod tests;
