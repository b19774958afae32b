//! Archives that a kernel unpacks as its first file system: cpio(5) in the form `newc`, without compression.

use std::io::{self, Write};

/// What is known about a file besides its contents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Kind and permissions, as stat(2) has them.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// A number that all names of this file have, if it has several: its contents are with the first of them.
    pub shared: Option<u32>,
}

/// A file as an archive has it, padded to four bytes. What it is in must come before it.
///
/// # Errors
/// The contents have 4 GiB or more.
pub fn entry(name: &[u8], attributes: Attributes, content: &[u8]) -> io::Result<Vec<u8>> {
    let len = |len: usize| u32::try_from(len).map_err(io::Error::other);
    let Attributes { mode, uid, gid, shared } = attributes;
    let (inode, links) = shared.map_or((0, 1), |inode| (inode, 2));
    let name_len = len(name.len())?.saturating_add(1);
    let fields = [inode, mode, uid, gid, links, 0, len(content.len())?, 0, 0, 0, 0, name_len, 0];
    let mut entry = b"070701".to_vec();
    for field in fields {
        write!(entry, "{field:08x}")?;
    }
    entry.extend_from_slice(name);
    entry.push(0);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry.extend_from_slice(content);
    entry.resize(entry.len().next_multiple_of(4), 0);
    Ok(entry)
}

/// What ends an archive.
///
/// # Errors
/// There is none.
pub fn end() -> io::Result<Vec<u8>> {
    entry(b"TRAILER!!!", Attributes::default(), &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_of_one_file_is_in_steps_of_four_bytes() {
        let attributes = Attributes { mode: 0o100_755, uid: 1, gid: 0x20, shared: None };
        let entry = entry(b"init", attributes, b"12345").unwrap();
        assert!(entry.starts_with(b"07070100000000000081ed000000010000002000000001"));
        assert_eq!(entry.len(), 110 + 6 + 8);
        assert_eq!(entry.get(110..115), Some(&b"init\0"[..]));
    }

    #[test]
    fn names_of_one_file_have_one_number() {
        let attributes = Attributes { mode: 0o100_644, shared: Some(7), ..Attributes::default() };
        let entry = entry(b"again", attributes, &[]).unwrap();
        assert!(entry.starts_with(b"07070100000007000081a4000000000000000000000002"));
    }
}
