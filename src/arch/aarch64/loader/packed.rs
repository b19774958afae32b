//! Kernels that are compressed. They are unpacked straight into guest memory, piece by piece.

use std::io::{self, BufReader, Read};

use flate2::bufread::GzDecoder;
use vm_memory::{Bytes, GuestAddress};

use super::header::{self, Header};
use super::{LoadedKernel, Place};
use crate::arch::kernel::KernelError;
use crate::arch::kernel_file::{KernelFile, u32_at};
use crate::memory::GuestMemory;

/// First bytes of a gzip file (RFC 1952).
pub(super) const GZIP_MAGIC: &[u8] = b"\x1f\x8b";
/// Bytes that are unpacked at a time.
const STEP: usize = 64 << 10;

/// An EFI zboot image (Linux: drivers/firmware/efi/libstub/zboot-header.S): where the packed kernel is in the
/// file, how long it is, and the name of the compression.
pub(super) fn load_zboot(
    mem: &GuestMemory,
    file: &KernelFile<'_>,
) -> Result<LoadedKernel, KernelError> {
    const METHOD: std::ops::Range<usize> = 24..56;
    let head = file.head();
    let (Some(offset), Some(size), Some(method)) =
        (u32_at(head, 8), u32_at(head, 12), head.get(METHOD))
    else {
        let end = u64::try_from(header::SIZE).unwrap_or(u64::MAX);
        return Err(KernelError::Truncated { part: "zboot header", end, length: file.length() });
    };
    let (offset, size) = (offset.into(), size.into());
    file.check("packed kernel", offset, size)?;
    let known = METHODS.iter().find(|(name, _)| method.starts_with(name.as_bytes()));
    match known {
        Some(("gzip", _)) => load_gzip(mem, file, offset, size),
        Some(&(_, format)) => Err(KernelError::Compressed { format }),
        None => Err(KernelError::BadImage("its compression has no known name")),
    }
}

/// How zboot images name compressions (Makefile.zboot there), and how others do.
const METHODS: [(&str, &str); 6] = [
    ("gzip", "gzip"),
    ("zstd", "zstd"),
    ("xz", "xz"),
    ("lzma", "lzma"),
    ("lz4", "lz4"),
    ("lzo", "lzo"),
];

/// The `size` bytes at `offset` of the file, which unpack to an Image.
pub(super) fn load_gzip(
    mem: &GuestMemory,
    file: &KernelFile<'_>,
    offset: u64,
    size: u64,
) -> Result<LoadedKernel, KernelError> {
    file.check("packed kernel", offset, size)?;
    let packed = Packed { file, offset, size };
    let mut unpacked = GzDecoder::new(BufReader::with_capacity(STEP, packed));
    let mut buffer = vec![0; STEP];
    let first = fill(&mut unpacked, &mut buffer)?;
    let head = buffer.get(..first).unwrap_or_default();
    let header = Header::parse(head, u64::try_from(first).unwrap_or(u64::MAX))?;
    let place = Place::new(mem, &header, 0)?;
    let mut filled = first;
    let mut done = 0u64;
    while filled > 0 {
        let bytes = buffer.get(..filled).unwrap_or_default();
        let next = done.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
        if next > place.size() {
            return Err(KernelError::BadImage("it unpacks to more than it says"));
        }
        let address = GuestAddress(place.start.saturating_add(done));
        mem.write_slice(bytes, address).map_err(KernelError::Load)?;
        done = next;
        filled = fill(&mut unpacked, &mut buffer)?;
    }
    Ok(place.kernel())
}

/// What is left to read of a part of the file.
struct Packed<'a> {
    file: &'a KernelFile<'a>,
    offset: u64,
    size: u64,
}

impl Read for Packed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = u64::try_from(buffer.len()).unwrap_or(u64::MAX).min(self.size);
        let bytes =
            self.file.read("packed kernel", self.offset, count).map_err(io::Error::other)?;
        for (to, from) in buffer.iter_mut().zip(&bytes) {
            *to = *from;
        }
        self.offset = self.offset.saturating_add(count);
        self.size = self.size.saturating_sub(count);
        Ok(bytes.len())
    }
}

/// Fills the buffer as far as there is something; how far.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize, KernelError> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(KernelError::Unpack(error)),
        }
    }
    Ok(filled)
}
