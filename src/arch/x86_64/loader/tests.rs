use std::time::{Duration, Instant};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::test_support::{Elf, LOAD_ADDRESS, bzimage, file_with, guest_memory};
use super::*;

const CODE: &[u8] = b"kernel code";

fn load_with(bytes: &[u8], protocol: BootProtocol) -> Result<LoadedKernel, KernelError> {
    load_kernel(&guest_memory(32), &file_with(bytes), protocol)
}

fn load(bytes: &[u8]) -> Result<LoadedKernel, KernelError> {
    load_with(bytes, BootProtocol::Auto)
}

/// The error for an image with `field` at `offset`.
fn error_with(mut image: Vec<u8>, offset: usize, field: &[u8]) -> KernelError {
    image[offset..offset + field.len()].copy_from_slice(field);
    load(&image).unwrap_err()
}

fn elf_error(offset: usize, field: &[u8]) -> KernelError {
    error_with(Elf::new(CODE).image(), offset, field)
}

fn bzimage_error(offset: usize, field: &[u8]) -> KernelError {
    error_with(bzimage(CODE), offset, field)
}

/// Where the fields of the first program header are in the file.
const P_OFFSET: usize = 64 + 8;
const P_PADDR: usize = 64 + 24;
const P_FILESZ: usize = 64 + 32;
const P_MEMSZ: usize = 64 + 40;

#[test]
fn elf_is_loaded_to_its_physical_address() {
    let mem = guest_memory(32);
    let mut elf = Elf::new(CODE);
    elf.memory_size = 0x5001;
    elf.entry += 4;
    let kernel = load_kernel(&mem, &file_with(&elf.image()), BootProtocol::Auto).unwrap();
    assert_eq!(kernel.protocol(), EntryProtocol::Linux64);
    assert_eq!(kernel.entry(), LOAD_ADDRESS + 4);
    assert_eq!(kernel.end(), LOAD_ADDRESS + 0x5001);
    let mut loaded = vec![0; CODE.len() + 1];
    mem.read_slice(&mut loaded, GuestAddress(LOAD_ADDRESS)).unwrap();
    assert_eq!(loaded, [CODE, b"\0"].concat());
}

#[test]
fn elf_with_pvh_note_is_entered_by_pvh_unless_told_otherwise() {
    let mut elf = Elf::new(CODE).with_pvh();
    elf.pvh_entry = elf.pvh_entry.map(|entry| entry + 2);
    let kernel = load(&elf.image()).unwrap();
    assert_eq!((kernel.protocol(), kernel.entry()), (EntryProtocol::Pvh, LOAD_ADDRESS + 2));
    let kernel = load_with(&elf.image(), BootProtocol::Pvh).unwrap();
    assert_eq!(kernel.protocol(), EntryProtocol::Pvh);
    let kernel = load_with(&elf.image(), BootProtocol::Linux64).unwrap();
    assert_eq!((kernel.protocol(), kernel.entry()), (EntryProtocol::Linux64, LOAD_ADDRESS));
}

#[test]
fn pvh_is_refused_without_note() {
    for image in [Elf::new(CODE).image(), bzimage(CODE)] {
        let error = load_with(&image, BootProtocol::Pvh).unwrap_err();
        assert!(matches!(error, KernelError::NoPvhEntry), "{error}");
    }
}

#[test]
fn bzimage_is_loaded_to_its_preferred_address_and_entered_at_0x200() {
    let mem = guest_memory(32);
    let kernel = load_kernel(&mem, &file_with(&bzimage(CODE)), BootProtocol::Auto).unwrap();
    assert_eq!(kernel.protocol(), EntryProtocol::Linux64);
    assert_eq!(kernel.entry(), LOAD_ADDRESS + 0x200);
    assert_eq!(kernel.end(), LOAD_ADDRESS + 0x10_0000);
    assert_eq!(kernel.cmdline_max(), 2047);
    assert_eq!(kernel.initrd_max(), 0x7fff_ffff);
    assert_eq!(kernel.setup_header().len(), 0x26c - SETUP_HEADER_OFFSET);
    let mut loaded = vec![0; CODE.len()];
    mem.read_slice(&mut loaded, GuestAddress(LOAD_ADDRESS + 0x200)).unwrap();
    assert_eq!(loaded, CODE);
}

#[test]
fn bzimage_signature_behind_the_code_is_not_loaded() {
    let mem = guest_memory(32);
    let mut image = bzimage(&[0x90; 16]);
    image.extend(b"signature");
    load_kernel(&mem, &file_with(&image), BootProtocol::Auto).unwrap();
    let after: u64 = mem.read_obj(GuestAddress(LOAD_ADDRESS + 0x210)).unwrap();
    assert_eq!(after, 0);
}

/// K1.
#[test]
fn empty_and_one_byte_files_are_refused() {
    assert!(matches!(load(b"").unwrap_err(), KernelError::Empty));
    assert!(matches!(load(b"\x7f").unwrap_err(), KernelError::UnknownFormat(_)));
}

/// K1.
#[test]
fn files_truncated_anywhere_are_refused() {
    let code = [0x90; 64];
    for image in [Elf::new(&code).with_pvh().image(), bzimage(&code)] {
        // The last paragraph of a bzImage's code may be missing: syssize is rounded up.
        for end in 1..=image.len() - 16 {
            let error = load(&image[..end]).unwrap_err();
            assert!(
                matches!(
                    error,
                    KernelError::Truncated { .. }
                        | KernelError::UnknownFormat(_)
                        | KernelError::No64BitEntry
                ),
                "cut at {end}: {error:?}"
            );
        }
    }
}

/// K2.
#[test]
fn elf_tables_and_segments_past_the_end_of_file_are_refused() {
    let past = 1u64 << 40;
    let cases = [(32, past), (32, u64::MAX), (P_OFFSET, past), (P_OFFSET, u64::MAX - 3)];
    for (offset, value) in cases {
        let error = elf_error(offset, &value.to_le_bytes());
        assert!(matches!(error, KernelError::Truncated { .. }), "{offset}: {error}");
    }
    let mut image = Elf::new(CODE).image();
    image[P_MEMSZ..P_MEMSZ + 8].copy_from_slice(&0x10_0000u64.to_le_bytes());
    let error = error_with(image, P_FILESZ, &0xf_ffffu64.to_le_bytes());
    assert!(matches!(error, KernelError::Truncated { part: "segment", .. }), "{error}");
    let error = elf_error(56, &0xffffu16.to_le_bytes());
    assert!(matches!(error, KernelError::BadElf(_)), "{error}");
    let error = elf_error(56, &128u16.to_le_bytes());
    assert!(matches!(error, KernelError::Truncated { .. }), "{error}");
}

#[test]
fn elf_headers_that_contradict_themselves_are_refused() {
    let cases: [(usize, &[u8]); 4] = [
        (54, &32u16.to_le_bytes()),
        (56, &0u16.to_le_bytes()),
        (64, &0u32.to_le_bytes()),
        (P_MEMSZ, &1u64.to_le_bytes()),
    ];
    for (offset, field) in cases {
        let error = elf_error(offset, field);
        assert!(matches!(error, KernelError::BadElf(_)), "{offset}: {error}");
    }
}

/// K3.
#[test]
fn elf_segments_outside_of_low_ram_are_refused() {
    let error = elf_error(P_PADDR, &0xf_f000u64.to_le_bytes());
    assert!(matches!(error, KernelError::BelowKernelStart { address: 0xf_f000 }), "{error}");
    for address in [0xbfff_ffffu64, 0xd000_0000, 1 << 32, u64::MAX - 4, u64::MAX] {
        let error = elf_error(P_PADDR, &address.to_le_bytes());
        assert!(matches!(error, KernelError::InMmioGap { .. }), "{address:#x}: {error}");
    }
    let error = elf_error(P_MEMSZ, &u64::MAX.to_le_bytes());
    assert!(matches!(error, KernelError::InMmioGap { end: u64::MAX }), "{error}");
}

/// K5.
#[test]
fn kernel_one_byte_larger_than_memory_is_refused() {
    let room = (32 << 20) - u32::try_from(LOAD_ADDRESS).unwrap();
    let mut elf = Elf::new(CODE);
    elf.memory_size = room.into();
    assert_eq!(load(&elf.image()).unwrap().end(), 32 << 20);
    elf.memory_size += 1;
    let error = load(&elf.image()).unwrap_err();
    assert!(matches!(error, KernelError::BeyondRam { ram_end: 0x200_0000, .. }), "{error}");
    let error = bzimage_error(0x260, &(room + 1).to_le_bytes());
    assert!(matches!(error, KernelError::BeyondRam { .. }), "{error}");
}

#[test]
fn elf_segments_that_overlap_are_refused() {
    let mut image = Elf::new(CODE).image();
    let (first, second) = (64..64 + 56, 64 + 56..64 + 112);
    let header = image[first].to_vec();
    image[second].copy_from_slice(&header);
    let error = load(&image).unwrap_err();
    assert!(matches!(error, KernelError::BadElf(_)), "{error}");
}

#[test]
fn elf_entry_outside_of_its_segments_is_refused() {
    let mut elf = Elf::new(CODE);
    elf.entry = LOAD_ADDRESS + elf.memory_size;
    assert!(matches!(load(&elf.image()).unwrap_err(), KernelError::EntryOutside { .. }));
    let mut elf = Elf::new(CODE).with_pvh();
    elf.pvh_entry = Some(0);
    assert!(matches!(load(&elf.image()).unwrap_err(), KernelError::EntryOutside { entry: 0 }));
}

#[test]
fn elf_of_other_machines_is_named() {
    let name = |offset, field: &[u8]| elf_error(offset, field).to_string();
    assert!(name(18, &183u16.to_le_bytes()).contains("aarch64"));
    assert!(name(18, &3u16.to_le_bytes()).contains("32-bit x86"));
    assert!(name(18, &0x7777u16.to_le_bytes()).contains("another architecture"));
    assert!(name(5, &[2]).contains("big-endian"));
    assert!(name(4, &[1]).contains("x32"));
}

#[test]
fn files_that_are_no_kernels_of_this_machine_are_named() {
    let mut arm64 = vec![0; 64];
    arm64[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let mut zboot = b"MZ\0\0zimg".to_vec();
    zboot.resize(64, 0);
    let mut arm64_zboot = zboot.clone();
    arm64_zboot[0x3c] = 64;
    arm64_zboot.extend(b"PE\0\0\x64\xaa");
    let cases: [(&[u8], &str); 6] = [
        (&arm64, "aarch64 (an arm64 Image)"),
        (&zboot, "another architecture (an EFI zboot image)"),
        (&arm64_zboot, "aarch64 (an EFI zboot image)"),
        (b"\x1f\x8b\x08\0", "gzip-compressed"),
        (b"\x28\xb5\x2f\xfd\0", "zstd-compressed"),
        (b"#!/bin/sh\n", "neither"),
    ];
    for (bytes, expected) in cases {
        let error = load(bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// K4.
#[test]
fn bzimage_header_nonsense_is_refused() {
    let error = bzimage_error(0x1f1, &[255]);
    assert!(matches!(error, KernelError::Truncated { .. }), "{error}");
    let error = bzimage_error(0x1f4, &u32::MAX.to_le_bytes());
    assert!(matches!(error, KernelError::Truncated { .. }), "{error}");
    let error = bzimage_error(0x1f4, &0u32.to_le_bytes());
    assert!(matches!(error, KernelError::BadBzImage(_)), "{error}");
    let error = bzimage_error(0x1fe, &[0, 0]);
    assert!(matches!(error, KernelError::BadBzImage(_)), "{error}");
    let error = bzimage_error(0x202, b"HdrX");
    assert!(matches!(error, KernelError::UnknownFormat(_)), "{error}");
    let error = bzimage_error(0x260, &u32::MAX.to_le_bytes());
    assert!(matches!(error, KernelError::InMmioGap { .. }), "{error}");
    for address in [0u64, 0xf_ffff] {
        let error = bzimage_error(0x258, &address.to_le_bytes());
        assert!(matches!(error, KernelError::BelowKernelStart { .. }), "{error}");
    }
    let error = bzimage_error(0x258, &u64::MAX.to_le_bytes());
    assert!(matches!(error, KernelError::InMmioGap { .. }), "{error}");
}

#[test]
fn bzimage_without_64_bit_entry_is_refused() {
    let cases: [(usize, &[u8]); 4] =
        [(0x236, &[0, 0]), (0x206, &0x020bu16.to_le_bytes()), (0x201, &[0]), (0x201, &[255])];
    for (offset, field) in cases {
        let error = bzimage_error(offset, field);
        assert!(matches!(error, KernelError::No64BitEntry), "{offset:#x}: {error}");
    }
}

/// K9.
#[test]
fn directories_and_devices_are_refused_without_reading() {
    for path in ["/", "/dev/zero", "/dev/null"] {
        let file = File::open(path).unwrap();
        let error = load_kernel(&guest_memory(32), &file, BootProtocol::Auto).unwrap_err();
        assert!(matches!(error, KernelError::NotRegular), "{path}: {error}");
    }
}

/// K2: the file claims more than memory has; nothing is copied before that is found out.
#[test]
fn sparse_file_of_a_tebibyte_is_refused_at_once() {
    let file = file_with(&Elf::new(CODE).image());
    file.set_len(1 << 40).unwrap();
    let mut image = Elf::new(CODE).image();
    image[P_FILESZ..P_FILESZ + 8].copy_from_slice(&(1u64 << 39).to_le_bytes());
    image[P_MEMSZ..P_MEMSZ + 8].copy_from_slice(&(1u64 << 39).to_le_bytes());
    std::os::unix::fs::FileExt::write_all_at(&file, &image, 0).unwrap();
    let start = Instant::now();
    let error = load_kernel(&guest_memory(32), &file, BootProtocol::Auto).unwrap_err();
    assert!(matches!(error, KernelError::InMmioGap { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_millis(100));
}

/// Bytes that tend to break arithmetic.
fn awkward_byte() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever a header says, the loader answers at once and stays inside memory and file.
    #[test]
    fn mutated_headers_never_panic_or_hang(
        is_elf in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), awkward_byte()), 1..24),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let (mut image, headers) = if is_elf {
            (Elf::new(CODE).with_pvh().image(), 0..0x240)
        } else {
            (bzimage(CODE), 0x1f0..0x270)
        };
        for (index, byte) in changes {
            // Most changes hit the fields, few the zeros between them.
            let span = if is_elf && index.index(3) > 0 { 0..176 } else { headers.clone() };
            image[span.start + index.index(span.len())] = byte;
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        let start = Instant::now();
        let result = load(&image);
        prop_assert!(start.elapsed() < Duration::from_secs(1));
        if let Ok(kernel) = result {
            prop_assert!(kernel.end() <= 32 << 20);
            prop_assert!((layout::KERNEL_START..kernel.end()).contains(&kernel.entry()));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = load(&bytes);
        let _ = load(&[b"\x7fELF\x02\x01\x01".as_slice(), &bytes].concat());
    }
}
