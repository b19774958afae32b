//! Names for files that are not kernels of this machine, so that the error says what they are.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use super::kernel::KernelError;
use super::kernel_file::{u16_at, u32_at};

/// Where arm64 and RISC-V `Image` files have their second magic number (Linux: arm64/booting.rst,
/// riscv/boot-image-header.rst).
const IMAGE_MAGIC_OFFSET: usize = 0x38;
/// Where a PE file says where its own header is (PE format, "MS-DOS stub").
const PE_OFFSET: usize = 0x3c;

/// Machine numbers of ELF (ELF gABI, "e_machine") and of PE (PE format, "Machine types").
pub(super) const EM_X86_64: u16 = 62;
pub(super) const EM_AARCH64: u16 = 183;
pub(super) const PE_AARCH64: u16 = 0xaa64;

/// Whether a file that begins with `head` is an ELF file.
pub(super) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// Whether a file that begins with `head` is an x86 bzImage.
pub(super) fn is_bzimage(head: &[u8]) -> bool {
    head.get(0x202..).unwrap_or_default().starts_with(b"HdrS")
}

/// Whether a file that begins with `head` is an arm64 Image.
pub(super) fn is_arm64_image(head: &[u8]) -> bool {
    head.get(IMAGE_MAGIC_OFFSET..).unwrap_or_default().starts_with(b"ARM\x64")
}

/// Whether a file that begins with `head` is an EFI zboot image: a PE file that unpacks the kernel in it
/// (Linux: drivers/firmware/efi/libstub/zboot-header.S).
pub(super) fn is_zboot(head: &[u8]) -> bool {
    head.starts_with(b"MZ") && head.get(4..).unwrap_or_default().starts_with(b"zimg")
}

/// The error for a file that begins with `head` and is none that the machine boots; `formats` names those
/// as what the file is not.
pub(super) fn name(head: &[u8], formats: &'static str) -> KernelError {
    let image_magic = head.get(IMAGE_MAGIC_OFFSET..).unwrap_or_default();
    let found = match head {
        _ if is_bzimage(head) => Some("x86_64 (a bzImage)"),
        _ if is_arm64_image(head) => Some("aarch64 (an arm64 Image)"),
        _ if image_magic.starts_with(b"RSC\x05") => Some("RISC-V"),
        _ if is_zboot(head) => Some(pe_machine(head)),
        _ => None,
    };
    if let Some(found) = found {
        return KernelError::ForeignArchitecture { found };
    }
    match COMPRESSED.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some(&(_, format)) => KernelError::Compressed { format },
        None => KernelError::UnknownFormat(formats),
    }
}

/// What the header of a PE file says it is built for.
fn pe_machine(head: &[u8]) -> &'static str {
    match machine_of_pe(head) {
        Some(PE_AARCH64) => "aarch64 (an EFI zboot image)",
        Some(0x5064) => "RISC-V (an EFI zboot image)",
        Some(0x6264) => "LoongArch (an EFI zboot image)",
        _ => "another architecture (an EFI zboot image)",
    }
}

/// The machine number of a PE file, where its header lies in `head`.
pub(super) fn machine_of_pe(head: &[u8]) -> Option<u16> {
    let offset = usize::try_from(u32_at(head, PE_OFFSET)?).ok()?;
    let header = head.get(offset..)?;
    header.starts_with(b"PE\0\0").then(|| u16_at(header, 4)).flatten()
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

/// What an ELF machine number stands for (ELF gABI, "e_machine").
pub(super) fn machine(number: u16) -> &'static str {
    match number {
        3 => "32-bit x86",
        8 => "MIPS",
        20 => "32-bit PowerPC",
        21 => "PowerPC",
        22 => "s390",
        40 => "32-bit Arm",
        EM_X86_64 => "x86_64",
        EM_AARCH64 => "aarch64",
        243 => "RISC-V",
        258 => "LoongArch",
        _ => "another architecture",
    }
}
