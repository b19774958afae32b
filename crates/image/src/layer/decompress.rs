//! What a layer is packed in, told by its first bytes: what a manifest says of it may be a lie.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::fault::Fault;

/// Bytes read at once.
const READ_BYTES: usize = 128 << 10;
/// Bytes a zstd frame may need behind its position at most: what `zstd -d` takes without being asked.
const ZSTD_WINDOW: u64 = 128 << 20;
/// First bytes that tell a format.
const MAGIC_BYTES: u64 = 6;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// What a frame begins with that a decoder skips; the first byte is 0x50 to 0x5f.
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
/// Formats that are told, not read.
const OTHERS: [(&[u8], &str); 3] =
    [(b"BZh", "bzip2"), (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"), (&[4, 0x22, 0x4d, 0x18], "lz4")];

/// A layer that is being uncompressed.
pub(super) struct Uncompressed<'a> {
    pub(super) bytes: Box<dyn Read + 'a>,
    /// Compressed bytes taken so far.
    pub(super) taken: Rc<Cell<u64>>,
}

/// Finds out how `compressed` is compressed.
pub(super) fn open<'a, R: Read + 'a>(compressed: R) -> Result<Uncompressed<'a>, Fault> {
    let count = Rc::new(Cell::new(0));
    let counted = Counted { source: compressed, count: Rc::clone(&count) };
    let mut source = BufReader::with_capacity(READ_BYTES, counted);
    let mut magic = Vec::new();
    source.by_ref().take(MAGIC_BYTES).read_to_end(&mut magic).map_err(Fault::Read)?;
    if let Some((_, name)) = OTHERS.iter().find(|(other, _)| magic.starts_with(other)) {
        return Err(Fault::Compression(name));
    }
    let (gzip, zstd) = (magic.starts_with(GZIP), is_zstd(&magic));
    let source = Cursor::new(magic).chain(source);
    let bytes: Box<dyn Read + 'a> = if gzip {
        Box::new(MultiGzDecoder::new(source))
    } else if zstd {
        Box::new(Zstd::new(source))
    } else {
        Box::new(source)
    };
    Ok(Uncompressed { bytes, taken: count })
}

fn is_zstd(magic: &[u8]) -> bool {
    let skippable = magic.first().is_some_and(|first| first & 0xf0 == 0x50);
    magic.starts_with(ZSTD) || (skippable && magic.get(1..4) == Some(ZSTD_SKIPPABLE))
}

struct Counted<R> {
    source: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.count.set(self.count.get().saturating_add(u64::try_from(read).unwrap_or(u64::MAX)));
        Ok(read)
    }
}

/// One zstd frame after the other.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW);
        Self { source, decoder, in_frame: false }
    }

    /// Whether there is a frame left; it is begun, or skipped if it holds nothing.
    fn next_frame(&mut self) -> io::Result<bool> {
        if self.source.fill_buf()?.is_empty() {
            return Ok(false);
        }
        match self.decoder.init(&mut self.source) {
            Ok(()) => self.in_frame = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                let length = u64::from(length);
                if io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? != length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
        Ok(true)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                if !self.next_frame()? {
                    return Ok(0);
                }
                continue;
            }
            if self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let strategy = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.source, strategy);
                decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            self.in_frame = !self.decoder.is_finished();
        }
    }
}
