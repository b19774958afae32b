//! What the first bytes of a kernel say about it.

use super::image::{Bytes, Image};
use super::{Finding, PreflightError, shown};

/// What kind of kernel a file is, as far as its headers tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// An uncompressed kernel for this machine's architecture; where its read-only data lies
    /// in the file, as (offset, length).
    Plain {
        /// The section `.rodata` or, in a file without sections, every loaded segment.
        read_only_data: Vec<(u64, u64)>,
    },
    /// A compressed image in the form this architecture boots.
    Compressed,
}

/// Enough for every header that is looked at.
const HEAD_LEN: usize = 4096;

/// Program headers of a kernel are a handful; an ELF file may claim 65535.
const MAX_SEGMENTS: u16 = 128;

/// Sections of a kernel are some dozens.
const MAX_SECTIONS: u16 = 512;

/// Names of sections take a few hundred bytes.
const MAX_NAMES_LEN: u64 = 64 << 10;

const SEGMENT_LEN: u16 = 56;
const SECTION_LEN: u16 = 64;
const PT_LOAD: u32 = 1;

/// Reads the headers; `machine` is the architecture that the kernel is for. The inner error says why the file is not a kernel for this machine.
pub(super) fn inspect(
    image: &Image,
    machine: &str,
) -> Result<Result<Kernel, Finding>, PreflightError> {
    let head = image.read(0, HEAD_LEN)?;
    if head.has(0, b"\x7fELF") {
        return inspect_elf(image, &head, machine);
    }
    let for_aarch64 = machine == "aarch64";
    Ok(if head.has(0x202, b"HdrS") {
        inspect_bzimage(image, &head, machine)
    } else if head.has(0x38, b"ARM\x64") && for_aarch64 {
        Ok(Kernel::Plain { read_only_data: vec![(0, image.len())] })
    } else if for_aarch64 && (head.has(0, GZIP) || is_zboot(&head)) {
        Ok(Kernel::Compressed)
    } else {
        Err(foreign(image, &head, machine).unwrap_or_else(|| not_a_kernel(image, machine)))
    })
}

const GZIP: &[u8] = &[0x1f, 0x8b];

fn is_zboot(head: &Bytes) -> bool {
    head.has(0, b"MZ") && head.has(4, b"zimg")
}

/// Files that are often mistaken for a kernel.
fn foreign(image: &Image, head: &Bytes, machine: &str) -> Option<Finding> {
    const PACKED: &[(&[u8], &str, &str)] = &[
        (GZIP, "gzip", "gunzip"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "xz", "unxz"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "unzstd"),
        (b"BZh", "bzip2", "bunzip2"),
    ];
    if let Some((_, name, tool)) = PACKED.iter().find(|(magic, ..)| head.has(0, magic)) {
        let what = format!("kernel {} is packed with {name}", shown(image.path()));
        return Some(Finding::error(what, format!("unpack it with {tool} first")));
    }
    if head.has(0x38, b"ARM\x64") {
        return Some(foreign_arch(image, "an aarch64 Image", machine));
    }
    if is_zboot(head) {
        return Some(foreign_arch(image, "an EFI zboot image", machine));
    }
    if head.has(0x38, b"RSC\x05") {
        return Some(foreign_arch(image, "a RISC-V Image", machine));
    }
    None
}

fn foreign_arch(image: &Image, kind: &str, machine: &str) -> Finding {
    Finding::error(
        format!("kernel {} is {kind}, this machine is {machine}", shown(image.path())),
        format!("use a kernel built for {machine}"),
    )
}

fn not_a_kernel(image: &Image, machine: &str) -> Finding {
    let (not, build) = match machine {
        "aarch64" => ("no arm64 Image, neither plain nor packed", "Image"),
        _ => ("neither an ELF vmlinux nor a bzImage", "vmlinux"),
    };
    Finding::error(
        format!("kernel {} is {not}", shown(image.path())),
        format!("give the {build} of a kernel build, or a distribution's /boot/vmlinuz-*"),
    )
}

fn truncated(image: &Image, part: &str, end: u64) -> Finding {
    let (path, len) = (shown(image.path()), image.len());
    Finding::error(
        format!("kernel {path} is truncated: {part} ends at byte {end}, the file at {len}"),
        "copy or build the kernel again",
    )
}

/// Linux boot protocol, "The Real-Mode Kernel Header".
fn inspect_bzimage(image: &Image, head: &Bytes, machine: &str) -> Result<Kernel, Finding> {
    const XLF_KERNEL_64: u16 = 1;
    if machine != "x86_64" {
        return Err(foreign_arch(image, "an x86 bzImage", machine));
    }
    let fields =
        (head.u16(0x1fe), head.u16(0x206), head.u8(0x1f1), head.u32(0x1f4), head.u16(0x236));
    let (Some(flag), Some(version), Some(setup_sectors), Some(paragraphs), Some(xloadflags)) =
        fields
    else {
        return Err(truncated(image, "the boot header", 0x268));
    };
    if flag != 0xaa55 {
        return Err(not_a_kernel(image, machine));
    }
    if version < 0x20c || xloadflags & XLF_KERNEL_64 == 0 {
        let what = format!("kernel {} has no 64-bit entry point", shown(image.path()));
        return Err(Finding::error(what, "use a 64-bit kernel of version 3.8 or newer"));
    }
    // Zero stands for four, the size of the oldest kernels.
    let setup_sectors = if setup_sectors == 0 { 4 } else { u64::from(setup_sectors) };
    let setup_len = setup_sectors.saturating_add(1).saturating_mul(512);
    // The size is rounded up to paragraphs of 16 bytes; the file need not be.
    let code_len = u64::from(paragraphs).saturating_mul(16).saturating_sub(15);
    let end = setup_len.saturating_add(code_len);
    if end > image.len() {
        return Err(truncated(image, "its protected-mode code", end));
    }
    Ok(Kernel::Compressed)
}

/// The ELF header's fields that are looked at (ELF-64 object file format, figure 2).
struct ElfHeader {
    class: u8,
    encoding: u8,
    kind: u16,
    machine: u16,
    segments_at: u64,
    sections_at: u64,
    segment_len: u16,
    segments: u16,
    section_len: u16,
    sections: u16,
    names_index: u16,
}

impl ElfHeader {
    fn parse(head: &Bytes) -> Option<Self> {
        Some(Self {
            class: head.u8(4)?,
            encoding: head.u8(5)?,
            kind: head.u16(16)?,
            machine: head.u16(18)?,
            segments_at: head.u64(32)?,
            sections_at: head.u64(40)?,
            segment_len: head.u16(54)?,
            segments: head.u16(56)?,
            section_len: head.u16(58)?,
            sections: head.u16(60)?,
            names_index: head.u16(62)?,
        })
    }

    /// Why the file cannot be this machine's kernel.
    fn refuse(&self, image: &Image, machine: &str) -> Option<Finding> {
        let path = shown(image.path());
        if self.class == 1 {
            let what = format!("kernel {path} is a 32-bit ELF file");
            return Some(Finding::error(what, "use a 64-bit kernel"));
        }
        let arch = architecture(self.machine);
        if self.encoding != 1 || arch != machine {
            return Some(foreign_arch(image, &format!("an ELF file for {arch}"), machine));
        }
        if machine == "aarch64" {
            let what = format!("kernel {path} is an ELF vmlinux, which no aarch64 machine boots");
            return Some(Finding::error(what, "use arch/arm64/boot/Image of the same build"));
        }
        // Relocatable objects (1) and core dumps (4) are not programs.
        if !matches!(self.kind, 2 | 3) {
            let what = format!("kernel {path} is an ELF file but not an executable one");
            return Some(Finding::error(
                what,
                "use the vmlinux of the kernel build, not vmlinux.o",
            ));
        }
        if self.segments == 0 || self.segments > MAX_SEGMENTS || self.segment_len != SEGMENT_LEN {
            let count = self.segments;
            let what = format!("kernel {path} is an ELF file with {count} program headers");
            return Some(Finding::error(what, "is this the vmlinux of a kernel build?"));
        }
        None
    }
}

/// Names of `e_machine`, as Rust and `uname -m` spell them.
fn architecture(machine: u16) -> &'static str {
    match machine {
        3 => "x86",
        8 => "mips",
        20 | 21 => "powerpc",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        258 => "loongarch64",
        _ => "an unknown architecture",
    }
}

fn inspect_elf(
    image: &Image,
    head: &Bytes,
    machine: &str,
) -> Result<Result<Kernel, Finding>, PreflightError> {
    let Some(header) = ElfHeader::parse(head) else {
        return Ok(Err(truncated(image, "the ELF header", 64)));
    };
    if let Some(finding) = header.refuse(image, machine) {
        return Ok(Err(finding));
    }
    let table_len = u64::from(header.segments).saturating_mul(u64::from(SEGMENT_LEN));
    if !image.contains(header.segments_at, table_len) {
        let end = header.segments_at.saturating_add(table_len);
        return Ok(Err(truncated(image, "the table of program headers", end)));
    }
    let table = read_table(image, header.segments_at, header.segments, SEGMENT_LEN)?;
    let mut loaded = Vec::new();
    for at in (0..table.all().len()).step_by(usize::from(SEGMENT_LEN)) {
        if table.u32(at) != Some(PT_LOAD) {
            continue;
        }
        let (Some(offset), Some(len)) =
            (table.u64(at.saturating_add(8)), table.u64(at.saturating_add(32)))
        else {
            continue;
        };
        if !image.contains(offset, len) {
            return Ok(Err(truncated(image, "a loaded segment", offset.saturating_add(len))));
        }
        loaded.push((offset, len));
    }
    if loaded.is_empty() {
        return Ok(Err(not_a_kernel(image, machine)));
    }
    let read_only_data = match find_rodata(image, &header)? {
        Some(section) => vec![section],
        None => loaded,
    };
    Ok(Ok(Kernel::Plain { read_only_data }))
}

/// Where the section `.rodata` lies in the file. A file without it, or with a table that does not
/// add up, is still a kernel.
fn find_rodata(image: &Image, header: &ElfHeader) -> Result<Option<(u64, u64)>, PreflightError> {
    if header.section_len != SECTION_LEN || header.sections > MAX_SECTIONS {
        return Ok(None);
    }
    let table = read_table(image, header.sections_at, header.sections, SECTION_LEN)?;
    let section = |index: u16| {
        let at = usize::from(index).checked_mul(usize::from(SECTION_LEN))?;
        let field = |offset: usize| at.checked_add(offset);
        Some((table.u32(field(0)?)?, table.u64(field(24)?)?, table.u64(field(32)?)?))
    };
    let Some((_, names_at, names_len)) = section(header.names_index) else { return Ok(None) };
    let names_len = usize::try_from(names_len.min(MAX_NAMES_LEN)).unwrap_or(0);
    let names = image.read(names_at, names_len)?;
    let found = (0..header.sections).filter_map(section).find(|&(name, offset, len)| {
        let name = usize::try_from(name).unwrap_or(usize::MAX);
        names.has(name, b".rodata\0") && image.contains(offset, len)
    });
    Ok(found.map(|(_, offset, len)| (offset, len)))
}

fn read_table(image: &Image, at: u64, count: u16, len: u16) -> Result<Bytes, PreflightError> {
    image.read(at, usize::from(count).saturating_mul(usize::from(len)))
}
