//! Which extended attributes of a layer an image keeps.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::fault::Fault;
use crate::tree::{NAME_BYTES, Xattr};

/// Attributes of one file at most.
const MAX_COUNT: usize = 512;
/// Bytes of names and values of one file at most: an EROFS value has at most 65,535.
const MAX_BYTES: usize = (64 << 10) - 1;

/// What overlayfs reads as orders to itself (whiteouts, redirections into other directories): the
/// guest puts one on the image, and a layer must not give it any.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// What Linux keeps with a file. Others, such as those of other systems, cannot be set on Linux.
const PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
const WHOLE: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// The attributes to keep, sorted by name; the last of a name counts.
pub(super) fn kept(xattrs: Vec<Xattr>) -> Result<Rc<[Xattr]>, Fault> {
    let mut kept = BTreeMap::new();
    for Xattr { name, value } in xattrs {
        if name.len() > NAME_BYTES || name.contains(&0) || value.len() > MAX_BYTES {
            return Err(Fault::Xattr(MAX_BYTES));
        }
        if OVERLAY.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let suffix = PREFIXES.iter().find_map(|prefix| name.strip_prefix(*prefix));
        if suffix.is_some_and(<[u8]>::is_empty) {
            return Err(Fault::Xattr(MAX_BYTES));
        }
        if suffix.is_some() || WHOLE.contains(&&*name) {
            kept.insert(name, value);
        }
        if kept.len() > MAX_COUNT {
            return Err(Fault::TooManyXattrs(MAX_COUNT));
        }
    }
    let kept: Rc<[Xattr]> = kept.into_iter().map(|(name, value)| Xattr { name, value }).collect();
    if bytes(&kept) > MAX_BYTES {
        return Err(Fault::Xattr(MAX_BYTES));
    }
    Ok(kept)
}

/// Bytes of memory, about.
pub(super) fn memory(xattrs: &[Xattr]) -> u64 {
    u64::try_from(bytes(xattrs) + 64 * xattrs.len()).unwrap_or(u64::MAX)
}

/// Bytes of names and values.
pub(super) fn bytes(xattrs: &[Xattr]) -> usize {
    xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum()
}
