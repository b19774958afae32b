//! Names for files that are not kernels of this machine, so that the error says what they are.

use super::KernelError;

/// Where arm64 and RISC-V `Image` files have their second magic number (Linux: arm64/booting.rst,
/// riscv/boot-image-header.rst).
const IMAGE_MAGIC_OFFSET: usize = 0x38;

/// The error for a file that begins with `head` and is neither ELF nor bzImage.
pub(super) fn name(head: &[u8]) -> KernelError {
    let image_magic = head.get(IMAGE_MAGIC_OFFSET..).unwrap_or_default();
    if image_magic.starts_with(b"ARM\x64") {
        return KernelError::ForeignArchitecture { found: "aarch64 (an arm64 Image)" };
    }
    if image_magic.starts_with(b"RSC\x05") {
        return KernelError::ForeignArchitecture { found: "RISC-V" };
    }
    // An EFI zboot image: a PE file that unpacks the kernel in it (Linux: drivers/firmware/efi/libstub).
    if head.starts_with(b"MZ") && head.get(4..).unwrap_or_default().starts_with(b"zimg") {
        return KernelError::Compressed { format: "EFI-zboot" };
    }
    match COMPRESSED.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some(&(_, format)) => KernelError::Compressed { format },
        None => KernelError::UnknownFormat,
    }
}

/// First bytes of compressed files.
const COMPRESSED: [(&[u8], &str); 7] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "lzma"),
    (b"\x89LZO\0\r\n\x1a\n", "lzop"),
    (b"\x02\x21\x4c\x18", "lz4"),
];

/// What an ELF machine number that is not `EM_X86_64` stands for (ELF gABI, "e_machine").
pub(super) fn machine(number: u16) -> &'static str {
    match number {
        3 => "32-bit x86",
        8 => "MIPS",
        20 => "32-bit PowerPC",
        21 => "PowerPC",
        22 => "s390",
        40 => "32-bit Arm",
        183 => "aarch64",
        243 => "RISC-V",
        258 => "LoongArch",
        _ => "another architecture",
    }
}
