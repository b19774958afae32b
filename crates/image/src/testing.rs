//! For tests: archives of any sort, and a reader of the images that are made from them.

#![allow(
    clippy::as_conversions,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic, and its numbers are small"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use crate::rootfs::{Layer, Limits, RootfsError, build};

/// A tar archive in the making.
#[derive(Default, Clone)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    /// A header as it is said, with its checksum.
    pub(crate) fn header(
        mut self,
        name: &[u8],
        kind: u8,
        change: impl FnOnce(&mut tar::Header),
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header.as_mut_bytes()[156] = kind;
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    /// A member with data, and its padding.
    pub(crate) fn member(self, name: &[u8], kind: u8, data: &[u8]) -> Self {
        self.header(name, kind, |header| header.set_size(data.len() as u64)).data(data)
    }

    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.long_name(name).member(name.as_bytes(), b'0', data)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.long_name(name).member(name.as_bytes(), b'5', b"")
    }

    pub(crate) fn dir_mode(self, name: &str, mode: u32) -> Self {
        self.header(name.as_bytes(), b'5', |header| header.set_mode(mode))
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.header(name.as_bytes(), b'1', |header| set_link(header, target))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.header(name.as_bytes(), b'2', |header| set_link(header, target))
    }

    /// Records of an extended header for the next member.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let records: Vec<u8> =
            records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        self.member(b"pax", b'x', &records)
    }

    /// In GNU's form, where the header's field is too short.
    fn long_name(self, name: &str) -> Self {
        if name.len() < 100 { self } else { self.member(b"././@LongLink", b'L', name.as_bytes()) }
    }

    /// The archive with its end.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn set_link(header: &mut tar::Header, target: &str) {
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
}

/// A record of an extended header.
pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let lens = (1..=7).map(|digits| (digits, digits + rest.len()));
    let (_, len) = lens.into_iter().find(|(digits, len)| len.to_string().len() == *digits).unwrap();
    [len.to_string().as_bytes(), &rest].concat()
}

/// A layer as it is stored, whose contents have the right digest.
pub(crate) fn layer(tar: &[u8], compressed: Vec<u8>) -> Layer<Cursor<Vec<u8>>> {
    Layer { compressed: Cursor::new(compressed), diff_id: Sha256::digest(tar).into() }
}

/// The image of uncompressed layers.
pub(crate) fn flatten(layers: &[Vec<u8>]) -> Result<Image, RootfsError> {
    flatten_within(layers, &Limits::default())
}

pub(crate) fn flatten_within(layers: &[Vec<u8>], limits: &Limits) -> Result<Image, RootfsError> {
    let file = tempfile::tempfile().unwrap();
    build(layers.iter().map(|tar| Ok(layer(tar, tar.clone()))), limits, &file)?;
    Ok(Image(file))
}

/// What an image says of one inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) nid: u64,
    pub(crate) layout: u16,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
    pub(crate) size: u64,
    pub(crate) value: u32,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// Where what is behind the attributes begins in the image.
    tail: u64,
}

/// An image, read by its superblock.
pub(crate) struct Image(pub(crate) File);

impl Image {
    pub(crate) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn number(&self, at: u64, len: usize) -> u64 {
        let mut bytes = self.bytes(at, len);
        bytes.resize(8, 0);
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    pub(crate) fn all(&self) -> Vec<u8> {
        self.bytes(0, self.0.metadata().unwrap().len() as usize)
    }

    pub(crate) fn inode(&self, nid: u64) -> Found {
        let at = self.number(1024 + 40, 4) * 4096 + nid * 32;
        let field = |offset: u64, len: usize| self.number(at + offset, len);
        assert_eq!(field(0, 2) & 1, 1, "an extended inode");
        let count = field(2, 2);
        let xattrs_len = if count == 0 { 0 } else { 12 + 4 * (count - 1) };
        Found {
            nid,
            layout: (field(0, 2) >> 1) as u16,
            mode: field(4, 2) as u16,
            uid: field(24, 4) as u32,
            gid: field(28, 4) as u32,
            mtime: (field(32, 8) as i64, field(40, 4) as u32),
            links: field(44, 4) as u32,
            size: field(8, 8),
            value: field(16, 4) as u32,
            xattrs: self.xattrs(at + 64, at + 64 + xattrs_len),
            tail: at + 64 + xattrs_len,
        }
    }

    fn xattrs(&self, start: u64, end: u64) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        if start == end {
            return found;
        }
        let shared = self.number(start + 4, 1);
        let area = self.number(1024 + 44, 4) * 4096;
        for index in 0..shared {
            let place = area + 4 * self.number(start + 12 + 4 * index, 4);
            self.xattr(place, &mut found);
        }
        let mut at = start + 12 + 4 * shared;
        while at < end {
            at = self.xattr(at, &mut found);
        }
        assert_eq!(at, end);
        found
    }

    fn xattr(&self, at: u64, found: &mut BTreeMap<String, Vec<u8>>) -> u64 {
        let (name_len, value_len) = (self.number(at, 1), self.number(at + 2, 2));
        let prefix = match self.number(at + 1, 1) {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            other => panic!("prefix {other}"),
        };
        let name = String::from_utf8(self.bytes(at + 4, name_len as usize)).unwrap();
        let value = self.bytes(at + 4 + name_len, value_len as usize);
        assert_eq!(found.insert(format!("{prefix}{name}"), value), None);
        (at + 4 + name_len + value_len).next_multiple_of(4)
    }

    /// `len` bytes of the contents of an inode, from `offset` on.
    pub(crate) fn read(&self, inode: &Found, offset: u64, len: usize) -> Vec<u8> {
        let block = u64::from(inode.value) * 4096;
        match inode.layout {
            0 if len == 0 => Vec::new(),
            0 => self.bytes(block + offset, len),
            2 => {
                let room = 4096 - inode.tail % 4096;
                assert!(inode.size <= room, "contents behind an inode cross a block's end");
                self.bytes(inode.tail + offset, len)
            }
            4 => self.read_chunks(inode, offset, len),
            other => panic!("layout {other}"),
        }
    }

    fn read_chunks(&self, inode: &Found, offset: u64, len: usize) -> Vec<u8> {
        let chunk = 1 << (12 + inode.value);
        let (mut bytes, end) = (Vec::new(), offset + len as u64);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            let most = (chunk - at % chunk).min(end - at) as usize;
            match self.number(inode.tail + 4 * (at / chunk), 4) {
                hole if hole == u64::from(u32::MAX) => bytes.resize(bytes.len() + most, 0),
                block => bytes.extend(self.bytes(block * 4096 + at % chunk, most)),
            }
        }
        bytes
    }

    fn directory(&self, inode: &Found) -> Vec<(Vec<u8>, u64, u8)> {
        let data = self.read(inode, 0, inode.size as usize);
        let mut entries = Vec::new();
        for block in data.chunks(4096) {
            let offset = |index: usize| {
                usize::from(u16::from_le_bytes([block[12 * index + 8], block[12 * index + 9]]))
            };
            let count = offset(0) / 12;
            for index in 0..count {
                let end = if index + 1 < count { offset(index + 1) } else { block.len() };
                let name = block[offset(index)..end].split(|byte| *byte == 0).next().unwrap();
                let nid = u64::from_le_bytes(block[12 * index..][..8].try_into().unwrap());
                entries.push((name.to_vec(), nid, block[12 * index + 10]));
            }
        }
        assert!(entries.is_sorted_by(|a, b| a.0 < b.0), "sorted, no name twice");
        entries
    }

    /// All paths and their inodes; the root's is empty. Checks what Linux relies on on the way.
    pub(crate) fn list(&self) -> BTreeMap<String, Found> {
        let root = self.number(1024 + 14, 2);
        let mut found = BTreeMap::new();
        let mut pending = vec![(String::new(), root, root)];
        while let Some((path, nid, parent)) = pending.pop() {
            let inode = self.inode(nid);
            if inode.mode & 0o17_0000 == 0o4_0000 {
                for (name, child, file_type) in self.directory(&inode) {
                    let child_mode = self.inode(child).mode >> 12;
                    let expected = match child_mode {
                        1 => 5,
                        2 => 3,
                        4 => 2,
                        6 => 4,
                        8 => 1,
                        10 => 7,
                        _ => 0,
                    };
                    assert_eq!(file_type, expected);
                    match &name[..] {
                        b"." => assert_eq!(child, nid),
                        b".." => assert_eq!(child, parent),
                        _ => pending.push((format!("{path}/{}", name.escape_ascii()), child, nid)),
                    }
                }
            }
            assert!(found.insert(path, inode).is_none());
        }
        found
    }

    /// Paths without the first slash, and what files contain and links lead to.
    pub(crate) fn contents(&self) -> BTreeMap<String, String> {
        let text = |inode: &Found| match inode.mode >> 12 {
            4 => "/".to_owned(),
            10 => format!("-> {}", self.text(inode)),
            8 => self.text(inode),
            _ => format!("device {:x}", inode.value),
        };
        let list = self.list().into_iter().filter(|(path, _)| !path.is_empty());
        list.map(|(path, inode)| (path[1..].to_owned(), text(&inode))).collect()
    }

    fn text(&self, inode: &Found) -> String {
        self.read(inode, 0, inode.size as usize).escape_ascii().to_string()
    }

    /// Paths, sorted, in one line.
    pub(crate) fn paths(&self) -> String {
        self.contents().into_keys().collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn find_root(&self) -> Found {
        self.inode(self.number(1024 + 14, 2))
    }

    pub(crate) fn find(&self, path: &str) -> Found {
        self.list().remove(&format!("/{path}")).unwrap_or_else(|| panic!("no {path}"))
    }
}
