//! A tiny guest that shows whether the processor itself runs guest kernel code.
//!
//! It counts down, which shows how fast its instructions are, and then executes one instruction that
//! every processor with hardware virtualisation has and that KVM's instruction emulator lacks. It runs
//! in 32-bit protected mode without paging, which even a processor that cannot run real mode natively
//! does not leave to the emulator.

use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::layout::KVM_TSS;
use crate::arch::ProbeStep;

/// Guest physical address at which [`PROBE_CODE`] is placed and starts.
pub const PROBE_START: u64 = 0x1000;

/// How often the guest writes to a port, each time after [`PROBE_ROUND_LEN`] instructions, before it
/// executes the telling instruction and halts.
pub const PROBE_ROUNDS: u32 = 3;

/// Instructions between two port writes: 16384 turns of a loop of two.
pub const PROBE_ROUND_LEN: u32 = 32768;

/// The guest's machine code.
pub const PROBE_CODE: &[u8] = &[
    0xbb, 0x03, 0x00, 0x00, 0x00, // mov ebx, PROBE_ROUNDS
    0xb9, 0x00, 0x40, 0x00, 0x00, // round: mov ecx, 16384
    0x49, // turn: dec ecx
    0x75, 0xfd, // jnz turn
    0xe6, 0x80, // out 0x80, al
    0x4b, // dec ebx
    0x75, 0xf3, // jnz round
    0xf3, 0x0f, 0xb8, 0xc3, // popcnt eax, ebx
    0xf4, // hlt
];

/// Brings the only vCPU of the probe's VM to the start of [`PROBE_CODE`].
///
/// # Errors
/// KVM refuses the registers.
pub fn configure_probe(vm: &VmFd, vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    const CR0_PE: u64 = 1;
    const CODE_READ_ACCESSED: u8 = 0xb;
    const DATA_WRITE_ACCESSED: u8 = 0x3;
    let flat = |selector, type_| kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    vm.set_tss_address(KVM_TSS)?;
    let mut sregs = vcpu.get_sregs()?;
    sregs.cr0 |= CR0_PE;
    sregs.cs = flat(0x08, CODE_READ_ACCESSED);
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
        *segment = flat(0x10, DATA_WRITE_ACCESSED);
    }
    vcpu.set_sregs(&sregs)?;
    // Bit 1 of RFLAGS is always set.
    vcpu.set_regs(&kvm_regs { rip: PROBE_START, rflags: 0x2, ..kvm_regs::default() })
}

/// What an exit of the probe's guest means; `None` for one that its code does not make.
pub fn probe_step(exit: &VcpuExit<'_>) -> Option<ProbeStep> {
    match exit {
        VcpuExit::IoOut(..) => Some(ProbeStep::Round),
        VcpuExit::Hlt => Some(ProbeStep::End),
        VcpuExit::InternalError => Some(ProbeStep::Stuck),
        _ => None,
    }
}
