//! Streams of files: pax archives, written and read as POSIX.1-2001 describes them, with what GNU tar
//! writes for long names.

use std::io::{self, Read};

/// The unit of an archive.
pub(super) const BLOCK: usize = 512;
/// The longest name, link target or list of attributes that is read.
const MAX_TEXT: u64 = 64 << 10;
/// Headers about the next entry, at most.
const MAX_EXTENSIONS: usize = 16;

/// What an entry of an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    HardLink,
    Link,
    Directory,
    Fifo,
    /// A device, or what this does not know.
    Other,
}

/// An entry of an archive, its content aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: EntryKind,
    pub(super) name: Vec<u8>,
    /// Target of a link.
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Bytes of content that follow.
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) modified: u64,
}

/// The header of `entry`: blocks that its content follows, padded to whole blocks.
pub(super) fn header(entry: &Entry) -> Vec<u8> {
    let mut records = vec![];
    let mut record = |key: &str, value: &[u8]| {
        // The length counts itself: two digits more are enough for all there are.
        let rest = key.len().saturating_add(value.len()).saturating_add(3);
        let mut len = rest.saturating_add(1);
        while len.to_string().len().saturating_add(rest) != len {
            len = len.to_string().len().saturating_add(rest);
        }
        records.extend(format!("{len} {key}=").into_bytes());
        records.extend(value);
        records.push(b'\n');
    };
    if entry.name.len() > 100 {
        record("path", &entry.name);
    }
    if entry.link.len() > 100 {
        record("linkpath", &entry.link);
    }
    let largest = |digits: u32| 8_u64.pow(digits).saturating_sub(1);
    for (key, value, digits) in [
        ("size", entry.size, 11),
        ("uid", entry.uid.into(), 7),
        ("gid", entry.gid.into(), 7),
        ("mtime", entry.modified, 11),
    ] {
        if value > largest(digits) {
            record(key, value.to_string().as_bytes());
        }
    }
    let mut blocks = vec![];
    if !records.is_empty() {
        let size = u64::try_from(records.len()).unwrap_or(0);
        let attributes = Entry { size, name: b"pax".to_vec(), link: vec![], ..entry.clone() };
        blocks.extend(ustar(&attributes, b'x'));
        blocks.append(&mut records);
        blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
    }
    let kind = match entry.kind {
        EntryKind::File | EntryKind::Other => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Link => b'2',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    };
    blocks.extend(ustar(entry, kind));
    blocks
}

/// Zeros that make `size` bytes of content whole blocks.
pub(super) fn padding(size: u64) -> usize {
    let block = u64::try_from(BLOCK).unwrap_or(1);
    let rest = size.checked_rem(block).unwrap_or(0);
    if rest == 0 { 0 } else { usize::try_from(block.saturating_sub(rest)).unwrap_or(0) }
}

/// The block of a header; what does not fit a field is cut.
fn ustar(entry: &Entry, kind: u8) -> Vec<u8> {
    fn text(block: &mut Vec<u8>, value: &[u8], len: usize) {
        let end = block.len().saturating_add(len);
        block.extend(value.iter().take(len));
        block.resize(end, 0);
    }
    let octal = |value: u64, digits: usize| {
        let text = format!("{value:0digits$o}\0");
        if text.len() > digits.saturating_add(1) { format!("{:0digits$o}\0", 0) } else { text }
    };
    let mut block = vec![];
    text(&mut block, &entry.name, 100);
    for (value, digits) in [
        (u64::from(entry.mode & 0o7777), 7),
        (u64::from(entry.uid), 7),
        (u64::from(entry.gid), 7),
        (entry.size, 11),
        (entry.modified, 11),
    ] {
        block.extend(octal(value, digits).into_bytes());
    }
    let checksum_at = block.len();
    text(&mut block, b"        ", 8);
    block.push(kind);
    text(&mut block, &entry.link, 100);
    text(&mut block, b"ustar\x0000", 8);
    block.resize(BLOCK, 0);
    let sum = block.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let sum = format!("{sum:06o}\0 ");
    for (place, byte) in block.iter_mut().skip(checksum_at).zip(sum.bytes()) {
        *place = byte;
    }
    block
}

/// The next entry of `stream`; `None` at the end. The caller reads the content and [`padding`].
///
/// # Errors
/// The stream fails, ends early, or is no archive.
pub(super) fn next(stream: &mut impl Read) -> io::Result<Option<Entry>> {
    let mut attributes = Attributes::default();
    for _ in 0..=MAX_EXTENSIONS {
        let mut block = [0; BLOCK];
        stream.read_exact(&mut block)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let (kind, entry) = parse(&block).ok_or_else(nonsense)?;
        match kind {
            b'x' => attributes.read(&text(stream, entry.size)?)?,
            // Attributes of all that follows: times and comments at most.
            b'g' => drop(text(stream, entry.size)?),
            b'S' => return Err(sparse()),
            b'L' => attributes.name = Some(until_zero(&text(stream, entry.size)?)),
            b'K' => attributes.link = Some(until_zero(&text(stream, entry.size)?)),
            _ => {
                let mut entry = attributes.apply(entry);
                // The oldest archives have no other sign of a directory.
                if entry.kind == EntryKind::File && entry.name.ends_with(b"/") {
                    entry.kind = EntryKind::Directory;
                }
                // Nothing follows the others, whatever size they claim.
                if entry.kind != EntryKind::File {
                    entry.size = 0;
                }
                return Ok(Some(entry));
            }
        }
    }
    Err(nonsense())
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a tar stream")
}

fn sparse() -> io::Error {
    let what = "an archive with GNU tar's form of sparse files: make it without --sparse";
    io::Error::new(io::ErrorKind::Unsupported, what)
}

/// Content of an entry that is about the next one.
fn text(stream: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    if size > MAX_TEXT {
        return Err(nonsense());
    }
    let mut bytes = vec![];
    let padded = size.saturating_add(u64::try_from(padding(size)).unwrap_or(0));
    stream.take(padded).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()) != Ok(padded) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(usize::try_from(size).unwrap_or(0));
    Ok(bytes)
}

fn until_zero(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// The kind and the fields of a header.
fn parse(block: &[u8; BLOCK]) -> Option<(u8, Entry)> {
    let field = |start: usize, len: usize| block.get(start..)?.get(..len);
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = field(148, 8)?.iter().map(|byte| u64::from(*byte)).sum();
    // The sum is made with spaces in its own place.
    if number(field(148, 8)?)? != sum.saturating_sub(own).saturating_add(8 * 32) {
        return None;
    }
    let mut name = until_zero(field(0, 100)?);
    let prefix = until_zero(field(345, 155)?);
    if field(257, 6)? == b"ustar\0" && !prefix.is_empty() {
        name = [prefix, name].join(&b'/');
    }
    let kind = *block.get(156)?;
    let entry = Entry {
        kind: match kind {
            b'0' | 0 | b'7' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Link,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            _ => EntryKind::Other,
        },
        name,
        link: until_zero(field(157, 100)?),
        mode: u32::try_from(number(field(100, 8)?)? & 0o7777).ok()?,
        uid: u32::try_from(number(field(108, 8)?)?).ok()?,
        gid: u32::try_from(number(field(116, 8)?)?).ok()?,
        size: number(field(124, 12)?)?,
        modified: number(field(136, 12)?).unwrap_or(0),
    };
    Some((kind, entry))
}

/// A number in octal digits, or in binary when its first bit says so.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first == 0x80 {
        let (high, low) = rest.split_last_chunk::<8>().map_or((rest, None), |(h, l)| (h, Some(l)));
        let zero = high.iter().all(|byte| *byte == 0);
        return match low {
            Some(low) if zero => Some(u64::from_be_bytes(*low)),
            Some(_) => None,
            None => Some(rest.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))),
        };
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// What extended headers say about the next entry.
#[derive(Default)]
struct Attributes {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<u64>,
}

impl Attributes {
    /// Records `LENGTH KEY=VALUE\n`; keys that mean nothing here are passed over.
    fn read(&mut self, mut records: &[u8]) -> io::Result<()> {
        while !records.is_empty() {
            let (record, rest) = record(records).ok_or_else(nonsense)?;
            records = rest;
            let (key, value) = record;
            let text = || std::str::from_utf8(value).map_err(|_| nonsense());
            match key {
                _ if key.starts_with(b"GNU.sparse.") => return Err(sparse()),
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(text()?.parse().map_err(|_| nonsense())?),
                b"uid" => self.uid = Some(text()?.parse().map_err(|_| nonsense())?),
                b"gid" => self.gid = Some(text()?.parse().map_err(|_| nonsense())?),
                b"mtime" => {
                    let seconds = text()?.split('.').next().and_then(|text| text.parse().ok());
                    self.modified = Some(seconds.unwrap_or(0));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn apply(self, entry: Entry) -> Entry {
        Entry {
            name: self.name.unwrap_or(entry.name),
            link: self.link.unwrap_or(entry.link),
            size: self.size.unwrap_or(entry.size),
            uid: self.uid.unwrap_or(entry.uid),
            gid: self.gid.unwrap_or(entry.gid),
            modified: self.modified.unwrap_or(entry.modified),
            ..entry
        }
    }
}

/// The first record's key and value, and what follows it.
#[expect(clippy::type_complexity, reason = "taken apart at once")]
fn record(records: &[u8]) -> Option<((&[u8], &[u8]), &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let len: usize = std::str::from_utf8(records.get(..space)?).ok()?.parse().ok()?;
    let (record, rest) = records.split_at_checked(len)?;
    let record = record.strip_suffix(b"\n")?.get(space.checked_add(1)?..)?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some(((record.get(..equals)?, record.get(equals.checked_add(1)?..)?), rest))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    fn entry(name: &str) -> Entry {
        Entry {
            kind: EntryKind::File,
            name: name.into(),
            link: vec![],
            mode: 0o4755,
            uid: 1000,
            gid: 7,
            size: 3,
            modified: 1_700_000_000,
        }
    }

    fn returns(entry: &Entry) {
        let stream = header(entry);
        assert_eq!(stream.len() % BLOCK, 0);
        assert_eq!(next(&mut stream.as_slice()).unwrap().unwrap(), *entry);
    }

    #[test]
    fn entries_return_as_they_were_written() {
        returns(&entry("a"));
        returns(&entry(&"n".repeat(100)));
        for len in [95, 101, 985, 986, 987, 988, 5000] {
            returns(&entry(&"n".repeat(len)));
        }
        let link = "t".repeat(300).into_bytes();
        returns(&Entry { kind: EntryKind::Link, link, size: 0, ..entry("l") });
        returns(&Entry { size: 1 << 40, uid: u32::MAX - 1, gid: 1 << 30, ..entry("big") });
        for kind in [EntryKind::Directory, EntryKind::HardLink, EntryKind::Fifo] {
            returns(&Entry { kind, size: 0, ..entry("k") });
        }
    }

    #[test]
    fn tar_reads_what_is_written_and_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let name = format!("{}/x", "d".repeat(120));
        let mut stream = header(&Entry { size: 3, ..entry(&name) });
        stream.extend(b"abc");
        stream.resize(stream.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
        let path = directory.path().join("x.tar");
        std::fs::write(&path, &stream).unwrap();
        let list = Command::new("tar").arg("tvf").arg(&path).stderr(Stdio::inherit()).output();
        let list = String::from_utf8(list.unwrap().stdout).unwrap();
        assert!(list.contains("-rwsr-xr-x 1000/7") && list.contains(&name), "{list}");
        for format in ["gnu", "pax", "ustar", "v7"] {
            let name = if format == "v7" { "short" } else { &"d/".repeat(60) };
            let file = directory.path().join(name).join("file");
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "hello").unwrap();
            let tar = Command::new("tar")
                .arg(format!("--format={format}"))
                .args(["-cf", "-", "-C"])
                .arg(directory.path())
                .arg(file.strip_prefix(directory.path()).unwrap())
                .output();
            let read = next(&mut tar.unwrap().stdout.as_slice()).unwrap().unwrap();
            assert_eq!(read.name, format!("{}/file", name.trim_end_matches('/')).into_bytes());
            assert_eq!((read.size, read.kind), (5, EntryKind::File), "{format}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |bytes: &[u8]| next(&mut &*bytes).unwrap_err().kind();
        assert_eq!(refused(&[1; BLOCK]), io::ErrorKind::InvalidData);
        assert_eq!(refused(&[0; 100]), io::ErrorKind::UnexpectedEof);
        let mut damaged = header(&entry("a"));
        damaged[0] ^= 1;
        assert_eq!(refused(&damaged), io::ErrorKind::InvalidData);
        // A name of 1 TiB.
        let long = ustar(&Entry { size: 1 << 32, ..entry("x") }, b'x');
        assert_eq!(refused(&long), io::ErrorKind::InvalidData);
        for records in ["0 a=b\n", "5 a=b", "99 a=b\n", "x a=b\n", "6 a=b\n6 a"] {
            assert!(Attributes::default().read(records.as_bytes()).is_err(), "{records}");
        }
    }

    #[test]
    fn large_numbers_are_binary() {
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]), Some(1 << 32));
        assert_eq!(number(&[0x80, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"9"), None);
        assert_eq!(number(b"-1"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_entries_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000), records in ".{0,100}") {
            let _ = next(&mut bytes.as_slice());
            let _ = Attributes::default().read(records.as_bytes());
        }
    }
}
