//! A second CPU of the guest, which rewrites memory as fast as it can while the first performs the
//! script.

use super::script::{Script, Slot, Width};

/// 64 KiB of low memory, which is all the second CPU writes to: it stays in real mode.
pub const LOW: u64 = 0x7_0000;
/// Where its code lies.
const CODE: u64 = 0x8_0000;
/// What it writes first, so that it is known to run.
const ALIVE: u64 = LOW + 0xfff0;

/// Registers of the local APIC (Intel SDM, volume 3, section 12.4), and commands to CPU 1.
const SPURIOUS: u64 = 0xfee0_00f0;
const ENABLE: u64 = 0x1ff;
const COMMAND: u64 = 0xfee0_0300;
const TARGET: u64 = 0xfee0_0310;
const CPU_1: u64 = 1 << 24;
const INIT: u64 = 0x4500;
const STARTUP: u64 = 0x4600;

/// Has the second CPU do `writes`, of 32 bits each to addresses from [`LOW`] on, again and again until
/// the end of the machine. Whether it began is the result.
pub fn start(script: &mut Script, writes: &[(u64, u32)]) -> Slot {
    script.fill(LOW, 0x1_0000, 0);
    script.copy(CODE, &program(writes));
    script.write(Width::B4, SPURIOUS, ENABLE);
    for command in [INIT, STARTUP | CODE >> 12, STARTUP | CODE >> 12] {
        script.write(Width::B4, TARGET, CPU_1);
        script.write(Width::B4, COMMAND, command);
    }
    script.wait(Width::B4, ALIVE, (u64::from(u32::MAX), 1), u32::MAX)
}

fn program(writes: &[(u64, u32)]) -> Vec<u8> {
    // mov ax, LOW >> 4; mov ds, ax
    let mut code = vec![0xb8, 0, (LOW >> 12) as u8, 0x8e, 0xd8];
    let start = code.len();
    for (address, value) in [(ALIVE, 1)].iter().chain(writes) {
        // mov dword [offset], value
        code.extend([0x66, 0xc7, 0x06]);
        let offset = address.checked_sub(LOW).and_then(|offset| u16::try_from(offset).ok());
        code.extend(offset.expect("low memory").to_le_bytes());
        code.extend(value.to_le_bytes());
    }
    // jmp start
    let distance = (code.len() + 3 - start) as i16;
    code.push(0xe9);
    code.extend((-distance).to_le_bytes());
    code
}
