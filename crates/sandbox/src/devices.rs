//! Which devices the container may use: a program that the kernel asks at every use of one.
//!
//! It holds however a node came to be: made by the container, found in the image, or shown by a file
//! system it mounts. So the disks under the container's root cannot be read past it. And it holds in a control
//! group that the container cannot find, so that it cannot be taken away either.

// UNSAFETY: no safe interface loads a BPF program.
#![expect(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Character devices, by major and minor number: null, zero, full, random, urandom; tty, console,
/// ptmx.
const ALLOWED: [(u32, &[u32]); 2] = [(1, &[3, 5, 7, 8, 9]), (5, &[0, 1, 2])];
/// The major number of pseudo-terminals; all their minor numbers.
const TERMINALS: u32 = 136;

/// Commands and types of bpf(2), `linux/bpf.h`.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Groups below may have programs of their own beside this one, which is asked all the same.
const ALLOW_MORE: u32 = 2;

const CHARACTER_DEVICE: i32 = 2;
const MAKE_NODE: i32 = 1;

/// An instruction, `struct bpf_insn`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Arguments of PROG_LOAD that are used; the kernel takes the others for zero.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Loads the program and has the kernel ask it about all processes of `cgroup`. Takes memory.
///
/// # Errors
/// The kernel does not know such programs, or this process may not load them.
pub fn restrict(cgroup: BorrowedFd<'_>) -> io::Result<()> {
    let program = program();
    let license = c"Apache-2.0";
    let mut load = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: u64::try_from(program.as_ptr().addr()).unwrap_or_default(),
        license: u64::try_from(license.as_ptr().addr()).unwrap_or_default(),
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    let number = |fd: i32| u32::try_from(fd).unwrap_or(u32::MAX);
    let fd = bpf(PROG_LOAD, &mut load)?;
    // SAFETY: the kernel has returned a new descriptor.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut attach = Attach {
        target_fd: number(cgroup.as_raw_fd()),
        attach_bpf_fd: number(loaded.as_raw_fd()),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MORE,
    };
    bpf(PROG_ATTACH, &mut attach)?;
    Ok(())
}

fn bpf<T>(command: libc::c_int, argument: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads an argument of the size given; what it points to outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, (&raw mut *argument).addr(), size_of::<T>())
    };
    match i32::try_from(result) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The program. Its context has three words: how (high half) what kind (low half) of device is used,
/// its major, its minor number. Making a node is free, using one is not.
fn program() -> Vec<Instruction> {
    let load = |register: u8, offset| Instruction {
        code: 0x61, // LDX | MEM | W
        registers: 0x10 | register,
        offset,
        immediate: 0,
    };
    let alu =
        |code: u8, registers, immediate| Instruction { code, registers, offset: 0, immediate };
    let skip_unless = |register: u8, value: i32, offset| Instruction {
        code: 0x55, // JMP | JNE | K
        registers: register,
        offset,
        immediate: value,
    };
    let answer = |allowed: bool| [alu(0xb7, 0, i32::from(allowed)), alu(0x95, 0, 0)];
    let mut program = vec![load(2, 0), load(4, 4), load(5, 8)];
    // r3 = r2 >> 16, r2 &= 0xffff
    program.extend([alu(0xbf, 0x23, 0), alu(0x77, 3, 16), alu(0x57, 2, 0xffff)]);
    program.push(skip_unless(3, MAKE_NODE, 2));
    program.extend(answer(true));
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let mut rules = vec![];
    rules.push(skip_unless(4, number(TERMINALS), 2));
    rules.extend(answer(true));
    for (major, minors) in ALLOWED {
        for minor in minors {
            rules.extend([skip_unless(4, number(major), 3), skip_unless(5, number(*minor), 2)]);
            rules.extend(answer(true));
        }
    }
    let rest = i16::try_from(rules.len()).unwrap_or(i16::MAX);
    program.push(skip_unless(2, CHARACTER_DEVICE, rest));
    program.append(&mut rules);
    program.extend(answer(false));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel is told about the use of a device.
    fn is_allowed(access: u32, kind: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let (program, mut at, mut registers) = (program(), 0_i32, [0_i64; 6]);
        loop {
            let Instruction { code, registers: names, offset, immediate } =
                program[usize::try_from(at).unwrap()];
            let (to, from) = (usize::from(names & 15), usize::from(names >> 4));
            at += 1;
            match code {
                0x61 => registers[to] = context[usize::try_from(offset).unwrap() / 4].into(),
                0xbf => registers[to] = registers[from],
                0x77 => registers[to] >>= immediate,
                0x57 => registers[to] &= i64::from(immediate),
                0xb7 => registers[to] = immediate.into(),
                0x55 if registers[to] != i64::from(immediate) => at += i32::from(offset),
                0x55 => {}
                0x95 => return registers[0] == 1,
                other => panic!("{other:x}"),
            }
        }
    }

    #[test]
    fn devices_of_docker_are_allowed_and_no_others() {
        let (block, character) = (1, 2);
        let (make, read, write) = (1, 2, 4);
        for (major, minor) in
            [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, 7)]
        {
            assert!(is_allowed(read | write, character, major, minor), "{major}:{minor}");
            assert!(!is_allowed(read, block, major, minor), "{major}:{minor}");
        }
        for (major, minor) in [(1, 1), (1, 2), (1, 4), (1, 11), (4, 0), (5, 3), (10, 200), (0, 0)] {
            assert!(!is_allowed(read, character, major, minor), "{major}:{minor}");
        }
        assert!(!is_allowed(read, block, 254, 0));
        assert!(is_allowed(make, block, 254, 0), "a node alone gives nothing");
        assert!(!is_allowed(make | write, block, 254, 0));
    }
}
