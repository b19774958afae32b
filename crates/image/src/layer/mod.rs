//! A layer: what it is packed in, its archive, and what its members do to the tree.
//!
//! Nothing of a layer is ever a path on the host: names lead through [`Tree`] alone.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

mod decompress;
mod fault;
mod header;
mod pax;
mod sparse;
mod stream;
mod tar;
#[cfg(test)]
mod tests;
mod xattr;

use std::io::Read;

use crate::erofs::Data;
use crate::tree::{Content, Meta, PATH_BYTES, Path, Tree};
pub(crate) use fault::Fault;
pub(crate) use header::{BLOCK, Header};
pub(crate) use sparse::SparseMap;
pub(crate) use stream::Allowance;
use stream::Stream;
use tar::{Archive, Kind, Member};

/// Before the name of what a layer hides.
const WHITEOUT: &[u8] = b".wh.";
/// Hides all older entries of the directory it is in.
const OPAQUE: &[u8] = b".wh..wh.opq";
/// Before the names of aufs's own files, which mean nothing elsewhere.
const AUFS: &[u8] = b".wh..wh.";

/// What is wrong with a layer, and with which member.
pub(crate) struct Failure {
    /// `None` if it is not about one member.
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) fault: Fault,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { path: None, fault }
    }
}

/// What all layers of an image may still have.
pub(crate) struct Budget {
    pub(crate) bytes: Allowance,
    pub(crate) max_members: u64,
    pub(crate) members: u64,
    pub(crate) max_text: u64,
    pub(crate) text: u64,
}

/// Puts a layer on `tree`, and the contents of its files into `data`.
pub(crate) fn apply<R: Read>(
    compressed: R,
    diff_id: &[u8; 32],
    tree: &mut Tree,
    data: &mut Data<'_>,
    budget: &mut Budget,
) -> Result<(), Failure> {
    tree.begin_layer();
    let Budget { bytes, max_members, members, max_text, text } = budget;
    let mut stream = Stream::open(compressed, bytes)?;
    let mut archive = Archive::new(&mut stream);
    while let Some(mut member) = archive.next()? {
        *members += 1;
        if members > max_members {
            return Err(Fault::TooManyMembers(*max_members).into());
        }
        let path = std::mem::take(&mut member.path);
        let about = |fault| Failure { path: Some(path.clone()), fault };
        *text = text.saturating_add(length(&[&path, &member.link]));
        *text = text.saturating_add(put(&path, member, &mut archive, tree, data).map_err(about)?);
        if text > max_text {
            return Err(about(Fault::Text(*max_text)));
        }
        for file in tree.take_released() {
            data.discard(file)?;
        }
    }
    Ok(stream.finish(diff_id)?)
}

fn length(texts: &[&[u8]]) -> u64 {
    let bytes = texts.iter().map(|text| text.len()).sum::<usize>();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// What the name of a member makes of it.
enum Role<'p, 'a> {
    /// Something to put into the tree.
    Plain,
    /// Hides this name of the directory.
    Whiteout(&'p [&'a [u8]], &'a [u8]),
    /// Hides all older names of the directory.
    Opaque(&'p [&'a [u8]]),
    /// Of aufs, and without meaning here.
    Ignored,
}

fn role<'p, 'a>(path: &'p Path<'a>) -> Result<Role<'p, 'a>, Fault> {
    let Some((parents, name)) = path.split() else { return Ok(Role::Plain) };
    let within = parents.iter().find(|name| name.starts_with(WHITEOUT));
    if within.is_some_and(|name| !name.starts_with(AUFS)) {
        return Err(Fault::Whiteout);
    }
    if within.is_some() {
        return Ok(Role::Ignored);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Role::Plain),
        Some(_) if name == OPAQUE => Ok(Role::Opaque(parents)),
        Some(_) if name.starts_with(AUFS) => Ok(Role::Ignored),
        Some(b"" | b"." | b"..") => Err(Fault::Whiteout),
        Some(hidden) => Ok(Role::Whiteout(parents, hidden)),
    }
}

/// Does what one member says; returns the memory of its extended attributes.
fn put(
    path: &[u8],
    member: Member,
    archive: &mut Archive<'_, '_>,
    tree: &mut Tree,
    data: &mut Data<'_>,
) -> Result<u64, Fault> {
    let path = Path::parse(path)?;
    match role(&path)? {
        Role::Plain if member.kind == Kind::HardLink => {
            tree.link(&path, &Path::parse(&member.link)?)?;
        }
        Role::Plain => return create(&path, member, archive, tree, data),
        Role::Whiteout(parents, name) => tree.whiteout(parents, name)?,
        Role::Opaque(parents) => tree.opaque(parents)?,
        Role::Ignored => {}
    }
    Ok(0)
}

/// Makes the inode of a member; returns the memory of its extended attributes.
fn create(
    path: &Path<'_>,
    member: Member,
    archive: &mut Archive<'_, '_>,
    tree: &mut Tree,
    data: &mut Data<'_>,
) -> Result<u64, Fault> {
    let Member { kind, link, device, mode, owner, mtime, xattrs, sparse, .. } = member;
    let xattrs = xattr::kept(xattrs)?;
    let bytes = xattr::bytes(&xattrs);
    let memory = xattr::memory(&xattrs);
    let content = match kind {
        Kind::File => Content::File(data.store(archive, sparse, bytes)?),
        Kind::Symlink => Content::Symlink(symlink_target(link)?),
        Kind::Character => Content::Character(device_number(device)?),
        Kind::Block => Content::Block(device_number(device)?),
        Kind::Fifo => Content::Fifo,
        Kind::Directory | Kind::HardLink => Content::directory(),
    };
    let (uid, gid) = (owner_number(owner.0)?, owner_number(owner.1)?);
    let (mtime, mtime_nsec) = mtime;
    // Linux ignores those of a symbolic link and shows them like this.
    let mode = if kind == Kind::Symlink { 0o777 } else { mode };
    tree.insert(path, Meta { mode, uid, gid, mtime, mtime_nsec, xattrs }, content)?;
    Ok(memory)
}

/// The one number beyond 32 bits' last but one means "no owner" to Linux.
fn owner_number(owner: u64) -> Result<u32, Fault> {
    u32::try_from(owner).ok().filter(|owner| *owner != u32::MAX).ok_or(Fault::Owner(owner))
}

/// Twelve bits of major and twenty of minor number, as Linux puts them into one.
fn device_number((major, minor): (u64, u64)) -> Result<u32, Fault> {
    let fits = |number: u64, bits: u32| u32::try_from(number).ok().filter(|it| it >> bits == 0);
    match (fits(major, 12), fits(minor, 20)) {
        (Some(major), Some(minor)) => Ok((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)),
        _ => Err(Fault::DeviceNumber(major, minor)),
    }
}

fn symlink_target(target: Vec<u8>) -> Result<Box<[u8]>, Fault> {
    if target.is_empty() || target.len() > PATH_BYTES || target.contains(&0) {
        return Err(Fault::SymlinkTarget);
    }
    Ok(target.into())
}
