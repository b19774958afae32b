//! Extended attributes: behind their inode, or once for all inodes that have the same.

use std::collections::BTreeMap;

use super::format::put;
use crate::tree::Xattr;

/// Bytes of the header before an inode's attributes.
const HEADER_BYTES: usize = 12;
/// What one inode can refer to.
const MAX_SHARED: usize = 255;

/// Prefixes, which the format has as numbers.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// The attributes that more than one inode has.
#[derive(Default)]
pub(super) struct Shared<'a> {
    /// How many inodes have it.
    uses: BTreeMap<&'a Xattr, u32>,
    /// Where it is, in words.
    places: BTreeMap<&'a Xattr, u32>,
    bytes: Vec<u8>,
}

impl<'a> Shared<'a> {
    /// Counts the attributes of one inode.
    pub(super) fn count(&mut self, xattrs: &'a [Xattr]) {
        for xattr in xattrs {
            *self.uses.entry(xattr).or_default() += 1;
        }
    }

    /// Gives each that was counted twice a place.
    pub(super) fn lay_out(&mut self) {
        for (xattr, _) in std::mem::take(&mut self.uses).into_iter().filter(|(_, uses)| *uses > 1) {
            let Ok(place) = u32::try_from(self.bytes.len() / 4) else { return };
            self.places.insert(xattr, place);
            put_entry(&mut self.bytes, xattr);
        }
    }

    /// As they are in the image.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What is behind an inode with such attributes; nothing if there are none.
    pub(super) fn encode(&self, xattrs: &[Xattr]) -> Vec<u8> {
        if xattrs.is_empty() {
            return Vec::new();
        }
        let (mut places, mut own) = (Vec::new(), Vec::new());
        for xattr in xattrs {
            match self.places.get(xattr) {
                Some(place) if places.len() < MAX_SHARED => places.push(*place),
                _ => put_entry(&mut own, xattr),
            }
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + 4 * places.len() + own.len());
        let count = u8::try_from(places.len()).unwrap_or(u8::MAX);
        put(&mut bytes, &[&[0; 4], &[count], &[0; 7]]);
        places.iter().for_each(|place| bytes.extend_from_slice(&place.to_le_bytes()));
        bytes.extend_from_slice(&own);
        bytes
    }
}

/// What an inode says of the length of its encoded attributes.
pub(super) fn count(encoded_len: usize) -> u16 {
    match encoded_len.checked_sub(HEADER_BYTES) {
        // Those of one inode have at most 64 KiB, so that their words can be counted.
        Some(rest) => u16::try_from(rest / 4 + 1).unwrap_or(u16::MAX),
        None => 0,
    }
}

fn put_entry(bytes: &mut Vec<u8>, xattr: &Xattr) {
    let known = PREFIXES.iter().find_map(|(prefix, index)| {
        xattr.name.strip_prefix(*prefix).map(|suffix| (suffix, *index))
    });
    // Layers are not let in with other names.
    let Some((suffix, index)) = known else { return };
    let name_len = u8::try_from(suffix.len()).unwrap_or(u8::MAX);
    let value_len = u16::try_from(xattr.value.len()).unwrap_or(u16::MAX);
    put(bytes, &[&[name_len, index], &value_len.to_le_bytes(), suffix, &xattr.value]);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattr(name: &str, value: &[u8]) -> Xattr {
        Xattr { name: name.as_bytes().into(), value: value.into() }
    }

    #[test]
    fn attributes_of_one_inode_stay_with_it_and_common_ones_are_shared() {
        let common = xattr("user.common", b"12345");
        let one = [common.clone(), xattr("security.capability", b"x")];
        let two = [common];
        let mut shared = Shared::default();
        shared.count(&one);
        shared.count(&two);
        shared.lay_out();
        assert_eq!(shared.bytes(), b"\x06\x01\x05\0common12345\0");
        assert_eq!(shared.encode(&two), [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(count(16), 2);
        assert!(shared.encode(&one).ends_with(b"\x0a\x06\x01\0capabilityx\0"));
        assert_eq!((shared.encode(&[]).len(), count(0)), (0, 0));
    }

    #[test]
    fn acls_have_prefixes_of_their_own() {
        let encoded = Shared::default().encode(&[xattr("system.posix_acl_default", b"acl")]);
        assert_eq!(encoded[12..], *b"\0\x03\x03\0acl\0");
    }
}
