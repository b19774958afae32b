//! The machine of the guest programs on x86_64.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::payload::scratch;
use super::script::{Script, Width};

/// First address of RAM.
pub const RAM: u64 = 0;
/// Where the lower piece of a memory of 4 GiB ends; more is behind a hole.
pub const END_OF_4G: u64 = 0xc000_0000;
/// The first virtio window.
pub const WINDOWS: u64 = 0xd000_0000;
/// What else lies where no RAM is: IOAPIC and local APIC.
pub const INTERRUPT_CONTROLLERS: [u64; 2] = [0xfec0_0000, 0xfee0_0000];
/// Machine code that returns from a call.
pub const RETURN: &[u8] = &[0xc3];

const I8042_COMMAND: u16 = 0x64;
const PULSE_RESET: u32 = 0xfe;

/// Resets the machine.
pub fn reset(script: &mut Script) {
    script.port_out(Width::B1, I8042_COMMAND, PULSE_RESET);
}

/// The path of the guest program `name`, an ELF image, assembled when it is first needed.
///
/// The file carries a hash of its sources in its name and is renamed into place, so that test
/// programs that run at the same time share it without a lock.
pub fn guest(name: &str) -> PathBuf {
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest").join(format!("{name}.S"));
    let mut hasher = DefaultHasher::new();
    for path in [&source, &source.with_file_name("pvh.inc")] {
        fs::read(path).unwrap().hash(&mut hasher);
    }
    let program = scratch().join(format!("{name}-{:016x}", hasher.finish()));
    if !program.exists() {
        assemble(&source, &program);
    }
    program
}

fn assemble(source: &Path, program: &Path) {
    let unfinished = tempfile::Builder::new().tempfile_in(scratch()).unwrap().into_temp_path();
    let output = Command::new("cc")
        .args(["-nostdlib", "-static", "-I"])
        .arg(source.parent().unwrap())
        .arg("-Wl,-N,-Ttext=0x100000,--build-id=none,--no-warn-rwx-segments")
        .arg("-o")
        .args([unfinished.as_os_str(), source.as_os_str()])
        .output()
        .expect("run cc, the C compiler that Rust links with");
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    unfinished.persist(program).unwrap();
}
