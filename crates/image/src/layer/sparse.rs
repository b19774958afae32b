//! Where the data of a file with holes is.

use super::fault::Fault;

/// Stretches of one file at most.
pub(super) const MAX_STRETCHES: usize = 1 << 16;

/// A stretch of data in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// A file with holes: its size and its data, in order, without overlap and inside of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SparseMap {
    pub(crate) size: u64,
    pub(crate) stretches: Vec<Stretch>,
}

impl SparseMap {
    /// Checks what an archive says of a file of `size` bytes with `stored` bytes of data.
    pub(super) fn new(size: u64, mut stretches: Vec<Stretch>, stored: u64) -> Result<Self, Fault> {
        stretches.retain(|stretch| stretch.len > 0);
        if stretches.len() > MAX_STRETCHES {
            return Err(Fault::Tar("a sparse file has too many stretches"));
        }
        let (mut end, mut sum) = (0, 0);
        for stretch in &stretches {
            let inside = stretch.offset.checked_add(stretch.len).filter(|end| *end <= size);
            if stretch.offset < end {
                return Err(Fault::Tar("the stretches of a sparse file overlap"));
            }
            end = inside.ok_or(Fault::Tar("a sparse file has data beyond its end"))?;
            sum += stretch.len;
        }
        if sum != stored {
            return Err(Fault::Tar("a sparse file has other data than its map says"));
        }
        Ok(Self { size, stretches })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(size: u64, stretches: &[(u64, u64)], stored: u64) -> Result<SparseMap, Fault> {
        let stretches =
            stretches.iter().map(|(offset, len)| Stretch { offset: *offset, len: *len });
        SparseMap::new(size, stretches.collect(), stored)
    }

    #[test]
    fn stretches_in_order_are_a_map() {
        assert!(map(0, &[], 0).is_ok());
        assert!(map(1 << 40, &[(0, 1), (1, 1), (4096, 512), (1 << 40, 0)], 514).is_ok());
    }

    /// I7
    #[test]
    fn impossible_maps_are_refused() {
        assert!(map(10, &[(0, 5), (4, 1)], 6).is_err(), "overlap");
        assert!(map(10, &[(5, 1), (0, 1)], 2).is_err(), "order");
        assert!(map(10, &[(5, 6)], 6).is_err(), "beyond the end");
        assert!(map(10, &[(u64::MAX, 2)], 2).is_err(), "wraps");
        assert!(map(10, &[(0, 5)], 6).is_err(), "more data");
        assert!(map(10, &[(0, 5)], 4).is_err(), "less data");
        assert!(map(u64::MAX, &[(0, 1); MAX_STRETCHES + 1], 1).is_err(), "too many");
    }
}
