//! ELF64 images: `vmlinux` and freestanding programs (System V gABI, chapters 4 and 5).

use super::{BootProtocol, EntryProtocol, KernelError, LoadedKernel, Range, foreign, layout};
use crate::arch::kernel_file::{KernelFile, u16_at, u32_at, u64_at};
use crate::memory::GuestMemory;

/// Size of the ELF64 file header.
const HEADER_SIZE: u64 = 64;
/// Size of one ELF64 program header.
const PROGRAM_HEADER_SIZE: u16 = 56;
/// Most program headers we look at; kernels have fewer than ten.
const MAX_PROGRAM_HEADERS: u16 = 128;
/// Most bytes of a note segment we look at; the notes of a kernel take half a kilobyte.
const MAX_NOTES: u64 = 64 << 10;

const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// The note that gives the physical address of the PVH entry: `XEN_ELFNOTE_PHYS32_ENTRY`
/// (Xen: include/public/elfnote.h).
const PVH_NOTE_NAME: &[u8] = b"Xen\0";
const PVH_NOTE_TYPE: u32 = 18;

/// Loads the segments and picks the entry.
pub(super) fn load(
    mem: &GuestMemory,
    image: &KernelFile<'_>,
    protocol: BootProtocol,
) -> Result<LoadedKernel, KernelError> {
    let header = Header::parse(image)?;
    let program_headers = header.program_headers(image)?;
    let segments = check_segments(mem, image, &program_headers)?;
    let pvh_entry = match protocol {
        BootProtocol::Linux64 => None,
        BootProtocol::Auto | BootProtocol::Pvh => pvh_entry(image, &program_headers)?,
    };
    let (entry, entry_protocol) = match (pvh_entry, protocol) {
        (Some(entry), _) => (entry, EntryProtocol::Pvh),
        (None, BootProtocol::Pvh) => return Err(KernelError::NoPvhEntry),
        (None, _) => (header.entry, EntryProtocol::Linux64),
    };
    if !segments.iter().any(|segment| segment.range.contains(entry)) {
        return Err(KernelError::EntryOutside { entry });
    }
    for segment in &segments {
        image.load(mem, segment.offset, segment.file_size, segment.range.start)?;
    }
    Ok(LoadedKernel {
        protocol: entry_protocol,
        entry,
        end: segments.iter().map(|segment| segment.range.end).max().unwrap_or(entry),
        initrd_max: layout::MMIO_GAP_START - 1,
        cmdline_max: layout::MAX_CMDLINE,
        setup_header: Vec::new(),
    })
}

/// What we use of the ELF file header.
struct Header {
    entry: u64,
    table_offset: u64,
    table_entries: u16,
}

impl Header {
    fn parse(image: &KernelFile<'_>) -> Result<Self, KernelError> {
        image.check("ELF header", 0, HEADER_SIZE)?;
        Self::from_bytes(image.head()).unwrap_or(Err(KernelError::BadElf("its header is cut off")))
    }

    /// `None` when `head` is shorter than the header.
    fn from_bytes(head: &[u8]) -> Option<Result<Self, KernelError>> {
        let machine = u16_at(head, 18)?;
        let entry_size = u16_at(head, 54)?;
        let header = Self {
            entry: u64_at(head, 24)?,
            table_offset: u64_at(head, 32)?,
            table_entries: u16_at(head, 56)?,
        };
        let big_endian = *head.get(5)? != LITTLE_ENDIAN;
        let foreign = |found| KernelError::ForeignArchitecture { found };
        Some(if big_endian {
            Err(foreign("a big-endian machine"))
        } else if machine != foreign::EM_X86_64 {
            Err(foreign(foreign::machine(machine)))
        } else if *head.get(4)? != CLASS_64 {
            Err(foreign("the x32 ABI"))
        } else if header.table_entries == 0 {
            Err(KernelError::BadElf("it has nothing to load"))
        } else if entry_size != PROGRAM_HEADER_SIZE {
            Err(KernelError::BadElf("its program headers have the wrong size"))
        } else if header.table_entries > MAX_PROGRAM_HEADERS {
            Err(KernelError::BadElf("it has too many program headers"))
        } else {
            Ok(header)
        })
    }

    fn program_headers(&self, image: &KernelFile<'_>) -> Result<Vec<ProgramHeader>, KernelError> {
        let size = u64::from(self.table_entries) * u64::from(PROGRAM_HEADER_SIZE);
        let table = image.read("program header table", self.table_offset, size)?;
        table
            .chunks_exact(usize::from(PROGRAM_HEADER_SIZE))
            .map(|bytes| ProgramHeader::from_bytes(bytes).ok_or(KernelError::TooLarge))
            .collect()
    }
}

/// What we use of a program header.
#[derive(Debug)]
struct ProgramHeader {
    kind: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    alignment: u64,
}

impl ProgramHeader {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            kind: u32_at(bytes, 0)?,
            offset: u64_at(bytes, 8)?,
            address: u64_at(bytes, 24)?,
            file_size: u64_at(bytes, 32)?,
            memory_size: u64_at(bytes, 40)?,
            alignment: u64_at(bytes, 48)?,
        })
    }
}

/// A loadable segment that was checked.
struct Segment {
    offset: u64,
    file_size: u64,
    range: Range,
}

/// Proves that every loadable segment lies inside the file and inside low RAM and that no two share
/// memory, which bounds the bytes that will be copied by the size of low RAM.
fn check_segments(
    mem: &GuestMemory,
    image: &KernelFile<'_>,
    headers: &[ProgramHeader],
) -> Result<Vec<Segment>, KernelError> {
    let mut segments: Vec<Segment> = Vec::new();
    for header in headers.iter().filter(|header| header.kind == PT_LOAD && header.memory_size > 0) {
        if header.file_size > header.memory_size {
            return Err(KernelError::BadElf("a segment is larger in the file than in memory"));
        }
        image.check("segment", header.offset, header.file_size)?;
        let range = Range::new(mem, header.address, header.memory_size)?;
        if segments.iter().any(|other| other.range.overlaps(&range)) {
            return Err(KernelError::BadElf("two segments overlap in memory"));
        }
        segments.push(Segment { offset: header.offset, file_size: header.file_size, range });
    }
    if segments.is_empty() {
        return Err(KernelError::BadElf("it has nothing to load"));
    }
    Ok(segments)
}

/// The address of the PVH entry, if a note gives one.
fn pvh_entry(
    image: &KernelFile<'_>,
    headers: &[ProgramHeader],
) -> Result<Option<u64>, KernelError> {
    for header in headers.iter().filter(|header| header.kind == PT_NOTE) {
        image.check("note segment", header.offset, header.file_size)?;
        let notes = image.read("note segment", header.offset, header.file_size.min(MAX_NOTES))?;
        let alignment = if header.alignment == 8 { 8 } else { 4 };
        if let Some(entry) = find_pvh_note(&notes, alignment) {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Walks `notes` until the PVH note. A note is a header of three words (length of its name, length of its
/// description, type), the name and the description, each of the two padded to `alignment`.
fn find_pvh_note(mut notes: &[u8], alignment: usize) -> Option<u64> {
    loop {
        let name_size = usize::try_from(u32_at(notes, 0)?).ok()?;
        let description_size = usize::try_from(u32_at(notes, 4)?).ok()?;
        let kind = u32_at(notes, 8)?;
        let body = notes.get(12..)?;
        let description_start =
            name_size.checked_add(12)?.checked_next_multiple_of(alignment)?.checked_sub(12)?;
        let description = body.get(description_start..)?;
        if kind == PVH_NOTE_TYPE && body.get(..name_size)? == PVH_NOTE_NAME {
            return match description_size {
                4 => u32_at(description, 0).map(u64::from),
                8 => u64_at(description, 0),
                _ => None,
            };
        }
        notes = description.get(description_size.checked_next_multiple_of(alignment)?..)?;
    }
}
