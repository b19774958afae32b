//! Small kernels for the tests of this module.

use std::fs::File;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use vm_memory::{Bytes, GuestAddress};

use super::loader::{LoadedKernel, load_kernel};
use super::memory_map::memory_regions;
use crate::config::BootProtocol;
use crate::memory::GuestMemory;

/// What [`image`] says it occupies.
pub(in crate::arch) const IMAGE_SIZE: u64 = 0x30_0000;
/// Where [`zboot`] has what is packed.
pub(in crate::arch) const PAYLOAD: usize = 0x80;

/// Guest memory of `mib` MiB.
pub(in crate::arch) fn guest_memory(mib: u64) -> GuestMemory {
    GuestMemory::from_ranges(&memory_regions(mib << 20)).unwrap()
}

/// An unnamed file that holds `bytes`.
pub(in crate::arch) fn file_with(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// An Image whose code behind the header is `code`.
pub(in crate::arch) fn image(code: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[16..24].copy_from_slice(&IMAGE_SIZE.to_le_bytes());
    bytes[24..32].copy_from_slice(&0xau64.to_le_bytes());
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes.extend(code);
    bytes
}

/// The Image is an EFI program too, with one section that takes the rest of the file.
pub(in crate::arch) fn efi_image(code: &[u8]) -> Vec<u8> {
    let mut pe = b"PE\0\0\x64\xaa".to_vec();
    pe.extend(1u16.to_le_bytes());
    pe.resize(20, 0);
    pe.extend(8u16.to_le_bytes());
    // What is left of the header, and the optional one.
    pe.resize(24 + 8, 0);
    let start = 64 + pe.len() + 40;
    let mut section = vec![0; 40];
    section[16..20].copy_from_slice(&(code.len() as u32).to_le_bytes());
    section[20..24].copy_from_slice(&(start as u32).to_le_bytes());
    let mut bytes = image(&[pe, section, code.to_vec()].concat());
    bytes[..2].copy_from_slice(b"MZ");
    bytes[60..64].copy_from_slice(&64u32.to_le_bytes());
    bytes
}

pub(in crate::arch) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An EFI zboot image with `payload` in it, which `method` unpacks.
pub(in crate::arch) fn zboot(method: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"MZ\0\0zimg".to_vec();
    bytes.extend((PAYLOAD as u32).to_le_bytes());
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.resize(24, 0);
    bytes.extend(method.as_bytes());
    bytes.resize(0x3c, 0);
    bytes.extend(64u32.to_le_bytes());
    bytes.extend(b"PE\0\0\x64\xaa");
    bytes.resize(PAYLOAD, 0);
    bytes.extend(payload);
    bytes.extend(b"signature");
    bytes
}

/// A test kernel in fresh memory of 64 MiB, for tests of what is written around it.
pub(in crate::arch) fn loaded(image: &[u8]) -> (GuestMemory, LoadedKernel) {
    let mem = guest_memory(64);
    let kernel = load_kernel(&mem, &file_with(image), BootProtocol::Auto).unwrap();
    (mem, kernel)
}

/// `length` bytes of guest memory from `address`.
pub(in crate::arch) fn read(mem: &GuestMemory, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    mem.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}
