//! Frames: a kind (1 byte), a length (4 bytes, little-endian), and that many bytes.

use std::io::{self, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Bytes before the payload of a frame.
pub const HEADER_LEN: usize = 5;

/// The longest payload of a frame that carries bytes of a stream.
pub const MAX_DATA: usize = 64 << 10;

/// The longest payload of a message.
pub const MAX_MESSAGE: usize = 256 << 10;

/// Bytes that [`FrameReader::fill_from`] takes at a time: at first, and when so much keeps coming.
const FIRST_READ: usize = 4 << 10;
const READ: usize = 64 << 10;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message in JSON; which ones are possible depends on connection and direction.
    Message,
    /// Input of a process, or a tar stream that goes in.
    Stdin,
    /// Output of a process, everything a terminal shows, or a tar stream that comes out.
    Stdout,
    /// Error output of a process without a terminal.
    Stderr,
}

impl Kind {
    fn from_byte(byte: u8) -> Result<Self, FrameError> {
        match byte {
            1 => Ok(Self::Message),
            2 => Ok(Self::Stdin),
            3 => Ok(Self::Stdout),
            4 => Ok(Self::Stderr),
            kind => Err(FrameError::UnknownKind { kind }),
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Message => 1,
            Self::Stdin => 2,
            Self::Stdout => 3,
            Self::Stderr => 4,
        }
    }

    fn limit(self) -> usize {
        match self {
            Self::Message => MAX_MESSAGE,
            Self::Stdin | Self::Stdout | Self::Stderr => MAX_DATA,
        }
    }
}

/// Why the other side cannot be understood, or a message not be sent. The connection is of no further
/// use.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The kind is none of [`Kind`].
    #[error("unknown frame kind {kind}")]
    UnknownKind {
        /// The byte that should be a kind.
        kind: u8,
    },
    /// The length is none the kind may have: too long, or zero.
    #[error("frame of {len} bytes: 1 to {limit} are possible")]
    Length {
        /// What the frame says.
        len: usize,
        /// What its kind allows.
        limit: usize,
    },
    /// A message that is no JSON, or not one that is expected here.
    #[error("message that makes no sense")]
    Message(#[source] serde_json::Error),
    /// A frame of a kind that is not expected here.
    #[error("frame of bytes in place of a message")]
    NoMessage,
}

/// One frame, checked against the limits of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it carries.
    pub kind: Kind,
    /// At least one byte.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// The message it carries.
    ///
    /// # Errors
    /// It carries none, or not one of type `M`.
    pub fn message<M: DeserializeOwned>(&self) -> Result<M, FrameError> {
        match self.kind {
            Kind::Message => serde_json::from_slice(self.payload).map_err(FrameError::Message),
            _ => Err(FrameError::NoMessage),
        }
    }
}

/// Takes bytes as they come and hands out whole frames.
///
/// Between calls of [`FrameReader::next`] that return `None` it holds one frame at most, and what was
/// fed last: 320 KiB when fed by [`FrameReader::fill_from`].
#[derive(Debug)]
pub struct FrameReader {
    bytes: Vec<u8>,
    /// Bytes at the front that were handed out.
    taken: usize,
    /// Bytes to ask for next: most connections carry a few messages, for which room would be made and cleared.
    step: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self { bytes: vec![], taken: 0, step: FIRST_READ }
    }
}

impl FrameReader {
    /// One that has read nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes of the connection.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.discard_taken();
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds what one `read` of `source` returns, 64 KiB at most; 0 says that the stream has ended.
    ///
    /// # Errors
    /// The error of `read`; nothing was added then.
    pub fn fill_from(&mut self, source: &mut impl Read) -> io::Result<usize> {
        self.discard_taken();
        let before = self.bytes.len();
        self.bytes.resize(before.saturating_add(self.step), 0);
        let result = source.read(self.bytes.get_mut(before..).unwrap_or_default());
        let read = *result.as_ref().unwrap_or(&0);
        self.bytes.truncate(before.saturating_add(read));
        if read == self.step {
            self.step = self.step.saturating_mul(2).min(READ);
        }
        result
    }

    /// The next whole frame; `None` until more bytes are fed.
    ///
    /// # Errors
    /// What comes next is no frame. Every later call says so again.
    #[expect(clippy::should_implement_trait, reason = "a frame borrows from its reader")]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let Some(([kind, len @ ..], rest)) = rest.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let kind = Kind::from_byte(*kind)?;
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
        check(kind, len)?;
        let Some(payload) = rest.get(..len) else { return Ok(None) };
        self.taken = self.taken.saturating_add(HEADER_LEN).saturating_add(len);
        Ok(Some(Frame { kind, payload }))
    }

    /// Whether it holds the beginning of a frame: a stream that ends now is cut off.
    pub fn is_within_frame(&self) -> bool {
        self.taken < self.bytes.len()
    }

    fn discard_taken(&mut self) {
        self.bytes.drain(..self.taken.min(self.bytes.len()));
        self.taken = 0;
    }
}

fn check(kind: Kind, len: usize) -> Result<(), FrameError> {
    let limit = kind.limit();
    if len == 0 || len > limit {
        return Err(FrameError::Length { len, limit });
    }
    Ok(())
}

/// Appends `message` as a frame to `out`.
///
/// # Errors
/// It is longer than [`MAX_MESSAGE`]; `out` is as before.
pub fn push_message(out: &mut Vec<u8>, message: &impl Serialize) -> Result<(), FrameError> {
    let payload = serde_json::to_vec(message).map_err(FrameError::Message)?;
    check(Kind::Message, payload.len())?;
    push(out, Kind::Message, &payload);
    Ok(())
}

/// Appends `bytes` of a stream as frames to `out`: as many as they need, none for no bytes.
pub fn push_data(out: &mut Vec<u8>, kind: Kind, bytes: &[u8]) {
    for payload in bytes.chunks(MAX_DATA) {
        push(out, kind, payload);
    }
}

fn push(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    // The callers have checked the length, so that it fits.
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.reserve(HEADER_LEN.saturating_add(payload.len()));
    out.push(kind.byte());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn frames(reader: &mut FrameReader) -> Result<Vec<(u8, Vec<u8>)>, FrameError> {
        let mut list = vec![];
        while let Some(frame) = reader.next()? {
            list.push((frame.kind.byte(), frame.payload.to_vec()));
        }
        Ok(list)
    }

    fn header(kind: u8, len: u32) -> Vec<u8> {
        [[kind].as_slice(), &len.to_le_bytes()].concat()
    }

    #[test]
    fn message_returns_as_it_was_sent() {
        let mut out = vec![];
        push_message(&mut out, &("x", 7)).unwrap();
        assert_eq!(out, b"\x01\x07\0\0\0[\"x\",7]");
        let mut reader = FrameReader::new();
        reader.feed(&out);
        let frame = reader.next().unwrap().unwrap();
        assert_eq!(frame.message::<(String, u8)>().unwrap(), ("x".into(), 7));
        assert!(matches!(frame.message::<u8>(), Err(FrameError::Message(_))));
    }

    #[test]
    fn bytes_in_place_of_a_message_are_refused() {
        let frame = Frame { kind: Kind::Stdout, payload: b"1" };
        assert!(matches!(frame.message::<u8>(), Err(FrameError::NoMessage)));
    }

    #[test]
    fn oversized_message_is_not_sent() {
        let mut out = vec![1];
        let long = "x".repeat(MAX_MESSAGE - 1);
        assert!(matches!(push_message(&mut out, &long), Err(FrameError::Length { .. })));
        assert_eq!(out, [1]);
        push_message(&mut out, &&long[1..]).unwrap();
    }

    /// V12: an oversized frame, a negative length, an empty frame, a kind that is none.
    #[test]
    fn impossible_headers_are_refused_before_their_payload() {
        let data = u32::try_from(MAX_DATA).unwrap();
        let message = u32::try_from(MAX_MESSAGE).unwrap();
        for (kind, len) in [
            (1, message + 1),
            (2, data + 1),
            (3, data + 1),
            (4, u32::MAX),
            (1, 0x8000_0000),
            (3, 0),
        ] {
            let mut reader = FrameReader::new();
            reader.feed(&header(kind, len));
            assert!(matches!(reader.next(), Err(FrameError::Length { .. })), "{kind} {len}");
            assert!(matches!(reader.next(), Err(FrameError::Length { .. })), "and stays refused");
        }
        for kind in [0, 5, 255] {
            let mut reader = FrameReader::new();
            reader.feed(&header(kind, 1));
            assert!(matches!(reader.next(), Err(FrameError::UnknownKind { .. })), "{kind}");
        }
        for (kind, len) in [(1, message), (2, data), (3, 1)] {
            let mut reader = FrameReader::new();
            reader.feed(&header(kind, len));
            assert!(reader.next().unwrap().is_none(), "waits for {len} bytes");
            assert!(reader.is_within_frame());
        }
    }

    #[test]
    fn reader_fed_by_reads_holds_no_more_than_a_frame_and_a_read() {
        let mut stream = header(1, MAX_MESSAGE as u32);
        stream.resize(HEADER_LEN + MAX_MESSAGE, b'x');
        let stream = stream.repeat(8);
        let (mut source, mut reader, mut seen) = (stream.as_slice(), FrameReader::new(), 0);
        while reader.fill_from(&mut source).unwrap() > 0 {
            seen += frames(&mut reader).unwrap().len();
            assert!(reader.bytes.len() <= HEADER_LEN + MAX_MESSAGE + READ);
        }
        assert_eq!(seen, 8);
        assert!(!reader.is_within_frame());
    }

    #[test]
    fn failed_read_adds_nothing() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
        let mut reader = FrameReader::new();
        reader.feed(&[1]);
        assert!(reader.fill_from(&mut Broken).is_err());
        assert_eq!(reader.bytes, [1]);
    }

    proptest! {
        #[test]
        fn any_stream_in_any_pieces_returns_as_it_was_sent(
            payloads in vec((2u8..=4, vec(any::<u8>(), 0..5000)), 0..6),
            pieces in vec(1usize..700, 1..100),
        ) {
            let mut out = vec![];
            for (kind, payload) in &payloads {
                push_data(&mut out, Kind::from_byte(*kind).unwrap(), payload);
            }
            let (mut rest, mut got, mut reader) = (out.as_slice(), vec![], FrameReader::new());
            for piece in pieces.iter().cycle() {
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                reader.feed(now);
                got.extend(frames(&mut reader).unwrap());
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            let sent: Vec<_> = payloads.into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn any_bytes_are_frames_or_refused(bytes in vec(any::<u8>(), 0..4000)) {
            let mut reader = FrameReader::new();
            reader.feed(&bytes);
            if let Ok(list) = frames(&mut reader) {
                let length: usize = list.iter().map(|(_, payload)| HEADER_LEN + payload.len()).sum();
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
