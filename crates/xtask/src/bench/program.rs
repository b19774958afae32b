//! The programs guests run when nothing but the monitor is to be measured: a few instructions each,
//! written out here so that no assembler is needed.

/// Guest physical address of a freestanding program; free in both monitors' memory maps.
const BARE_BASE: u32 = 0x10_0000;

/// Virtual address of a Linux program.
const LINUX_BASE: u64 = 0x40_0000;

/// Status with which QEMU ends when a null guest asked its debug exit device for it: twice
/// [`DEBUG_EXIT`] plus one, as that device computes it.
pub(super) const QEMU_NULL_STATUS: i32 = 2 * DEBUG_EXIT as i32 + 1;

/// What the null guest writes to the port of QEMU's debug exit device.
const DEBUG_EXIT: u8 = 0x10;

/// The I/O port of QEMU's debug exit device; nothing answers there in our monitor.
pub(super) const DEBUG_EXIT_PORT: u8 = 0xf4;

/// The line that [`linux_init`] prints.
pub(super) const INIT_LINE: &str = "bench: init";

const ELF_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;

/// The null guest: writes one byte to the first serial port, then ends its monitor, ours by a
/// reset through the keyboard controller and QEMU by its debug exit device.
pub(super) fn null_guest() -> Vec<u8> {
    #[rustfmt::skip]
    let code = [
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xb0, b'N',             // mov al, 'N'
        0xee,                   // out dx, al
        0xb0, 0xfe,             // mov al, 0xfe
        0xe6, 0x64,             // out 0x64, al
        0xb0, DEBUG_EXIT,       // mov al, DEBUG_EXIT
        0xe6, DEBUG_EXIT_PORT,  // out DEBUG_EXIT_PORT, al
        0xf4,                   // hlt
        0xeb, 0xfd,             // jmp back to hlt
    ];
    bare(&code)
}

/// A guest that writes one byte to the first serial port and then waits for an interrupt that never
/// comes.
pub(super) fn idle_guest() -> Vec<u8> {
    #[rustfmt::skip]
    let code = [
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xb0, b'N',             // mov al, 'N'
        0xee,                   // out dx, al
        0xfb,                   // sti
        0xf4,                   // hlt
        0xeb, 0xfd,             // jmp back to hlt
    ];
    bare(&code)
}

/// A static Linux program: prints [`INIT_LINE`] and waits for ever.
pub(super) fn linux_init() -> Vec<u8> {
    #[rustfmt::skip]
    let mut code = vec![
        0xbf, 0x01, 0, 0, 0,             // mov edi, 1 (standard output)
        0x48, 0x8d, 0x35, 0x15, 0, 0, 0, // lea rsi, [rip + 0x15] (the line)
        0xba, 0, 0, 0, 0,                // mov edx, length
        0xb8, 0x01, 0, 0, 0,             // mov eax, 1 (write)
        0x0f, 0x05,                      // syscall
        0xb8, 0x22, 0, 0, 0,             // mov eax, 34 (pause)
        0x0f, 0x05,                      // syscall
        0xeb, 0xf7,                      // jmp back to mov eax, 34
    ];
    // The displacement above counts from the end of its own instruction, 12 bytes into the code.
    debug_assert_eq!(code.len(), 12 + 0x15);
    if let Some(length) = code.get_mut(13) {
        *length = INIT_LINE.len() as u8 + 1;
    }
    code.extend_from_slice(INIT_LINE.as_bytes());
    code.push(b'\n');
    let segments = [Segment { kind: 1, address: LINUX_BASE, content: &code }];
    elf(LINUX_BASE, &segments)
}

/// A freestanding program, entered at its first byte in 32-bit protected mode by the PVH note
/// (Xen: docs/misc/pvh.pandoc).
fn bare(code: &[u8]) -> Vec<u8> {
    let mut note = vec![];
    for word in [4_u32, 8, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(u64::from(BARE_BASE).to_le_bytes());
    let segments = [
        Segment { kind: 1, address: BARE_BASE.into(), content: code },
        Segment { kind: 4, address: 0, content: &note },
    ];
    elf(BARE_BASE.into(), &segments)
}

/// A part of an ELF file: loaded (kind 1) or a note (kind 4).
struct Segment<'a> {
    kind: u32,
    address: u64,
    content: &'a [u8],
}

/// An executable ELF64 file for x86_64 (System V gABI, chapters 4 and 5). Every segment starts on a
/// page of its own in the file, as Linux wants what it maps.
fn elf(entry: u64, segments: &[Segment<'_>]) -> Vec<u8> {
    const PAGE: usize = 4096;
    let count = segments.len() as u16;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([2_u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1_u32.to_le_bytes());
    for word in [entry, ELF_HEADER, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    let sizes = [ELF_HEADER as u16, PROGRAM_HEADER as u16, count, 0, 0, 0];
    file.extend(sizes.iter().flat_map(|half| half.to_le_bytes()));
    for (index, segment) in (1_u64..).zip(segments) {
        let size = segment.content.len() as u64;
        // Readable and executable.
        file.extend([segment.kind, 5].iter().flat_map(|word| word.to_le_bytes()));
        let words =
            [index * PAGE as u64, segment.address, segment.address, size, size, PAGE as u64];
        let alignment = if segment.kind == 4 { 4 } else { PAGE as u64 };
        file.extend(words.iter().take(5).chain([&alignment]).flat_map(|word| word.to_le_bytes()));
    }
    for segment in segments {
        file.resize(file.len().next_multiple_of(PAGE), 0);
        file.extend_from_slice(segment.content);
    }
    file
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn init_prints_its_line_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("init");
        fs::write(&path, linux_init()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let output = Command::new("timeout").arg("0.2").arg(&path).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{INIT_LINE}\n"));
        assert_eq!(output.status.code(), Some(124), "it ended by itself");
    }

    #[test]
    fn segments_lie_where_the_headers_say() {
        let file = null_guest();
        let offset = |header: usize| {
            let at = 64 + header * 56 + 8;
            u64::from_le_bytes(file.get(at..at + 8).unwrap().try_into().unwrap()) as usize
        };
        assert_eq!(file.get(offset(0)..offset(0) + 2), Some([0x66, 0xba].as_slice()));
        assert_eq!(file.get(offset(1) + 12..offset(1) + 16), Some(b"Xen\0".as_slice()));
    }
}
