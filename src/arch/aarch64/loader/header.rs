//! The header of an arm64 Image (Linux: Documentation/arch/arm64/booting.rst, 4), and of the EFI program that
//! it is at the same time.

use crate::arch::foreign;
use crate::arch::kernel::KernelError;
use crate::arch::kernel_file::{KernelFile, u16_at, u32_at, u64_at};

/// Length of the header in bytes.
pub(super) const SIZE: usize = 64;
/// Where kernels are placed that do not say how large they are (before Linux 3.17).
const OLD_TEXT_OFFSET: u64 = 0x8_0000;
/// An Image is placed this far from a multiple of 2 MiB, at most.
const MAX_TEXT_OFFSET: u64 = 0x20_0000;
/// A flag: the kernel is big-endian.
const BIG_ENDIAN: u64 = 1;

/// What we use of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Distance of the kernel from a multiple of 2 MiB, in bytes.
    pub(super) text_offset: u64,
    /// Memory that the kernel occupies, zeroed data included, in bytes; 0 when it does not say.
    pub(super) image_size: u64,
}

impl Header {
    /// Reads the header at the beginning of `head`, which is that of `length` bytes.
    pub(super) fn parse(head: &[u8], length: u64) -> Result<Self, KernelError> {
        let truncated = || KernelError::Truncated {
            part: "Image header",
            end: u64::try_from(SIZE).unwrap_or(u64::MAX),
            length,
        };
        let head = head.get(..SIZE).ok_or_else(truncated)?;
        if !foreign::is_arm64_image(head) {
            return Err(KernelError::BadImage("what is packed in it is no arm64 Image"));
        }
        let field = |offset| u64_at(head, offset).ok_or_else(truncated);
        let (text_offset, image_size, flags) = (field(8)?, field(16)?, field(24)?);
        if flags & BIG_ENDIAN != 0 {
            return Err(KernelError::ForeignArchitecture { found: "a big-endian machine" });
        }
        if image_size == 0 {
            return Ok(Self { text_offset: OLD_TEXT_OFFSET, image_size });
        }
        if text_offset > MAX_TEXT_OFFSET {
            return Err(KernelError::BadImage("its text offset is more than 2 MiB"));
        }
        Ok(Self { text_offset, image_size })
    }
}

/// Checks that the parts of a kernel that is an EFI program too are all in the file: nothing else tells
/// that one is cut off (PE format, "COFF File Header" and "Section Table").
pub(super) fn check_sections(file: &KernelFile<'_>) -> Result<(), KernelError> {
    let head = file.head();
    let Some(pe) = u32_at(head, PE_OFFSET).filter(|_| head.starts_with(b"MZ")) else {
        return Ok(());
    };
    file.check("EFI header", pe.into(), COFF_SIZE)?;
    let pe = head.get(usize::try_from(pe).unwrap_or(usize::MAX)..).unwrap_or_default();
    // One that lies further behind than we look is none that Linux has.
    let Some((table, sections)) = section_table(pe) else { return Ok(()) };
    let start = u64::try_from(head.len().saturating_sub(pe.len()).saturating_add(table));
    file.check("EFI header", start.unwrap_or(u64::MAX), u64::from(sections) * SECTION_SIZE)?;
    let table = pe.get(table..).unwrap_or_default();
    let size = usize::try_from(SECTION_SIZE).unwrap_or(usize::MAX);
    for section in table.chunks_exact(size).take(sections.into()) {
        let (size, offset) = (u32_at(section, 16), u32_at(section, 20));
        file.check("kernel code", offset.unwrap_or(0).into(), size.unwrap_or(0).into())?;
    }
    Ok(())
}

/// Where a PE file says where its own header is.
const PE_OFFSET: usize = 0x3c;
/// Length of that header without its optional part, and of an entry of the section table.
const COFF_SIZE: u64 = 24;
const SECTION_SIZE: u64 = 40;

/// Where in a PE header the section table begins, and how many sections there are.
fn section_table(pe: &[u8]) -> Option<(usize, u16)> {
    let optional_header = usize::from(u16_at(pe, 20)?);
    Some((optional_header.checked_add(24)?, u16_at(pe, 6)?))
}
