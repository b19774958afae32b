//! Keeps the container away from the host's sockets: of its processes none can make one of
//! AF_VSOCK.
//!
//! The agent puts the filter on itself, once it has its own sockets, and everything it starts inherits it: the
//! kernel compiles a filter and tries it on every system call there is, which takes longer than many a program.

// UNSAFETY: no safe interface installs a filter.
#![expect(unsafe_code)]

use std::io;
use std::mem::size_of;

use libc::sock_filter;

/// Architectures of system calls, `linux/audit.h`.
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;
const ARM: u32 = 0x4000_0028;

/// Marks a system call of the x32 ABI.
const X32: u32 = 0x4000_0000;
const IO_URING_SETUP: u32 = 425;
/// The operation `socket` of `socketcall`.
const SOCKETCALL_SOCKET: u32 = 1;
const AF_VSOCK: u32 = 40;

/// Offsets in `struct seccomp_data`: number, architecture, low half of the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT: u32 = 16;

const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// The filter: `socket(AF_VSOCK)` fails as if the kernel had no such family. What could make a socket
/// without that call fails too: `io_uring_setup` (as docker has it), `socketcall(SYS_SOCKET)`, whose
/// family a filter cannot see, and x32, which no kernel of ours knows.
///
/// It depends on the ABI which number means what, so the ABI is looked at first.
pub(crate) fn program() -> Vec<sock_filter> {
    let numbers: [(u32, &[u32], Option<u32>); 4] = [
        (X86_64, &[41, X32 | 41], None),
        (I386, &[359], Some(102)),
        (AARCH64, &[198], None),
        (ARM, &[281], Some(102)),
    ];
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    for (architecture, sockets, socketcall) in numbers {
        let mut block = vec![statement(LOAD, NUMBER)];
        for number in [IO_URING_SETUP, X32 | IO_URING_SETUP] {
            block.extend([jump(number, 0, 1), statement(RETURN, ERRNO | EPERM)]);
        }
        for number in sockets {
            block.extend([jump(*number, 0, 4), statement(LOAD, ARGUMENT)]);
            block.extend([jump(AF_VSOCK, 0, 1), statement(RETURN, ERRNO | EAFNOSUPPORT)]);
            block.push(statement(RETURN, ALLOW));
        }
        if let Some(number) = socketcall {
            block.extend([jump(number, 0, 3), statement(LOAD, ARGUMENT)]);
            block.extend([jump(SOCKETCALL_SOCKET, 0, 1), statement(RETURN, ERRNO | EAFNOSUPPORT)]);
        }
        block.push(statement(RETURN, ALLOW));
        program.push(jump(architecture, 0, u8::try_from(block.len()).unwrap_or(u8::MAX)));
        program.append(&mut block);
    }
    program.push(statement(RETURN, ERRNO | ENOSYS));
    program
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Compares with `k`, and skips `jt` or `jf` instructions.
fn jump(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: JUMP_IF_EQUAL, jt, jf, k }
}

/// Puts the filter on this process and all it will start. Needs CAP_SYS_ADMIN or no_new_privs.
pub(crate) fn install() -> io::Result<()> {
    let mut filter = program();
    let len = u16::try_from(filter.len()).unwrap_or(u16::MAX);
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    debug_assert_eq!(size_of::<sock_filter>(), 8);
    // SAFETY: the kernel reads `len` instructions, which outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            (&raw const program).cast::<libc::c_void>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType, socket};

    use super::*;

    /// What the kernel does with a system call, as `program` says.
    fn run(architecture: u32, number: u32, argument: u32) -> u32 {
        let (program, mut at, mut value) = (program(), 0, 0);
        loop {
            let instruction = program[at];
            at += 1;
            match (instruction.code, instruction.k) {
                (LOAD, NUMBER) => value = number,
                (LOAD, ARCHITECTURE) => value = architecture,
                (LOAD, ARGUMENT) => value = argument,
                (JUMP_IF_EQUAL, k) if value == k => at += usize::from(instruction.jt),
                (JUMP_IF_EQUAL, _) => at += usize::from(instruction.jf),
                (RETURN, k) => return k,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn no_abi_makes_sockets_of_the_host() {
        let refused = ERRNO | EAFNOSUPPORT;
        for (architecture, number) in
            [(X86_64, 41), (X86_64, X32 | 41), (I386, 359), (AARCH64, 198), (ARM, 281)]
        {
            assert_eq!(run(architecture, number, AF_VSOCK), refused, "{architecture:x} {number}");
            assert_eq!(run(architecture, number, 2), ALLOW);
            assert_eq!(run(architecture, 1, AF_VSOCK), ALLOW);
            assert_eq!(run(architecture, IO_URING_SETUP, 0), ERRNO | EPERM);
        }
        for architecture in [I386, ARM] {
            assert_eq!(run(architecture, 102, SOCKETCALL_SOCKET), refused);
            assert_eq!(run(architecture, 102, 3), ALLOW);
        }
        assert_eq!(run(1, 41, AF_VSOCK), ERRNO | ENOSYS);
    }

    #[test]
    fn kernel_takes_the_filter() {
        // It holds for the thread.
        let thread = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            install().unwrap();
            let vsock = socket(AddressFamily::VSOCK, SocketType::STREAM, None).unwrap_err();
            socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
            vsock
        });
        assert_eq!(thread.join().unwrap(), Errno::AFNOSUPPORT);
    }
}
