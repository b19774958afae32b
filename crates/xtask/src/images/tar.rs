//! Writing layers: POSIX "pax" tar archives with all that a layer of an image may hold.
//!
//! Source: POSIX.1-2017, pax, "pax Interchange Format"; attributes and sparse files as GNU tar writes
//! them (GNU tar manual, "Storing Sparse Files", format 1.0). Owners and times are whatever the entry
//! says, so archives of files owned by root need no root.

use std::io::{self, Write};

const BLOCK: usize = 512;

/// The largest number of an eight-byte octal field.
const SMALL_OCTAL: u64 = 0o7_777_777;

/// A tar archive under construction; [`Tar::finish`] completes it.
pub(crate) struct Tar<W: Write> {
    out: W,
}

/// What an entry is.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Directory,
    File(&'a [u8]),
    /// Its size, and pieces of data by their offset; the rest are holes.
    Sparse(u64, &'a [(u64, &'a [u8])]),
    HardLink(&'a str),
    SymbolicLink(&'a str),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// One entry of an archive: owned by root and of the year 1970 unless told otherwise.
pub(crate) struct Node<'a> {
    path: &'a str,
    kind: Kind<'a>,
    mode: u32,
    owner: (u32, u32),
    /// Seconds and nanoseconds since 1970.
    time: (u64, u32),
    attributes: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Node<'a> {
    /// A directory that everyone may read.
    pub(crate) fn directory(path: &'a str) -> Self {
        Self::new(path, Kind::Directory, 0o755)
    }

    /// A regular file that everyone may read.
    pub(crate) fn file(path: &'a str, content: &'a [u8]) -> Self {
        Self::new(path, Kind::File(content), 0o644)
    }

    /// A regular file of `size` bytes that holds `pieces`, by offset, and zeros around them.
    pub(crate) fn sparse(path: &'a str, size: u64, pieces: &'a [(u64, &'a [u8])]) -> Self {
        Self::new(path, Kind::Sparse(size, pieces), 0o644)
    }

    /// Another name for the file `target` of this archive or of a layer below.
    pub(crate) fn hard_link(path: &'a str, target: &'a str) -> Self {
        Self::new(path, Kind::HardLink(target), 0o644)
    }

    /// A symbolic link.
    pub(crate) fn link(path: &'a str, target: &'a str) -> Self {
        Self::new(path, Kind::SymbolicLink(target), 0o777)
    }

    /// A character device by its major and minor number.
    pub(crate) fn character_device(path: &'a str, major: u32, minor: u32) -> Self {
        Self::new(path, Kind::CharacterDevice(major, minor), 0o600)
    }

    /// A block device by its major and minor number.
    pub(crate) fn block_device(path: &'a str, major: u32, minor: u32) -> Self {
        Self::new(path, Kind::BlockDevice(major, minor), 0o600)
    }

    /// A FIFO.
    pub(crate) fn fifo(path: &'a str) -> Self {
        Self::new(path, Kind::Fifo, 0o644)
    }

    /// The same with these permission bits, set-user-ID and its like included.
    pub(crate) fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// The same owned by this user and group.
    pub(crate) fn owner(self, user: u32, group: u32) -> Self {
        Self { owner: (user, group), ..self }
    }

    /// The same last modified then: seconds and nanoseconds since 1970.
    pub(crate) fn time(self, seconds: u64, nanoseconds: u32) -> Self {
        Self { time: (seconds, nanoseconds), ..self }
    }

    /// The same with one more extended attribute.
    pub(crate) fn attribute(mut self, name: &'a str, value: &'a [u8]) -> Self {
        self.attributes.push((name, value));
        self
    }

    fn new(path: &'a str, kind: Kind<'a>, mode: u32) -> Self {
        Self { path, kind, mode, owner: (0, 0), time: (0, 0), attributes: vec![] }
    }

    /// What the fixed header cannot say, as records of an extended header.
    fn records(&self) -> Vec<u8> {
        let mut records = vec![];
        let mut add = |key: &str, value: &[u8]| records.extend(record(key, value));
        if let Kind::Sparse(size, _) = self.kind {
            add("GNU.sparse.major", b"1");
            add("GNU.sparse.minor", b"0");
            add("GNU.sparse.name", self.path.as_bytes());
            add("GNU.sparse.realsize", size.to_string().as_bytes());
        } else if !fits(self.path) {
            add("path", self.path.as_bytes());
        }
        if !fits(self.target()) {
            add("linkpath", self.target().as_bytes());
        }
        for (key, id) in [("uid", self.owner.0), ("gid", self.owner.1)] {
            if u64::from(id) > SMALL_OCTAL {
                add(key, id.to_string().as_bytes());
            }
        }
        if let (seconds, nanoseconds @ 1..) = self.time {
            add("mtime", format!("{seconds}.{nanoseconds:09}").as_bytes());
        }
        for (name, value) in &self.attributes {
            add(&format!("SCHILY.xattr.{name}"), value);
        }
        records
    }

    fn target(&self) -> &'a str {
        match self.kind {
            Kind::HardLink(target) | Kind::SymbolicLink(target) => target,
            _ => "",
        }
    }

    fn type_flag(&self) -> u8 {
        match self.kind {
            Kind::File(_) | Kind::Sparse(..) => b'0',
            Kind::HardLink(_) => b'1',
            Kind::SymbolicLink(_) => b'2',
            Kind::CharacterDevice(..) => b'3',
            Kind::BlockDevice(..) => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        }
    }

    /// What follows the header.
    fn data(&self) -> Vec<u8> {
        match self.kind {
            Kind::File(content) => content.to_vec(),
            Kind::Sparse(size, pieces) => sparse_data(size, pieces),
            _ => vec![],
        }
    }
}

impl<W: Write> Tar<W> {
    /// An empty archive written to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    /// Adds `node`.
    ///
    /// # Errors
    /// Writing fails.
    pub(crate) fn add(&mut self, node: &Node<'_>) -> io::Result<()> {
        let records = node.records();
        if !records.is_empty() {
            let about = Node::file("PaxHeaders/entry", &records);
            self.member(&about, b'x', &records)?;
        }
        self.member(node, node.type_flag(), &node.data())
    }

    /// Writes the trailer and returns the output.
    ///
    /// # Errors
    /// Writing fails.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn member(&mut self, node: &Node<'_>, type_flag: u8, data: &[u8]) -> io::Result<()> {
        self.out.write_all(&header(node, type_flag, data.len() as u64))?;
        self.out.write_all(data)?;
        self.out.write_all(&vec![0; data.len().next_multiple_of(BLOCK) - data.len()])
    }
}

/// The fixed header; what does not fit stands in the extended one before it.
fn header(node: &Node<'_>, type_flag: u8, size: u64) -> Vec<u8> {
    let (major, minor) = match node.kind {
        Kind::CharacterDevice(major, minor) | Kind::BlockDevice(major, minor) => (major, minor),
        _ => (0, 0),
    };
    let mut header = vec![];
    let mut text = |value: &str, width: usize| {
        let fitting = value.bytes().take(width).chain(std::iter::repeat(0));
        header.extend(fitting.take(width));
    };
    // One digit less than the field is wide: a NUL ends it.
    let octal = |value: u64, digits: usize| format!("{value:0digits$o}");
    let id = |id: u32| octal(u64::from(id).min(SMALL_OCTAL), 7);
    text(node.path, 100);
    text(&octal(node.mode.into(), 7), 8);
    text(&id(node.owner.0), 8);
    text(&id(node.owner.1), 8);
    text(&octal(size, 11), 12);
    text(&octal(node.time.0, 11), 12);
    text("        ", 8);
    text(&char::from(type_flag).to_string(), 1);
    text(node.target(), 100);
    text("ustar", 6);
    text("00", 2);
    text("", 64);
    text(&octal(major.into(), 7), 8);
    text(&octal(minor.into(), 7), 8);
    text("", BLOCK - 345);
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header.splice(148..156, format!("{sum:06o}\0 ").bytes());
    header
}

/// Whether the fixed header can hold `name`.
fn fits(name: &str) -> bool {
    name.len() <= 100 && name.is_ascii()
}

/// A record of an extended header: its own length in decimal, the key, the value.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A map of the pieces in decimal lines, padded to a block, and the pieces themselves.
///
/// Readers differ over a piece that ends within a block, so zeros fill it up, to the end of the file.
fn sparse_data(size: u64, pieces: &[(u64, &[u8])]) -> Vec<u8> {
    let mut map = format!("{}\n", pieces.len() + 1);
    let mut data = vec![];
    for (offset, piece) in pieces {
        let whole = (piece.len() as u64).next_multiple_of(BLOCK as u64);
        let length = whole.min(size.saturating_sub(*offset));
        map.push_str(&format!("{offset}\n{length}\n"));
        let padding = usize::try_from(length).unwrap_or_default().saturating_sub(piece.len());
        data.extend_from_slice(piece);
        data.resize(data.len() + padding, 0);
    }
    // An empty piece at the end tells the size of the file.
    map.push_str(&format!("{size}\n0\n"));
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    [map, data].concat()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::command;

    fn archive(nodes: &[Node<'_>]) -> Vec<u8> {
        let mut tar = Tar::new(vec![]);
        nodes.iter().for_each(|node| tar.add(node).unwrap());
        tar.finish().unwrap()
    }

    /// What GNU tar, with these `arguments`, makes of `archive`.
    fn gnu_tar(archive: &[u8], arguments: &[&str], directory: &Path) -> String {
        let file = directory.join("archive.tar");
        fs::write(&file, archive).unwrap();
        let mut tar = Command::new("tar");
        tar.envs([("TZ", "UTC"), ("LC_ALL", "C.UTF-8")])
            .args(arguments)
            .arg("--directory")
            .arg(directory);
        let printed = command::stdout(tar.arg("--file").arg(&file)).unwrap();
        String::from_utf8(printed).unwrap()
    }

    fn listing(nodes: &[Node<'_>]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let arguments = ["--list", "-vv", "--full-time", "--numeric-owner", "--xattrs"];
        gnu_tar(&archive(nodes), &arguments, directory.path())
    }

    #[test]
    fn kinds_owners_modes_and_times_arrive() {
        let nodes = [
            Node::directory("d").mode(0o1777),
            Node::file("d/f", b"abc").mode(0o4755).owner(1000, 3_000_000).time(86_400, 5),
            Node::hard_link("d/h", "d/f"),
            Node::link("d/s", "f"),
            Node::character_device("d/c", 1, 3),
            Node::block_device("d/b", 7, 0),
            Node::fifo("d/p"),
        ];
        let listing = listing(&nodes);
        for (line, (mode, rest)) in listing.lines().zip([
            ("drwxrwxrwt 0/0", "1970-01-01 00:00:00 d"),
            ("-rwsr-xr-x 1000/3000000", "3 1970-01-02 00:00:00.000000005 d/f"),
            ("hrw-r--r-- 0/0", "d/h link to d/f"),
            ("lrwxrwxrwx 0/0", "d/s -> f"),
            ("crw------- 0/0", "1,3 1970-01-01 00:00:00 d/c"),
            ("brw------- 0/0", "7,0 1970-01-01 00:00:00 d/b"),
            ("prw-r--r-- 0/0", "d/p"),
        ]) {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(line.starts_with(mode) && line.ends_with(rest), "{line}: {mode} {rest}");
        }
        assert_eq!(listing.lines().count(), nodes.len());
    }

    #[test]
    fn long_and_foreign_names_and_attributes_arrive() {
        let long = format!("{}/{}", "a".repeat(150), "b".repeat(200));
        let nodes = [Node::file(&long, b""), Node::file("grün", b"").attribute("user.x", b"a\nb")];
        let listing = listing(&nodes);
        assert!(listing.contains(&long), "{listing}");
        assert!(listing.contains("grün"), "{listing}");
        assert!(listing.contains("x: 3 user.x"), "{listing}");
    }

    #[test]
    fn sparse_files_keep_their_size_and_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let pieces: &[(u64, &[u8])] = &[(4096, b"middle"), (65_536, b"end")];
        let archive = archive(&[Node::sparse("s", 1 << 20, pieces)]);
        assert!(archive.len() < 8192);
        gnu_tar(&archive, &["--extract"], directory.path());
        let mut expected = vec![0; 1 << 20];
        expected.splice(4096..4102, *b"middle");
        expected.splice(65_536..65_539, *b"end");
        assert!(fs::read(directory.path().join("s")).unwrap() == expected);
    }
}
