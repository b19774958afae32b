//! bzImages, entered at their 64-bit entry (Linux: Documentation/arch/x86/boot.rst).

use super::{BootProtocol, EntryProtocol, KernelError, LoadedKernel, Range, layout};
use crate::arch::kernel_file::{KernelFile, u16_at, u32_at, u64_at};
use crate::memory::GuestMemory;

/// Where the setup header begins, in the file and in the zero page.
pub(in crate::arch) const SETUP_HEADER_OFFSET: usize = 0x1f1;
/// Where the setup header must end, because the zero page goes on with something else.
const SETUP_HEADER_LIMIT: usize = 0x290;
/// Where `init_size` ends: the last field that we use.
const LAST_FIELD_END: usize = 0x264;

const BOOT_FLAG: u16 = 0xaa55;
/// Where the magic number `HdrS` is.
const MAGIC_OFFSET: usize = 0x202;
/// The first protocol version that has `xloadflags`.
const MIN_VERSION: u16 = 0x020c;
/// `xloadflags`: there is a 64-bit entry at offset 0x200.
const XLF_KERNEL_64: u16 = 1;
/// The 64-bit entry's distance from the beginning of the kernel code.
const ENTRY_OFFSET: u64 = 0x200;
const SECTOR_SIZE: u64 = 512;
/// Sectors of setup code when the header says 0.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// The unit of `syssize` in bytes.
const PARAGRAPH: u64 = 16;

/// Loads the kernel code to the address it prefers.
pub(super) fn load(
    mem: &GuestMemory,
    image: &KernelFile<'_>,
    protocol: BootProtocol,
) -> Result<LoadedKernel, KernelError> {
    let header = SetupHeader::parse(image)?;
    if protocol == BootProtocol::Pvh {
        return Err(KernelError::NoPvhEntry);
    }
    let code_size = header.code_size(image)?;
    let range = Range::new(mem, header.pref_address, header.init_size.max(code_size))?;
    image.load(mem, header.code_offset, code_size, range.start)?;
    Ok(LoadedKernel {
        protocol: EntryProtocol::Linux64,
        entry: range.start + ENTRY_OFFSET,
        end: range.end,
        initrd_max: header.initrd_max,
        cmdline_max: header.cmdline_max.min(layout::MAX_CMDLINE),
        setup_header: header.bytes,
    })
}

/// What we use of the setup header.
struct SetupHeader {
    version: u16,
    xloadflags: u16,
    boot_flag: u16,
    /// Where the kernel code begins in the file.
    code_offset: u64,
    /// How long the kernel code says it is, in bytes.
    code_size: u64,
    pref_address: u64,
    init_size: u64,
    initrd_max: u64,
    cmdline_max: usize,
    bytes: Vec<u8>,
}

impl SetupHeader {
    fn parse(image: &KernelFile<'_>) -> Result<Self, KernelError> {
        let head = image.head();
        // boot.rst, "Details of Header Fields": the header ends where the jump at 0x200 leads to.
        let jump = head.get(0x201).copied().map_or(0, usize::from);
        let end = MAGIC_OFFSET + jump;
        if !(LAST_FIELD_END..=SETUP_HEADER_LIMIT).contains(&end) {
            return Err(KernelError::No64BitEntry);
        }
        let truncated = || KernelError::Truncated {
            part: "setup header",
            end: u64::try_from(end).unwrap_or(u64::MAX),
            length: image.length(),
        };
        let bytes = head.get(SETUP_HEADER_OFFSET..end).ok_or_else(truncated)?;
        let header = Self::from_bytes(head, bytes).ok_or_else(truncated)?;
        if header.boot_flag != BOOT_FLAG {
            Err(KernelError::BadBzImage("its boot flag is not 0xaa55"))
        } else if header.version < MIN_VERSION || header.xloadflags & XLF_KERNEL_64 == 0 {
            Err(KernelError::No64BitEntry)
        } else {
            Ok(header)
        }
    }

    /// `None` when `head` is shorter than the fields.
    fn from_bytes(head: &[u8], bytes: &[u8]) -> Option<Self> {
        let setup_sectors = match *head.get(SETUP_HEADER_OFFSET)? {
            0 => DEFAULT_SETUP_SECTORS,
            sectors => sectors,
        };
        Some(Self {
            version: u16_at(head, 0x206)?,
            xloadflags: u16_at(head, 0x236)?,
            boot_flag: u16_at(head, 0x1fe)?,
            code_offset: (u64::from(setup_sectors) + 1) * SECTOR_SIZE,
            code_size: u64::from(u32_at(head, 0x1f4)?) * PARAGRAPH,
            pref_address: u64_at(head, 0x258)?,
            init_size: u64::from(u32_at(head, 0x260)?),
            initrd_max: u64::from(u32_at(head, 0x22c)?),
            cmdline_max: usize::try_from(u32_at(head, 0x238)?).ok()?,
            bytes: bytes.to_vec(),
        })
    }

    /// The bytes of kernel code to load. `syssize` is rounded up to paragraphs, so up to 15 bytes of it
    /// may be missing in the file; what follows it in the file (a signature) is not for the guest.
    fn code_size(&self, image: &KernelFile<'_>) -> Result<u64, KernelError> {
        let unpadded = self.code_size.saturating_sub(PARAGRAPH - 1);
        image.check("kernel code", self.code_offset, unpadded)?;
        let available = image.length().saturating_sub(self.code_offset);
        let size = self.code_size.min(available);
        if size <= ENTRY_OFFSET {
            return Err(KernelError::BadBzImage("its code is shorter than its entry"));
        }
        Ok(size)
    }
}
