use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::test_support::{
    IMAGE_SIZE, PAYLOAD, efi_image, file_with, guest_memory, gzip, image, read, zboot,
};
use super::*;

const CODE: &[u8] = b"kernel code";

fn load(bytes: &[u8]) -> Result<LoadedKernel, KernelError> {
    load_kernel(&guest_memory(32), &file_with(bytes), BootProtocol::Auto)
}

/// The error for an image with `field` at `offset`.
fn error_with(mut image: Vec<u8>, offset: usize, field: &[u8]) -> KernelError {
    image[offset..offset + field.len()].copy_from_slice(field);
    load(&image).unwrap_err()
}

/// Every form in which a kernel comes.
fn forms() -> [Vec<u8>; 4] {
    let plain = efi_image(CODE);
    let packed = gzip(&plain);
    [image(CODE), plain, packed.clone(), zboot("gzip", &packed)]
}

#[test]
fn kernel_is_loaded_to_the_start_of_ram_in_every_form() {
    for bytes in forms() {
        let mem = guest_memory(32);
        let kernel = load_kernel(&mem, &file_with(&bytes), BootProtocol::Auto).unwrap();
        assert_eq!(kernel.entry(), layout::RAM_START);
        assert_eq!(kernel.device_tree(), layout::RAM_START + 0x40_0000);
        assert_eq!(kernel.end(), layout::RAM_START + 0x60_0000);
        let loaded = read(&mem, kernel.entry(), 0x200);
        let code = loaded.windows(CODE.len()).position(|bytes| bytes == CODE).unwrap();
        assert!(loaded[code + CODE.len()..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn kernel_is_loaded_to_its_text_offset() {
    let mut bytes = image(CODE);
    bytes[8..16].copy_from_slice(&0x8_0000u64.to_le_bytes());
    for bytes in [bytes.clone(), gzip(&bytes)] {
        let mem = guest_memory(32);
        let kernel = load_kernel(&mem, &file_with(&bytes), BootProtocol::Auto).unwrap();
        assert_eq!(kernel.entry(), layout::RAM_START + 0x8_0000);
        assert_eq!(read(&mem, kernel.entry() + 64, CODE.len()), CODE);
    }
}

#[test]
fn kernel_that_does_not_say_how_large_it_is_has_the_size_of_its_file() {
    let mut bytes = image(&vec![0x55; 3 << 20]);
    bytes[8..24].fill(0);
    let kernel = load(&bytes).unwrap();
    assert_eq!(kernel.entry(), layout::RAM_START + 0x8_0000);
    assert_eq!(kernel.device_tree(), layout::RAM_START + 0x40_0000);
}

#[test]
fn what_follows_the_kernel_in_its_file_is_not_loaded() {
    let mut bytes = image(&vec![0x55; 0x1000 - 64]);
    bytes[16..24].copy_from_slice(&0x1000u64.to_le_bytes());
    bytes.extend(b"signature");
    let mem = guest_memory(32);
    let kernel = load_kernel(&mem, &file_with(&bytes), BootProtocol::Auto).unwrap();
    assert_eq!(read(&mem, kernel.entry() + 0xfff, 2), [0x55, 0]);
}

/// K1.
#[test]
fn files_truncated_anywhere_are_refused() {
    for image in forms().into_iter().skip(1) {
        let end = image.len() - if image.ends_with(b"signature") { 9 } else { 0 };
        for end in 0..end {
            let error = load(&image[..end]).unwrap_err();
            assert!(
                matches!(
                    error,
                    KernelError::Truncated { .. }
                        | KernelError::UnknownFormat(_)
                        | KernelError::Empty
                        | KernelError::Unpack(_)
                ),
                "cut at {end}: {error:?}"
            );
        }
    }
}

/// K3, K4: headers that want what no guest has.
#[test]
fn absurd_offsets_and_sizes_are_refused() {
    for offset in [0x20_0001, u64::MAX - 64, u64::MAX] {
        let error = error_with(image(CODE), 8, &offset.to_le_bytes());
        assert!(matches!(error, KernelError::BadImage(_)), "{offset:#x}: {error}");
    }
    for size in [1 << 40, u64::MAX - layout::RAM_START, u64::MAX] {
        let error = error_with(image(CODE), 16, &size.to_le_bytes());
        assert!(matches!(error, KernelError::BeyondRam { .. }), "{size:#x}: {error}");
    }
}

/// K5: with its device tree it ends where RAM does.
#[test]
fn kernel_one_byte_larger_than_memory_is_refused() {
    let room = (32 << 20) - layout::DEVICE_TREE_SIZE;
    for pack in [<[u8]>::to_vec, gzip] {
        let mut bytes = image(CODE);
        bytes[16..24].copy_from_slice(&room.to_le_bytes());
        assert_eq!(load(&pack(&bytes)).unwrap().end(), layout::RAM_START + (32 << 20));
        bytes[16..24].copy_from_slice(&(room + 1).to_le_bytes());
        let error = load(&pack(&bytes)).unwrap_err();
        assert!(matches!(error, KernelError::BeyondRam { .. }), "{error}");
    }
}

/// K4: what unpacks to more than memory, or than it says, costs neither.
#[test]
fn packed_kernel_larger_than_it_says_is_refused() {
    let mut bytes = image(&vec![0; 8 << 20]);
    let start = Instant::now();
    let error = load(&gzip(&bytes)).unwrap_err();
    assert!(matches!(error, KernelError::BadImage(_)), "{error}");
    bytes[16..24].fill(0);
    let error = load(&gzip(&bytes)).unwrap_err();
    assert!(matches!(error, KernelError::BadImage(_)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// K4.
#[test]
fn damaged_payload_is_refused() {
    let packed = gzip(&image(&[0x90; 0x1000]));
    let middle = packed.len() / 2;
    let error = error_with(packed.clone(), middle, &[0xff; 4]);
    assert!(matches!(error, KernelError::Unpack(_)), "{error}");
    let error = error_with(zboot("gzip", &packed), PAYLOAD + middle, &[0xff; 4]);
    assert!(matches!(error, KernelError::Unpack(_)), "{error}");
    let error = error_with(zboot("gzip", &packed), PAYLOAD, b"xx");
    assert!(matches!(error, KernelError::Unpack(_)), "{error}");
    for nonsense in [b"".as_slice(), b"no kernel", &[0; 64]] {
        let error = load(&gzip(nonsense)).unwrap_err();
        assert!(
            matches!(error, KernelError::BadImage(_) | KernelError::Truncated { .. }),
            "{error}"
        );
    }
}

/// K4.
#[test]
fn zboot_header_nonsense_is_refused() {
    let image = || zboot("gzip", &gzip(&image(CODE)));
    for (offset, field) in [(8, u32::MAX), (12, u32::MAX), (8, 0x1000)] {
        let error = error_with(image(), offset, &field.to_le_bytes());
        assert!(matches!(error, KernelError::Truncated { .. }), "{offset}: {error}");
    }
    let error = error_with(image(), 24, b"brot");
    assert!(matches!(error, KernelError::BadImage(_)), "{error}");
    for (method, name) in [("zstd22", "zstd"), ("xzkern", "xz"), ("lzma", "lzma")] {
        let error = load(&zboot(method, b"x")).unwrap_err().to_string();
        assert!(error.contains(&format!("{name}-compressed")), "{error}");
    }
}

#[test]
fn files_that_are_no_kernels_of_this_machine_are_named() {
    let elf = |machine: u16| {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes
    };
    let mut bzimage = vec![0; 1024];
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    let mut foreign_zboot = zboot("gzip", &gzip(&image(CODE)));
    foreign_zboot[0x44..0x46].copy_from_slice(&0x5064u16.to_le_bytes());
    let mut big_endian = image(CODE);
    big_endian[24] |= 1;
    let cases: [(&[u8], &str); 8] = [
        (&bzimage, "x86_64 (a bzImage)"),
        (&elf(62), "built for x86_64"),
        (&elf(183), "use the Image"),
        (&elf(243), "RISC-V"),
        (&foreign_zboot, "RISC-V (an EFI zboot image)"),
        (&big_endian, "big-endian"),
        (b"\x28\xb5\x2f\xfd\0", "zstd-compressed"),
        (b"#!/bin/sh\n", "no arm64 Image"),
    ];
    for (bytes, expected) in cases {
        let error = load(bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn boot_protocols_of_other_architectures_are_refused() {
    for protocol in [BootProtocol::Pvh, BootProtocol::Linux64] {
        let error = load_kernel(&guest_memory(32), &file_with(&image(CODE)), protocol).unwrap_err();
        assert!(matches!(error, KernelError::NoProtocol(_)), "{error}");
    }
}

/// Bytes that tend to break arithmetic.
fn awkward_byte() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever a header says, the loader answers at once and stays inside memory and file.
    #[test]
    fn mutated_headers_never_panic_or_hang(
        form in 0..4usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), awkward_byte()), 1..16),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut image = forms()[form].clone();
        for (index, byte) in changes {
            let at = index.index(image.len().min(0x90));
            image[at] = byte;
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        let start = Instant::now();
        let result = load(&image);
        prop_assert!(start.elapsed() < Duration::from_secs(1));
        if let Ok(kernel) = result {
            prop_assert!(kernel.end() <= layout::RAM_START + (32 << 20));
            prop_assert!((layout::RAM_START..kernel.device_tree()).contains(&kernel.entry()));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = load(&bytes);
        let _ = load(&gzip(&bytes));
        let _ = load(&zboot("gzip", &bytes));
        let _ = load(&[&image(b"")[..], &bytes].concat());
    }
}

#[test]
fn size_in_the_header_counts_for_the_place_of_the_device_tree() {
    let kernel = load(&image(CODE)).unwrap();
    assert_eq!(kernel.device_tree(), (layout::RAM_START + IMAGE_SIZE).next_multiple_of(0x20_0000));
}
