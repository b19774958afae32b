//! Checked access to a kernel file: nothing is read that was not proven to lie inside it.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};

use super::kernel::KernelError;
use crate::memory::GuestMemory;

/// How much of a file's beginning is looked at: every fixed header lies within.
const HEAD_SIZE: u64 = 4096;

/// A kernel file: its length, its first bytes, and reads checked against the length.
pub(super) struct KernelFile<'a> {
    file: &'a File,
    length: u64,
    head: Vec<u8>,
}

impl<'a> KernelFile<'a> {
    /// Takes a regular file with something in it and reads its beginning.
    pub(super) fn open(file: &'a File) -> Result<Self, KernelError> {
        let metadata = file.metadata().map_err(KernelError::Read)?;
        if !metadata.is_file() {
            return Err(KernelError::NotRegular);
        }
        let mut image = Self { file, length: metadata.len(), head: Vec::new() };
        if image.length == 0 {
            return Err(KernelError::Empty);
        }
        image.head = image.read("beginning", 0, image.length.min(HEAD_SIZE))?;
        Ok(image)
    }

    /// Length of the file in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The first bytes of the file, at most a page.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Checks that the file has `size` bytes from `offset`; `part` names them in the error.
    pub(super) fn check(
        &self,
        part: &'static str,
        offset: u64,
        size: u64,
    ) -> Result<(), KernelError> {
        match offset.checked_add(size) {
            Some(end) if end <= self.length => Ok(()),
            end => Err(KernelError::Truncated {
                part,
                end: end.unwrap_or(u64::MAX),
                length: self.length,
            }),
        }
    }

    /// Reads `size` bytes from `offset`. The caller has bounded `size`.
    pub(super) fn read(
        &self,
        part: &'static str,
        offset: u64,
        size: u64,
    ) -> Result<Vec<u8>, KernelError> {
        self.check(part, offset, size)?;
        let size = usize::try_from(size).map_err(|_| KernelError::TooLarge)?;
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, offset).map_err(KernelError::Read)?;
        Ok(bytes)
    }

    /// Reads `size` bytes from `offset` straight into guest memory at `address`.
    pub(super) fn load(
        &self,
        mem: &GuestMemory,
        offset: u64,
        size: u64,
        address: u64,
    ) -> Result<(), KernelError> {
        self.check("kernel code", offset, size)?;
        let size = usize::try_from(size).map_err(|_| KernelError::TooLarge)?;
        let mut file = self.file;
        file.seek(SeekFrom::Start(offset)).map_err(KernelError::Read)?;
        mem.read_exact_volatile_from(GuestAddress(address), &mut file, size)
            .map_err(KernelError::Load)
    }
}

/// The little-endian number of type `u16` at `offset`, if `bytes` reach that far.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_le_bytes)
}

/// The little-endian number of type `u32` at `offset`, if `bytes` reach that far.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

/// The little-endian number of type `u64` at `offset`, if `bytes` reach that far.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}
