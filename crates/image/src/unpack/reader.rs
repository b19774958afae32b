//! An EROFS image without compression, as the converter writes it (fs/erofs/erofs_fs.h of Linux).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::UnpackError;

const BLOCK: u64 = 4096;
const SUPERBLOCK: u64 = 1024;
const MAGIC: u64 = 0xe0f5_e1e2;
/// Inodes are numbered by their place in units of this.
const SLOT: u64 = 32;
/// Bytes of an extended inode, and of a directory's entry without its name.
const INODE: u64 = 64;
const ENTRY: usize = 12;
/// A chunk that is a hole.
const HOLE: u64 = 0xffff_ffff;
/// Directories and symbolic links of more bytes are none of the converter's.
const MAX_DIRECTORY: u64 = 1 << 30;
const MAX_SYMLINK: u64 = 4096;

/// An image, read at random.
pub(super) struct Reader<'a> {
    image: &'a File,
    len: u64,
    /// Where inodes begin.
    inodes: u64,
    pub(super) root: u64,
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Symlink,
    Fifo,
    /// A device or a socket.
    Other,
}

/// An inode.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    /// Rights, without the type.
    pub(super) rights: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) mtime_nsec: u32,
    pub(super) links: u64,
    pub(super) size: u64,
    layout: u64,
    value: u64,
    /// What is behind it and its attributes.
    tail: u64,
}

/// A stretch of a file: where it is in the file and in the image, and its length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) offset: u64,
    at: u64,
    pub(super) len: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn open(image: &'a File) -> Result<Self, UnpackError> {
        let len = image.metadata().map_err(UnpackError::Read)?.len();
        let mut reader = Self { image, len, inodes: 0, root: 0 };
        if reader.number(SUPERBLOCK, 4)? != MAGIC {
            return Err(UnpackError::Damaged("it is no EROFS image"));
        }
        reader.root = reader.number(SUPERBLOCK + 14, 2)?;
        reader.inodes = reader.number(SUPERBLOCK + 40, 4)? * BLOCK;
        Ok(reader)
    }

    fn bytes(&self, at: u64, buffer: &mut [u8]) -> Result<(), UnpackError> {
        self.image.read_exact_at(buffer, at).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => UnpackError::Damaged("it is shorter than it says"),
            _ => UnpackError::Read(error),
        })
    }

    /// A little-endian number of at most eight bytes.
    fn number(&self, at: u64, len: usize) -> Result<u64, UnpackError> {
        let mut bytes = [0; 8];
        self.bytes(at, bytes.get_mut(..len).unwrap_or_default())?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn inode(&self, nid: u64) -> Result<Inode, UnpackError> {
        let place = nid.checked_mul(SLOT).and_then(|place| place.checked_add(self.inodes));
        let at = place.ok_or(UnpackError::Damaged("an inode is nowhere"))?;
        let mut bytes = [0; 64];
        self.bytes(at, &mut bytes)?;
        let field = |start: usize, len: usize| number(bytes.get(start..start + len));
        let format = field(0, 2);
        if format & 1 == 0 {
            return Err(UnpackError::Damaged("an inode has another form"));
        }
        let attributes = match field(2, 2) {
            0 => 0,
            count => 12 + 4 * (count - 1),
        };
        let mode = field(4, 2);
        Ok(Inode {
            kind: match mode >> 12 {
                0o4 => Kind::Directory,
                0o10 => Kind::File,
                0o12 => Kind::Symlink,
                0o1 => Kind::Fifo,
                _ => Kind::Other,
            },
            rights: small(mode & 0o7777),
            uid: small(field(24, 4)),
            gid: small(field(28, 4)),
            mtime: i64::from_le_bytes(field(32, 8).to_le_bytes()),
            mtime_nsec: small(field(40, 4)),
            links: field(44, 4),
            size: field(8, 8),
            layout: (format >> 1) & 7,
            value: field(16, 4),
            tail: at + INODE + attributes,
        })
    }

    /// The stretches of a file that are no holes, in order.
    pub(super) fn stretches(&self, inode: &Inode) -> Result<Vec<Stretch>, UnpackError> {
        let whole = |at| vec![Stretch { offset: 0, at, len: inode.size }];
        let stretches = match inode.layout {
            0 => whole(inode.value * BLOCK),
            2 => whole(inode.tail),
            4 => self.chunks(inode)?,
            _ => return Err(UnpackError::Damaged("contents have another form")),
        };
        let inside = |stretch: &Stretch| stretch.at.saturating_add(stretch.len) <= self.len;
        // A file without contents may be said to be anywhere.
        if inode.size > 0 && !stretches.iter().all(inside) {
            return Err(UnpackError::Damaged("contents are outside of it"));
        }
        Ok(stretches)
    }

    fn chunks(&self, inode: &Inode) -> Result<Vec<Stretch>, UnpackError> {
        let chunk = BLOCK << (inode.value & 0x1f);
        if inode.size / chunk > self.len / 4 {
            return Err(UnpackError::Damaged("a file has more chunks than numbers of chunks"));
        }
        let mut found = vec![];
        for (index, offset) in (0..inode.size).step_by(usize(chunk)).enumerate() {
            let place = u64::try_from(index).unwrap_or(u64::MAX).saturating_mul(4);
            match self.number(inode.tail.saturating_add(place), 4)? {
                HOLE => {}
                block => {
                    let len = chunk.min(inode.size - offset);
                    found.push(Stretch { offset, at: block * BLOCK, len });
                }
            }
        }
        Ok(found)
    }

    /// Reads from the beginning of a stretch on; `done` bytes of it were read before.
    pub(super) fn read(
        &self,
        stretch: &Stretch,
        done: u64,
        buffer: &mut [u8],
    ) -> Result<(), UnpackError> {
        self.bytes(stretch.at.saturating_add(done), buffer)
    }

    fn contents(&self, inode: &Inode, most: u64) -> Result<Vec<u8>, UnpackError> {
        if inode.size > most.min(self.len) {
            return Err(UnpackError::Damaged("a directory or symbolic link is too long"));
        }
        let mut bytes = vec![0; usize(inode.size)];
        for stretch in self.stretches(inode)? {
            let start = usize(stretch.offset);
            let end = start.saturating_add(usize(stretch.len));
            self.read(&stretch, 0, bytes.get_mut(start..end).unwrap_or_default())?;
        }
        Ok(bytes)
    }

    pub(super) fn target(&self, inode: &Inode) -> Result<Vec<u8>, UnpackError> {
        self.contents(inode, MAX_SYMLINK)
    }

    /// Names and inodes of a directory, without itself and the one above. No name leads anywhere else.
    pub(super) fn entries(&self, inode: &Inode) -> Result<Vec<(Vec<u8>, u64)>, UnpackError> {
        let bytes = self.contents(inode, MAX_DIRECTORY)?;
        let mut entries = vec![];
        for block in bytes.chunks(usize(BLOCK)) {
            entries_of(block, &mut entries)?;
        }
        entries.retain(|(name, _)| name != b"." && name != b"..");
        Ok(entries)
    }
}

/// The entries of one block: as many as fit before the first name, which says where that is.
fn entries_of(block: &[u8], entries: &mut Vec<(Vec<u8>, u64)>) -> Result<(), UnpackError> {
    let damaged = UnpackError::Damaged("a directory has names that are none");
    let start = |index: usize| -> Option<usize> {
        let at = index.checked_mul(ENTRY)?.checked_add(8)?;
        block.get(at..at + 2).map(|bytes| usize(number(Some(bytes))))
    };
    let count = start(0).map_or(0, |first| first / ENTRY);
    for index in 0..count {
        let end = if index + 1 < count { start(index + 1) } else { Some(block.len()) };
        let name = start(index).zip(end).and_then(|(start, end)| block.get(start..end));
        let nid = number(block.get(index * ENTRY..index * ENTRY + 8));
        let name = name.and_then(|name| name.split(|byte| *byte == 0).next()).unwrap_or_default();
        if name.is_empty() || name.contains(&b'/') {
            return Err(damaged);
        }
        entries.push((name.to_vec(), nid));
    }
    Ok(())
}

fn number(bytes: Option<&[u8]>) -> u64 {
    bytes.unwrap_or_default().iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// A number of at most four bytes.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

/// This program is for machines of 64 bits.
fn usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
