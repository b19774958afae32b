//! Directories: blocks, each of which has entries and then their names, all sorted.

use super::BLOCK_LEN;
use super::format::put;

/// Bytes of an entry without its name.
const ENTRY_BYTES: usize = 12;

/// An entry: its name, the number of its inode, and the type.
pub(super) type DirEntry<'a> = (&'a [u8], u64, u8);

/// The blocks of a directory with `entries`, which are sorted: all but the last are whole.
pub(super) fn encode(entries: &[DirEntry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        bytes.resize(bytes.len().next_multiple_of(BLOCK_LEN), 0);
        let (block, more) = rest.split_at(in_block(rest.iter().map(|entry| entry.0.len())));
        encode_block(block, &mut bytes);
        rest = more;
    }
    bytes
}

/// How many bytes [`encode`] makes of entries with names of such lengths.
pub(super) fn encoded_len(names: &[usize]) -> usize {
    let (mut bytes, mut rest) = (0_usize, names);
    while !rest.is_empty() {
        let (block, more) = rest.split_at(in_block(rest.iter().copied()));
        let used: usize = block.iter().map(|name| ENTRY_BYTES + name).sum();
        bytes = bytes.next_multiple_of(BLOCK_LEN) + used;
        rest = more;
    }
    bytes
}

/// How many of the entries with names of such lengths fit into one block.
fn in_block(names: impl Iterator<Item = usize>) -> usize {
    let mut used = 0;
    names
        .take_while(|name| {
            used += ENTRY_BYTES + name;
            used <= BLOCK_LEN
        })
        .count()
}

fn encode_block(entries: &[DirEntry<'_>], bytes: &mut Vec<u8>) {
    let mut name_offset = entries.len() * ENTRY_BYTES;
    for (name, nid, file_type) in entries {
        // A block has 4,096 bytes.
        let offset = u16::try_from(name_offset).unwrap_or(u16::MAX);
        put(bytes, &[&nid.to_le_bytes(), &offset.to_le_bytes(), &[*file_type, 0]]);
        name_offset += name.len();
    }
    entries.iter().for_each(|(name, ..)| bytes.extend_from_slice(name));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(names: &[Vec<u8>]) -> Vec<u8> {
        let entries: Vec<DirEntry<'_>> = names.iter().map(|name| (&name[..], 1, 1)).collect();
        encode(&entries)
    }

    #[test]
    fn blocks_are_filled_to_the_last_byte_and_not_beyond() {
        // 15 entries of 12 + 255 bytes are 4,005; 91 - 12 = 79 more fill the block.
        let mut names = vec![vec![b'x'; 255]; 15];
        names.push(vec![b'y'; 79]);
        assert_eq!(encoded(&names).len(), BLOCK_LEN);
        names[15].push(b'y');
        assert_eq!(encoded(&names).len(), BLOCK_LEN + 12 + 80);
    }

    #[test]
    fn lengths_are_known_before_the_entries() {
        for count in [1, 2, 100, 300, 1000] {
            let names: Vec<Vec<u8>> = (0..count).map(|len| vec![b'n'; 1 + len % 255]).collect();
            let lens: Vec<usize> = names.iter().map(Vec::len).collect();
            assert_eq!(encoded(&names).len(), encoded_len(&lens), "{count}");
        }
    }

    #[test]
    fn entries_point_to_their_names() {
        let bytes = encode(&[(b"a", 258, 2), (b"bc", 3, 7)]);
        assert_eq!(bytes[..12], [2, 1, 0, 0, 0, 0, 0, 0, 24, 0, 2, 0]);
        assert_eq!(bytes[12..24], [3, 0, 0, 0, 0, 0, 0, 0, 25, 0, 7, 0]);
        assert_eq!(bytes[24..], *b"abc");
    }
}
