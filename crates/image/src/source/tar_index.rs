//! Which file is where in a tar archive of an image: names and places, nothing is unpacked.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::SourceError;

const BLOCK: u64 = 512;
/// Files in an archive, at most.
const MAX_ENTRIES: usize = 100_000;
/// Bytes of the names of all files, at most.
const MAX_NAMES: usize = 16 << 20;

/// Where something is in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A file: its bytes from here on, this many.
    File { offset: u64, size: u64 },
    /// Another name for a file.
    Link(String),
}

/// The places of an archive's files.
#[derive(Debug)]
pub(super) struct TarIndex {
    entries: BTreeMap<String, Entry>,
}

impl TarIndex {
    /// Reads the headers of an archive.
    pub(super) fn read(file: &File, path: &Path) -> Result<Self, SourceError> {
        let length = file.metadata().map_err(SourceError::io("look at", path))?.len();
        let form = |why: &str| SourceError::Form { path: path.to_owned(), why: why.to_owned() };
        let mut entries = BTreeMap::new();
        let (mut at, mut names) = (0_u64, 0);
        let mut block = [0; BLOCK as usize];
        while at.saturating_add(BLOCK) <= length {
            file.read_exact_at(&mut block, at).map_err(SourceError::io("read", path))?;
            if block.iter().all(|byte| *byte == 0) {
                break;
            }
            if at == 0 && is_compressed(&block) {
                return Err(SourceError::Compressed(path.to_owned()));
            }
            let header = Header::parse(&block).map_err(form)?;
            let start = at + BLOCK;
            let end = start.checked_add(header.size).filter(|end| *end <= length);
            let end = end.ok_or_else(|| form("a file in it ends beyond its end"))?;
            names += header.name.len();
            if let Some(entry) = header.entry(start) {
                entries.insert(normal(&header.name), entry);
            }
            if entries.len() > MAX_ENTRIES || names > MAX_NAMES {
                return Err(form("it has more files than any image"));
            }
            at = end.next_multiple_of(BLOCK);
        }
        if entries.is_empty() {
            return Err(form("there are no files in it"));
        }
        Ok(Self { entries })
    }

    /// Where the file `name` is, behind any links.
    pub(super) fn find(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = normal(name);
        // Links that lead round and round end here.
        for _ in 0..8 {
            match self.entries.get(&name)? {
                Entry::File { offset, size } => return Some((*offset, *size)),
                Entry::Link(target) => name.clone_from(target),
            }
        }
        None
    }
}

fn is_compressed(start: &[u8]) -> bool {
    let magics: [&[u8]; 4] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"];
    magics.iter().any(|magic| start.starts_with(magic))
}

struct Header {
    name: String,
    size: u64,
    kind: u8,
    link: String,
}

impl Header {
    fn parse(block: &[u8; BLOCK as usize]) -> Result<Self, &'static str> {
        let sum = block.iter().enumerate().map(|(at, byte)| {
            let blank = (148..156).contains(&at);
            if blank { u64::from(b' ') } else { u64::from(*byte) }
        });
        if octal(part(block, 148, 8)) != Some(sum.sum()) {
            return Err("a header has a wrong checksum, so it is no tar file or a damaged one");
        }
        let size = octal(part(block, 124, 12)).ok_or("a file in it has no size")?;
        let kind = part(block, 156, 1).first().copied().unwrap_or_default();
        let mut name = text(part(block, 0, 100));
        let prefix = text(part(block, 345, 155));
        if part(block, 257, 6) == b"ustar\0" && !prefix.is_empty() {
            name = format!("{prefix}/{name}");
        }
        Ok(Self { name, size, kind, link: text(part(block, 157, 100)) })
    }

    /// What the header stands for, if it is a file or a link. Names that need another header to be
    /// told, longer than any in an image, are not found.
    fn entry(&self, start: u64) -> Option<Entry> {
        match self.kind {
            0 | b'0' => Some(Entry::File { offset: start, size: self.size }),
            b'1' => Some(Entry::Link(normal(&self.link))),
            // Older `docker save` writes `ID/layer.tar -> ../OTHER/layer.tar`.
            b'2' => {
                let directory = self.name.rsplit_once('/').map_or("", |(directory, _)| directory);
                Some(Entry::Link(normal(&format!("{directory}/{}", self.link))))
            }
            _ => None,
        }
    }
}

fn part(block: &[u8], at: usize, length: usize) -> &[u8] {
    block.get(at..at + length).unwrap_or_default()
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

/// A number in octal digits, or in the binary form for large ones.
fn octal(field: &[u8]) -> Option<u64> {
    if let [0x80, rest @ ..] = field {
        return rest.iter().try_fold(0_u64, |value, byte| {
            value.checked_mul(256).and_then(|value| value.checked_add(u64::from(*byte)))
        });
    }
    let digits = field.iter().copied().skip_while(|byte| *byte == b' ');
    let mut digits = digits.take_while(|byte| !matches!(*byte, 0 | b' ')).peekable();
    digits.peek()?;
    digits.try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A name without `.`, `..` and empty parts, so that two ways to write it are one.
fn normal(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
