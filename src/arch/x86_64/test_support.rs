//! Small kernels and guests for the tests of this module.

use std::fs::File;
use std::io::Write;

use vm_memory::{Bytes, GuestAddress};

use super::{
    InterruptController, LoadedKernel, load_kernel, memory_regions, virtio_mmio_placement,
};
use crate::arch::{BootData, Placement};
use crate::config::BootProtocol;
use crate::memory::GuestMemory;

/// Where the test kernels are loaded.
pub(super) const LOAD_ADDRESS: u64 = 0x20_0000;
/// Where the code of [`Elf::image`] begins in the file.
const ELF_CODE_OFFSET: u64 = 0x1000;

/// Guest memory of `mib` MiB.
pub(super) fn guest_memory(mib: u64) -> GuestMemory {
    GuestMemory::from_ranges(&memory_regions(mib << 20)).unwrap()
}

/// An unnamed file that holds `bytes`.
pub(super) fn file_with(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// The fields of a small ELF image: one segment of code and, if there is a PVH entry, a note.
#[derive(Clone, Debug)]
pub(super) struct Elf {
    pub(super) entry: u64,
    pub(super) address: u64,
    pub(super) memory_size: u64,
    pub(super) code: Vec<u8>,
    pub(super) pvh_entry: Option<u32>,
}

impl Elf {
    /// An image whose entry, by both protocols, is the first byte of `code`.
    pub(super) fn new(code: &[u8]) -> Self {
        Self {
            entry: LOAD_ADDRESS,
            address: LOAD_ADDRESS,
            memory_size: code.len() as u64,
            code: code.to_vec(),
            pvh_entry: None,
        }
    }

    /// The same image with a note that gives its first byte as PVH entry.
    pub(super) fn with_pvh(self) -> Self {
        Self { pvh_entry: Some(self.address as u32), ..self }
    }

    /// The bytes of the file.
    pub(super) fn image(&self) -> Vec<u8> {
        const NOTE_OFFSET: u64 = 0x200;
        let note = self.pvh_entry.map(pvh_note).unwrap_or_default();
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(62u16.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(self.entry.to_le_bytes());
        bytes.extend(64u64.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        for field in [64u16, 56, 2, 64, 0, 0] {
            bytes.extend(field.to_le_bytes());
        }
        let size = self.code.len() as u64;
        let load = [ELF_CODE_OFFSET, self.address, self.address, size, self.memory_size, 4096];
        let note_size = note.len() as u64;
        program_header(&mut bytes, 1, load);
        program_header(&mut bytes, 4, [NOTE_OFFSET, 0, 0, note_size, note_size, 4]);
        bytes.resize(NOTE_OFFSET as usize, 0);
        bytes.extend(note);
        bytes.resize(ELF_CODE_OFFSET as usize, 0);
        bytes.extend(&self.code);
        bytes
    }
}

fn program_header(bytes: &mut Vec<u8>, kind: u32, fields: [u64; 6]) {
    bytes.extend(kind.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
}

/// A note of another owner, then the one with the PVH entry.
fn pvh_note(entry: u32) -> Vec<u8> {
    let mut note = Vec::new();
    for (name, kind, description) in [("GNU\0", 3u32, 0x1234_5678u32), ("Xen\0", 18, entry)] {
        note.extend(4u32.to_le_bytes());
        note.extend(4u32.to_le_bytes());
        note.extend(kind.to_le_bytes());
        note.extend(name.as_bytes());
        note.extend(description.to_le_bytes());
    }
    note
}

/// The bytes of a small bzImage of protocol 2.15 whose kernel code is `code`, from the beginning of its
/// 64-bit entry.
pub(super) fn bzimage(code: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0u8; 2 * 512];
    let mut put = |offset: usize, field: &[u8]| {
        bytes[offset..offset + field.len()].copy_from_slice(field);
    };
    let code_size = 0x200 + code.len();
    put(0x1f1, &[1]);
    put(0x1f4, &(code_size.div_ceil(16) as u32).to_le_bytes());
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x200, &[0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &1u16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &LOAD_ADDRESS.to_le_bytes());
    put(0x260, &0x10_0000u32.to_le_bytes());
    bytes.resize(2 * 512 + 0x200, 0);
    bytes.extend(code);
    bytes
}

/// A test kernel in fresh memory of 64 MiB, for tests of what is written around it.
pub(super) fn loaded(image: &[u8]) -> (GuestMemory, LoadedKernel) {
    let mem = guest_memory(64);
    let kernel = load_kernel(&mem, &file_with(image), BootProtocol::Auto).unwrap();
    (mem, kernel)
}

/// Boot data for one vCPU, with nothing in it that can be left out.
pub(super) fn boot_data(kernel: &LoadedKernel) -> BootData<'_> {
    BootData {
        kernel,
        cmdline: "console=ttyS0",
        initrd: None,
        interrupt_controller: InterruptController,
        acpi: true,
        cpus: 1,
        serial: true,
        cpu_features: &[],
        virtio_mmio: &[],
    }
}

/// As many virtio devices as a machine can have.
pub(super) fn all_placements() -> Vec<Placement> {
    (0..).map_while(virtio_mmio_placement).collect()
}

/// `length` bytes of guest memory from `address`.
pub(super) fn read(mem: &GuestMemory, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    mem.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

/// The sum of `bytes`, which is 0 in a table with a valid checksum.
pub(super) fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The little-endian number of `N` bytes at `offset`.
pub(super) fn number<const N: usize>(bytes: &[u8], offset: usize) -> u64 {
    let mut number = [0; 8];
    number[..N].copy_from_slice(&bytes[offset..offset + N]);
    u64::from_le_bytes(number)
}
