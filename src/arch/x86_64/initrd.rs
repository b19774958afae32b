//! Where the initial RAM disk lies.

use std::fs::File;

use super::loader::LoadedKernel;
use super::memory_map::low_ram_end;
use crate::arch::Initrd;
use crate::arch::initrd::{InitrdError, load};
use crate::memory::GuestMemory;

/// Places the initial RAM disk in `file` at the top of low RAM, above `kernel` and no higher than the
/// kernel can use it. The position of `file` moves.
///
/// # Errors
/// The file is empty, not a regular file, cannot be read, or does not fit above the kernel.
pub fn load_initrd(
    mem: &GuestMemory,
    file: &File,
    kernel: &LoadedKernel,
) -> Result<Initrd, InitrdError> {
    let top = low_ram_end(mem).min(kernel.initrd_max().saturating_add(1));
    load(mem, file, kernel.end()..top)
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Elf, bzimage, file_with, loaded, read};
    use super::*;

    #[test]
    fn initrd_is_loaded_to_the_top_of_low_ram() {
        let (mem, kernel) = loaded(&Elf::new(b"code").image());
        let content = [0x55; 5000];
        let initrd = load_initrd(&mem, &file_with(&content), &kernel).unwrap();
        assert_eq!(initrd, Initrd { address: (64 << 20) - 0x2000, size: 5000 });
        assert_eq!(read(&mem, initrd.address, 5000), content);
    }

    #[test]
    fn initrd_stays_below_what_a_bzimage_can_reach() {
        let mut image = bzimage(b"code");
        image[0x22c..0x230].copy_from_slice(&0x3f_ffffu32.to_le_bytes());
        let (mem, kernel) = loaded(&image);
        let initrd = load_initrd(&mem, &file_with(b"initrd"), &kernel).unwrap();
        assert_eq!(initrd.address, 0x3f_f000);
    }

    /// K5.
    #[test]
    fn initrd_files_that_cannot_be_used_are_refused() {
        let (mem, kernel) = loaded(&Elf::new(b"code").image());
        let error = load_initrd(&mem, &file_with(b""), &kernel).unwrap_err();
        assert!(matches!(error, InitrdError::Empty), "{error}");
        let huge = file_with(b"x");
        for size in [64 << 20, 1 << 40] {
            huge.set_len(size).unwrap();
            let error = load_initrd(&mem, &huge, &kernel).unwrap_err();
            assert!(matches!(error, InitrdError::TooLarge { .. }), "{error}");
        }
        for path in ["/", "/dev/zero"] {
            let error = load_initrd(&mem, &File::open(path).unwrap(), &kernel).unwrap_err();
            assert!(matches!(error, InitrdError::NotRegular), "{path}: {error}");
        }
    }
}
