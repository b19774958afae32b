//! What the two ends of an emulated host say to each other: frames on one virtio-serial port.
//!
//! A frame is one byte of kind, four bytes of length (little-endian) and that many bytes. Both ends
//! are this very program, so the format carries no version.

use std::io::{self, Write};

/// The largest payload of one frame, in bytes.
pub(crate) const MAX_PAYLOAD: usize = 32 * 1024;

const HEADER: usize = 5;

/// A message in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Host to outside: the command is about to start.
    Ready,
    /// Outside to host: bytes for the command's standard input; none at its end.
    Stdin(Vec<u8>),
    /// Outside to host: the terminal has this many rows and columns.
    Resize(u16, u16),
    /// Outside to host: nothing, once in a while. Its interrupt wakes a processor that slept through one.
    Tick,
    /// Host to outside: the command wrote to its standard output.
    Stdout(Vec<u8>),
    /// Host to outside: the command wrote to its standard error.
    Stderr(Vec<u8>),
    /// Host to outside: the command ended with this status (128+n: by signal n).
    Exit(i32),
}

impl Frame {
    fn parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Ready => (b'r', vec![]),
            Self::Stdin(bytes) => (b'i', bytes.clone()),
            Self::Resize(rows, columns) => {
                (b'w', [rows.to_le_bytes(), columns.to_le_bytes()].concat())
            }
            Self::Tick => (b't', vec![]),
            Self::Stdout(bytes) => (b'o', bytes.clone()),
            Self::Stderr(bytes) => (b'e', bytes.clone()),
            Self::Exit(code) => (b'x', code.to_le_bytes().to_vec()),
        }
    }

    fn from_parts(kind: u8, payload: &[u8]) -> Option<Self> {
        Some(match kind {
            b'r' => Self::Ready,
            b'i' => Self::Stdin(payload.to_vec()),
            b'w' => {
                let (rows, columns) = payload.split_at_checked(2)?;
                let number = |bytes: &[u8]| Some(u16::from_le_bytes(bytes.try_into().ok()?));
                Self::Resize(number(rows)?, number(columns)?)
            }
            b't' => Self::Tick,
            b'o' => Self::Stdout(payload.to_vec()),
            b'e' => Self::Stderr(payload.to_vec()),
            b'x' => Self::Exit(i32::from_le_bytes(payload.try_into().ok()?)),
            _ => return None,
        })
    }

    /// Writes the frame in one call, so that writers on several threads need only a lock.
    ///
    /// # Errors
    /// Writing fails, or the payload is larger than [`MAX_PAYLOAD`].
    pub(crate) fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = self.parts();
        if payload.len() > MAX_PAYLOAD {
            return Err(io::Error::other("frame too large"));
        }
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.push(kind);
        bytes.extend(length.to_le_bytes());
        bytes.extend(payload);
        out.write_all(&bytes)
    }
}

/// Cuts a stream of bytes, arriving in any pieces, into frames.
#[derive(Default)]
pub(crate) struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// Adds bytes that arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next complete frame, if there is one.
    ///
    /// # Errors
    /// The stream is not one of frames.
    pub(crate) fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        let Some((&[kind, a, b, c, d], rest)) = self.pending.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let broken = || io::Error::other("the stream from the other side is broken");
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(io::Error::other)?;
        if length > MAX_PAYLOAD {
            return Err(broken());
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = Frame::from_parts(kind, payload).ok_or_else(broken)?;
        self.pending.drain(..HEADER + length);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_fragmentation() {
        let frames = [
            Frame::Ready,
            Frame::Stdin(vec![]),
            Frame::Resize(50, 132),
            Frame::Tick,
            Frame::Stdout((0..=255).collect()),
            Frame::Stderr(vec![0; MAX_PAYLOAD]),
            Frame::Exit(-1),
        ];
        let mut bytes = vec![];
        for frame in &frames {
            frame.write_to(&mut bytes).unwrap();
        }
        for size in [1, 3, 7, 4096, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut decoded = vec![];
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    decoded.push(frame);
                }
            }
            assert_eq!(decoded, frames, "pieces of {size}");
        }
    }

    #[test]
    fn nonsense_is_refused_without_waiting_for_more() {
        for bytes in [b"?\0\0\0\0".as_slice(), b"o\xff\xff\xff\xff", b"x\x01\0\0\0a"] {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            assert!(decoder.next_frame().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn oversized_payload_is_refused_by_the_writer() {
        let frame = Frame::Stdout(vec![0; MAX_PAYLOAD + 1]);
        assert!(frame.write_to(&mut vec![]).is_err());
    }
}
