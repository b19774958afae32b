//! The machine of the guest programs on aarch64.

// UNSAFETY: the guest programs are data of this one, which the assembler places and Rust knows no size of.
#![expect(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::{fs, slice};

use super::payload::scratch;
use super::script::Script;

/// First address of RAM.
pub const RAM: u64 = 0x8000_0000;
/// Where a memory of 4 GiB ends.
pub const END_OF_4G: u64 = RAM + (4 << 30);
/// The first virtio window.
pub const WINDOWS: u64 = 0x5000_0000;
/// What else lies where no RAM is: distributor and redistributors.
pub const INTERRUPT_CONTROLLERS: [u64; 2] = [0x4100_0000, 0x4110_0000];
/// Machine code that returns from a call: ret.
pub const RETURN: &[u8] = &0xd65f_03c0_u32.to_le_bytes();

/// mov w0, 9; movk w0, 0x8400, lsl 16: SYSTEM_RESET of PSCI (Arm DEN 0022); hvc 0.
const RESET: [u32; 3] = [0x5280_0120, 0x72b0_8000, 0xd400_0002];

/// Resets the machine.
pub fn reset(script: &mut Script) {
    let code: Vec<u8> = RESET.iter().flat_map(|word| word.to_le_bytes()).collect();
    script.run(&code);
}

// They are assembled into the test program, because where that runs there is no assembler.
core::arch::global_asm!(include_str!("../guest/evil_aarch64.S"), options(raw));
core::arch::global_asm!(include_str!("../guest/null_aarch64.S"), options(raw));

unsafe extern "C" {
    static evil_image: u8;
    static evil_image_end: u8;
    static null_image: u8;
    static null_image_end: u8;
}

/// The path of the guest program `name`, an Image.
///
/// The file is renamed into place, so that test programs that run at the same time share it without a lock.
pub fn guest(name: &str) -> PathBuf {
    let (start, end) = match name {
        "evil" => (&raw const evil_image, &raw const evil_image_end),
        "null" => (&raw const null_image, &raw const null_image_end),
        _ => panic!("there is no guest program {name} for aarch64"),
    };
    let length = end.addr() - start.addr();
    // SAFETY: the assembler has placed one piece of constant data between the two symbols.
    let image = unsafe { slice::from_raw_parts(start, length) };
    fs::create_dir_all(scratch()).unwrap();
    let mut unfinished = tempfile::Builder::new().tempfile_in(scratch()).unwrap();
    unfinished.write_all(image).unwrap();
    let program = scratch().join(name);
    unfinished.persist(&program).unwrap();
    program
}
