//! The members of a tar archive, one after the other.

use super::fault::Fault;
use super::header::{BLOCK, Header, MapPart, more_sparse};
use super::pax::{self, Pax};
use super::sparse::{MAX_STRETCHES, SparseMap, Stretch};
use super::stream::Stream;
use crate::erofs::Source;
use crate::tree::{PATH_BYTES, Xattr};

/// Bytes of an extended header at most.
const PAX_BYTES: u64 = 1 << 20;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// A member without its data.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    /// The target of a link.
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u16,
    pub(super) owner: (u64, u64),
    pub(super) mtime: (i64, u32),
    /// Major and minor number.
    pub(super) device: (u64, u64),
    pub(super) xattrs: Vec<Xattr>,
    /// Of a file with holes.
    pub(super) sparse: Option<SparseMap>,
}

/// What precedes a header and overrides it.
#[derive(Default)]
struct Extensions {
    pax: Pax,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

/// An archive that is read once from its beginning.
pub(super) struct Archive<'s, 'a> {
    stream: &'s mut Stream<'a>,
    /// Bytes of the member's data that are not taken yet.
    left: u64,
    padding: u64,
}

impl<'s, 'a> Archive<'s, 'a> {
    pub(super) fn new(stream: &'s mut Stream<'a>) -> Self {
        Self { stream, left: 0, padding: 0 }
    }

    /// The next member; what is left of the one before is dropped.
    pub(super) fn next(&mut self) -> Result<Option<Member>, Fault> {
        let (mut extensions, mut extended) = (Extensions::default(), false);
        loop {
            self.end_member()?;
            let Some(header) = self.header()? else {
                return if extended { Err(Fault::Truncated) } else { Ok(None) };
            };
            extended |= matches!(header.kind(), b'x' | b'L' | b'K');
            self.begin_data(header.size()?);
            match header.kind() {
                b'x' => extensions.pax = Pax::parse(&self.whole(PAX_BYTES)?)?,
                b'L' => extensions.long_name = Some(self.long_text()?),
                b'K' => extensions.long_link = Some(self.long_text()?),
                // Records for all that follow, such as the commit of `git archive`: none of use here.
                b'g' => {}
                _ => return self.member(&header, extensions).map(Some),
            }
        }
    }

    fn begin_data(&mut self, size: u64) {
        let block = u64::try_from(BLOCK).unwrap_or(1);
        (self.left, self.padding) = (size, size.wrapping_neg() % block);
    }

    fn end_member(&mut self) -> Result<(), Fault> {
        self.stream.skip(std::mem::take(&mut self.left))?;
        self.stream.skip(std::mem::take(&mut self.padding))
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Fault> {
        let mut block = [0; BLOCK];
        Ok(self.stream.read_exact(&mut block)?.then_some(block))
    }

    /// The next header; `None` after two blocks of zeroes or where the layer ends.
    fn header(&mut self) -> Result<Option<Header>, Fault> {
        let Some(block) = self.block()? else { return Ok(None) };
        if let Some(header) = Header::new(block)? {
            return Ok(Some(header));
        }
        match self.block()? {
            Some(block) if block != [0; BLOCK] => Err(Fault::Tar("a lone block of zeroes")),
            _ => Ok(None),
        }
    }

    /// All data of the member, which are at most `most` bytes.
    fn whole(&mut self, most: u64) -> Result<Vec<u8>, Fault> {
        if self.left > most {
            return Err(Fault::Tar("an extended header is too long"));
        }
        let mut data = Vec::new();
        while self.left > 0 {
            data.extend_from_slice(self.data(u64::MAX)?);
        }
        Ok(data)
    }

    /// A long name in GNU's form: a member's data up to the first NUL.
    fn long_text(&mut self) -> Result<Vec<u8>, Fault> {
        // One more for the NUL; what is longer than a path is refused with the path.
        let most = u64::try_from(PATH_BYTES).unwrap_or(u64::MAX) + 2;
        let mut text = self.whole(most)?;
        text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
        Ok(text)
    }

    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Member, Fault> {
        let Extensions { mut pax, long_name, long_link } = extensions;
        let path = pax.sparse.name.take().or(long_name).or(pax.path.take());
        let path = path.unwrap_or_else(|| header.name());
        let link = long_link.or(pax.link.take()).unwrap_or_else(|| header.link());
        let kind = kind(header.kind(), &path)?;
        // Whatever size the others claim, no data follow them: that is how Go reads archives, and with
        // it what makes images.
        let size = if kind == Kind::File { pax.size.unwrap_or(header.size()?) } else { 0 };
        self.begin_data(size);
        let (uid, gid) = header.owner()?;
        Ok(Member {
            path,
            link,
            kind,
            mode: header.mode()?,
            owner: (pax.uid.unwrap_or(uid), pax.gid.unwrap_or(gid)),
            mtime: pax.mtime.unwrap_or((header.mtime()?, 0)),
            device: header.device()?,
            sparse: if kind == Kind::File { self.sparse(header, &mut pax)? } else { None },
            xattrs: pax.xattrs,
        })
    }

    /// The map of a file with holes; what of it stands in the data is taken from there.
    fn sparse(&mut self, header: &Header, pax: &mut Pax) -> Result<Option<SparseMap>, Fault> {
        let sparse = &mut pax.sparse;
        let (size, stretches) = if header.kind() == b'S' {
            self.gnu_sparse(header)?
        } else if sparse.in_data {
            (sparse.size, self.sparse_in_data()?)
        } else if sparse.has_map {
            (sparse.size, std::mem::take(&mut sparse.stretches))
        } else {
            return Ok(None);
        };
        let size = size.ok_or(Fault::Tar("a sparse file has no size"))?;
        SparseMap::new(size, stretches, self.left).map(Some)
    }

    fn gnu_sparse(&mut self, header: &Header) -> Result<(Option<u64>, Vec<Stretch>), Fault> {
        let (size, MapPart { mut stretches, mut more }) = header.sparse()?;
        while more {
            if stretches.len() > MAX_STRETCHES {
                return Err(Fault::Tar("a sparse file has too many stretches"));
            }
            let block = self.block()?.ok_or(Fault::Truncated)?;
            let part = more_sparse(&block)?;
            stretches.extend(part.stretches);
            more = part.more;
        }
        Ok((Some(size), stretches))
    }

    /// A map at the beginning of the data: how many, then offset and length of each, a decimal number
    /// to a line, filled up to a block.
    fn sparse_in_data(&mut self) -> Result<Vec<Stretch>, Fault> {
        let broken = || Fault::Tar("the map of a sparse file cannot be read");
        let mut lines = Lines { archive: self, block: [0; BLOCK], at: BLOCK };
        let count = usize::try_from(lines.number()?).ok().filter(|count| *count <= MAX_STRETCHES);
        (0..count.ok_or_else(broken)?)
            .map(|_| Ok(Stretch { offset: lines.number()?, len: lines.number()? }))
            .collect()
    }
}

impl Source for Archive<'_, '_> {
    fn left(&self) -> u64 {
        self.left
    }

    fn data(&mut self, most: u64) -> Result<&[u8], Fault> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let taken = self.stream.take(self.left.min(most))?;
        if taken.is_empty() {
            return Err(Fault::Truncated);
        }
        self.left -= u64::try_from(taken.len()).unwrap_or(self.left);
        Ok(taken)
    }
}

/// Numbers at the beginning of a member's data.
struct Lines<'r, 's, 'a> {
    archive: &'r mut Archive<'s, 'a>,
    block: [u8; BLOCK],
    at: usize,
}

impl Lines<'_, '_, '_> {
    fn number(&mut self) -> Result<u64, Fault> {
        let mut digits = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => break,
                // More than any number has.
                _ if digits.len() > 20 => break,
                digit => digits.push(digit),
            }
        }
        pax::number(&digits).ok_or(Fault::Tar("the map of a sparse file cannot be read"))
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        if self.at == BLOCK {
            let block = u64::try_from(BLOCK).unwrap_or(u64::MAX);
            self.archive.left = self.archive.left.checked_sub(block).ok_or(Fault::Truncated)?;
            self.block = self.archive.block()?.ok_or(Fault::Truncated)?;
            self.at = 0;
        }
        let byte = self.block.get(self.at).copied().ok_or(Fault::Truncated)?;
        self.at += 1;
        Ok(byte)
    }
}

fn kind(kind: u8, path: &[u8]) -> Result<Kind, Fault> {
    Ok(match kind {
        // The oldest archives tell a directory by its name.
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(Fault::Kind(char::from(other))),
    })
}
