//! Where the initial RAM disk lies.

use std::fs::File;

use super::layout;
use super::loader::LoadedKernel;
use super::memory_map::ram_end;
use crate::arch::Initrd;
use crate::arch::initrd::{InitrdError, load};
use crate::memory::GuestMemory;

/// Places the initial RAM disk in `file` at the top of RAM, above `kernel` and no further from it than
/// the kernel can use it. The position of `file` moves.
///
/// # Errors
/// The file is empty, not a regular file, cannot be read, or does not fit above the kernel.
pub fn load_initrd(
    mem: &GuestMemory,
    file: &File,
    kernel: &LoadedKernel,
) -> Result<Initrd, InitrdError> {
    let top = ram_end(mem).min(layout::RAM_START + layout::INITRD_WINDOW);
    load(mem, file, kernel.end()..top)
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{file_with, image, loaded, read};
    use super::*;

    const RAM_END: u64 = layout::RAM_START + (64 << 20);

    #[test]
    fn initrd_is_loaded_to_the_top_of_ram() {
        let (mem, kernel) = loaded(&image(b"code"));
        let content = [0x55; 5000];
        let initrd = load_initrd(&mem, &file_with(&content), &kernel).unwrap();
        assert_eq!(initrd, Initrd { address: RAM_END - 0x2000, size: 5000 });
        assert_eq!(read(&mem, initrd.address, 5000), content);
    }

    /// K5.
    #[test]
    fn initrd_leaves_kernel_and_device_tree_alone() {
        let (mem, kernel) = loaded(&image(b"code"));
        let room = RAM_END - kernel.end();
        assert!(kernel.end() >= kernel.device_tree() + layout::DEVICE_TREE_SIZE);
        let file = file_with(b"");
        file.set_len(room).unwrap();
        assert_eq!(load_initrd(&mem, &file, &kernel).unwrap().address, kernel.end());
        for size in [room + 1, 1 << 40] {
            file.set_len(size).unwrap();
            let error = load_initrd(&mem, &file, &kernel).unwrap_err();
            assert!(matches!(error, InitrdError::TooLarge { .. }), "{error}");
        }
    }
}
