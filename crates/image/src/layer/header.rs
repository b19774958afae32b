//! The 512-byte header of a tar member: old, ustar, star and GNU.

use super::fault::Fault;
use super::sparse::Stretch;

/// The unit of an archive.
pub(crate) const BLOCK: usize = 512;

/// A field: where it begins and how long it is.
type Field = (usize, usize);

const NAME: Field = (0, 100);
const MODE: Field = (100, 8);
const UID: Field = (108, 8);
const GID: Field = (116, 8);
const SIZE: Field = (124, 12);
const MTIME: Field = (136, 12);
const CHECKSUM: Field = (148, 8);
const KIND: Field = (156, 1);
const LINK: Field = (157, 100);
const MAGIC: Field = (257, 8);
const MAJOR: Field = (329, 8);
const MINOR: Field = (337, 8);
const PREFIX: Field = (345, 155);
/// The prefix in star's form, which has two times after it, and what tells that form.
const STAR_PREFIX: Field = (345, 131);
const STAR_MAGIC: Field = (508, 4);
const GNU_SPARSE: Field = (386, 96);
const GNU_IS_EXTENDED: Field = (482, 1);
const GNU_REAL_SIZE: Field = (483, 12);
/// In a block that goes on with a GNU sparse map.
const MORE_SPARSE: Field = (0, 504);
const MORE_IS_EXTENDED: Field = (504, 1);

/// Bytes of a stretch in a GNU sparse map, and of each of its two numbers.
const STRETCH: usize = 24;
const NUMBER: usize = 12;

/// A part of the map of a GNU sparse member.
pub(super) struct MapPart {
    pub(super) stretches: Vec<Stretch>,
    /// Whether a block with more follows.
    pub(super) more: bool,
}

/// A header, not yet interpreted.
#[derive(Debug)]
pub(crate) struct Header([u8; BLOCK]);

impl Header {
    /// Takes a block whose checksum is right; `None` for one of zeroes.
    pub(crate) fn new(block: [u8; BLOCK]) -> Result<Option<Self>, Fault> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Self(block);
        let sum = |from: usize, to: usize| -> u64 {
            header.field((from, to - from)).iter().map(|byte| u64::from(*byte)).sum()
        };
        let (start, len) = CHECKSUM;
        // The field itself counts as spaces.
        let spaces = u64::from(b' ') * 8;
        if header.number(CHECKSUM)? != Some(sum(0, start) + spaces + sum(start + len, BLOCK)) {
            return Err(Fault::Tar("the checksum of a header is wrong"));
        }
        Ok(Some(header))
    }

    fn field(&self, (start, len): Field) -> &[u8] {
        self.0.get(start..start + len).unwrap_or_default()
    }

    /// A number that cannot be negative; `None` if it is.
    fn number(&self, field: Field) -> Result<Option<u64>, Fault> {
        Ok(u64::try_from(number(self.field(field))?).ok())
    }

    fn positive(&self, field: Field) -> Result<u64, Fault> {
        self.number(field)?.ok_or(Fault::Tar("a number of a header is negative"))
    }

    fn is_gnu(&self) -> bool {
        self.field(MAGIC) == b"ustar  \0"
    }

    fn is_ustar(&self) -> bool {
        self.field(MAGIC).starts_with(b"ustar\0")
    }

    pub(crate) fn name(&self) -> Vec<u8> {
        let name = text(self.field(NAME));
        let star = self.field(STAR_MAGIC) == b"tar\0";
        let prefix = text(self.field(if star { STAR_PREFIX } else { PREFIX }));
        if self.is_ustar() && !prefix.is_empty() {
            return [prefix, b"/", name].concat();
        }
        name.to_vec()
    }

    pub(crate) fn link(&self) -> Vec<u8> {
        text(self.field(LINK)).to_vec()
    }

    pub(crate) fn kind(&self) -> u8 {
        self.field(KIND).first().copied().unwrap_or_default()
    }

    /// Rights with set-user-ID, set-group-ID and sticky bit.
    pub(super) fn mode(&self) -> Result<u16, Fault> {
        let mode = self.positive(MODE)? & 0o7777;
        Ok(u16::try_from(mode).unwrap_or_default())
    }

    pub(super) fn owner(&self) -> Result<(u64, u64), Fault> {
        Ok((self.positive(UID)?, self.positive(GID)?))
    }

    pub(crate) fn size(&self) -> Result<u64, Fault> {
        self.positive(SIZE)
    }

    pub(super) fn mtime(&self) -> Result<i64, Fault> {
        number(self.field(MTIME))
    }

    /// Major and minor number of a device.
    pub(super) fn device(&self) -> Result<(u64, u64), Fault> {
        if self.is_gnu() || self.is_ustar() {
            return Ok((self.positive(MAJOR)?, self.positive(MINOR)?));
        }
        Ok((0, 0))
    }

    /// The size of a GNU sparse member with its holes, and the first part of its map.
    pub(super) fn sparse(&self) -> Result<(u64, MapPart), Fault> {
        if !self.is_gnu() {
            return Err(Fault::Tar("a sparse member is not in GNU's form"));
        }
        let more = self.field(GNU_IS_EXTENDED) != [0];
        let stretches = stretches(self.field(GNU_SPARSE))?;
        Ok((self.positive(GNU_REAL_SIZE)?, MapPart { stretches, more }))
    }
}

/// A block that goes on with a GNU sparse map.
pub(super) fn more_sparse(block: &[u8; BLOCK]) -> Result<MapPart, Fault> {
    let field = |(start, len): Field| block.get(start..start + len).unwrap_or_default();
    let stretches = stretches(field(MORE_SPARSE))?;
    Ok(MapPart { stretches, more: field(MORE_IS_EXTENDED) != [0] })
}

fn stretches(table: &[u8]) -> Result<Vec<Stretch>, Fault> {
    let used = table.chunks_exact(STRETCH).take_while(|stretch| stretch.first() != Some(&0));
    let numbers = used.map(|stretch| {
        let (offset, len) = stretch.split_at(NUMBER);
        let number = |field| {
            u64::try_from(number(field)?).map_err(|_| Fault::Tar("a sparse map is negative"))
        };
        Ok(Stretch { offset: number(offset)?, len: number(len)? })
    });
    numbers.collect()
}

/// The bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal digits, or in two's complement if the first bit is set. Nothing is 0.
fn number(field: &[u8]) -> Result<i64, Fault> {
    let broken = || Fault::Tar("a number of a header cannot be read");
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        // The bit after the first is the sign.
        let first = if first & 0x40 == 0 { first & 0x7f } else { *first };
        let start = i64::from(i8::from_le_bytes([first]));
        return rest
            .iter()
            .try_fold(start, |value, byte| value.checked_mul(256)?.checked_add(i64::from(*byte)))
            .ok_or_else(broken);
    }
    let digits = std::str::from_utf8(text(field)).map_err(|_| broken())?.trim_matches(' ');
    if digits.is_empty() {
        return Ok(0);
    }
    if digits.starts_with(['+', '-']) {
        return Err(broken());
    }
    i64::from_str_radix(digits, 8).map_err(|_| broken())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        let read = |field: &[u8]| number(field).unwrap();
        assert_eq!(read(b"0000755\0"), 0o755);
        assert_eq!(read(b"   755 \0"), 0o755);
        assert_eq!(read(&[0; 8]), 0);
        assert_eq!(read(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]), 0xffff_fffe);
        assert_eq!(read(&[0xff; 12]), -1);
        assert_eq!(read(&[0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]), 1 << 32);
    }

    /// I7
    #[test]
    fn numbers_that_are_none_are_refused() {
        for field in [&b"-0000001"[..], b"+1", b"9", b"1 2", b"1\xc3\xa4", &[0xa0; 12]] {
            assert!(number(field).is_err(), "{field:?}");
        }
    }

    /// I7
    #[test]
    fn headers_with_a_wrong_checksum_are_refused() {
        let mut header = *tar::Header::new_gnu().as_bytes();
        assert!(Header::new([0; BLOCK]).unwrap().is_none());
        assert!(Header::new(header).is_err(), "no checksum");
        let mut right = tar::Header::new_ustar();
        right.set_cksum();
        header.copy_from_slice(right.as_bytes());
        assert!(Header::new(header).unwrap().is_some());
        for at in (0..CHECKSUM.0).chain(KIND.0..BLOCK) {
            let mut wrong = header;
            wrong[at] ^= 0x10;
            assert!(Header::new(wrong).is_err(), "byte {at}");
        }
    }
}
