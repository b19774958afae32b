//! Which file is where in a tar archive of an image: names and places, nothing is unpacked.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::SourceError;
use crate::layer::{BLOCK, Fault, Header};

/// The unit of an archive, as a place in it.
const STEP: u64 = BLOCK as u64;
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
        let mut block = [0; BLOCK];
        while at.saturating_add(STEP) <= length {
            file.read_exact_at(&mut block, at).map_err(SourceError::io("read", path))?;
            if at == 0 && is_compressed(&block) {
                return Err(SourceError::Compressed(path.to_owned()));
            }
            let damaged = |fault: Fault| form(&fault.to_string());
            let Some(header) = Header::new(block).map_err(damaged)? else { break };
            let (name, size) = (header.name(), header.size().map_err(damaged)?);
            let name = String::from_utf8_lossy(&name);
            let start = at + STEP;
            let end = start.checked_add(size).filter(|end| *end <= length);
            let end = end.ok_or_else(|| form("a file in it ends beyond its end"))?;
            names += name.len();
            if let Some(entry) = entry(&header, &name, start, size) {
                entries.insert(normal(&name), entry);
            }
            if entries.len() > MAX_ENTRIES || names > MAX_NAMES {
                return Err(form("it has more files than any image"));
            }
            at = end.next_multiple_of(STEP);
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

/// What a header stands for, if it is a file or a link; its content begins at `start`. Names that need
/// another header to be told, longer than any in an image, are not found.
fn entry(header: &Header, name: &str, start: u64, size: u64) -> Option<Entry> {
    let link = String::from_utf8_lossy(&header.link()).into_owned();
    match header.kind() {
        0 | b'0' => Some(Entry::File { offset: start, size }),
        b'1' => Some(Entry::Link(normal(&link))),
        // Older `docker save` writes `ID/layer.tar -> ../OTHER/layer.tar`.
        b'2' => {
            let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
            Some(Entry::Link(normal(&format!("{directory}/{link}"))))
        }
        _ => None,
    }
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
