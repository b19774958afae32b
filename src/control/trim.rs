//! Memory of the monitor itself: one heap, and what only set-up needed given back once the machine idles.

// UNSAFETY: pages of the program itself are unmapped, and the allocator is told how to share and to shrink.
#![expect(unsafe_code)]

use std::ffi::c_void;
use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::mm::{Advice, madvise};

/// Has all threads allocate from one heap. An allocator of its own would cost each thread two pages
/// and several system calls, and threads that serve a guest hardly allocate.
pub(super) fn share_one_heap() {
    // SAFETY: mallopt takes no pointer and may be called at any time.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Unmaps the program's code and constants, of which a running machine uses a small part that comes
/// back by itself, and returns free heap to the kernel. What cannot be returned stays.
pub(super) fn give_back_memory() {
    // SAFETY: malloc_trim takes no pointer, and only returns memory that nobody has allocated.
    unsafe { libc::malloc_trim(0) };
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    let Ok(program) = fs::metadata("/proc/self/exe") else { return };
    for (start, len) in maps.lines().filter_map(|line| constant_mapping(line, program.ino())) {
        let start: *mut c_void = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: the range is a mapping of the running program's file, which cannot be written while
        // it runs, and no page of it differs from the file (see `constant_mapping`): what is touched
        // again is the same bytes.
        let _ = unsafe { madvise(start, len, Advice::LinuxDontNeed) };
    }
}

/// Address and length of the mapping in `line` of /proc/PID/maps (proc(5)) when it shows the file
/// `inode` unchanged: the code, and the constants before it that need no relocation, with which the
/// file begins. Relocated constants are read-only too, but not what the file says.
fn constant_mapping(line: &str, inode: u64) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights, offset) = (words.next()?, words.next()?, words.next()?);
    let found: u64 = words.nth(1)?.parse().ok()?;
    let is_constant = rights == "r-xp" || rights == "r--p" && offset.bytes().all(|b| b == b'0');
    let (start, end) = range.split_once('-')?;
    let (start, end) =
        (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (is_constant && found == inode).then_some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mappings_that_show_the_file_unchanged_are_taken() {
        let taken = |line| constant_mapping(line, 77);
        assert_eq!(taken("1000-3000 r--p 00000000 fe:00 77   /vmm"), Some((0x1000, 0x2000)));
        assert_eq!(taken("3000-4000 r-xp 00002000 fe:00 77   /vmm"), Some((0x3000, 0x1000)));
        for other in [
            "4000-5000 r--p 00003000 fe:00 77   /vmm",
            "5000-6000 rw-p 00004000 fe:00 77   /vmm",
            "1000-3000 r-xp 00000000 fe:00 78   /lib",
            "6000-7000 r-xp 00000000 00:00 0    [vdso]",
            "7000-6000 r-xp 00000000 fe:00 77",
            "",
        ] {
            assert_eq!(taken(other), None, "{other}");
        }
    }

    #[test]
    fn program_goes_on_with_the_same_code_and_constants() {
        let kept = String::from("on the heap");
        give_back_memory();
        assert_eq!(kept, "on the heap");
        assert_eq!(
            "1,2".split(',').map(str::parse::<u8>).collect::<Result<Vec<_>, _>>(),
            Ok(vec![1, 2])
        );
    }
}
