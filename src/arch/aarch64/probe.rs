//! A tiny guest that shows how fast the processor runs guest kernel code.
//!
//! It counts down and stores to an address at which there is nothing, each time after as many instructions,
//! and then powers off. There is no interrupt controller, and the MMU is off.

use kvm_bindings::{KVM_ARM_VCPU_PSCI_0_2, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_vcpu_init};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::vcpu::{PC, set};
use crate::arch::ProbeStep;

/// Guest physical address at which [`PROBE_CODE`] is placed and starts.
pub const PROBE_START: u64 = 0x1000;

/// How often the guest stores, each time after [`PROBE_ROUND_LEN`] instructions, before it powers off.
pub const PROBE_ROUNDS: u32 = 3;

/// Instructions between two stores: 16384 turns of a loop of two.
pub const PROBE_ROUND_LEN: u32 = 32768;

/// The guest's machine code.
pub const PROBE_CODE: &[u8] = &[
    0x63, 0x00, 0x80, 0x52, // mov w3, PROBE_ROUNDS
    0x24, 0x00, 0xa0, 0xd2, // mov x4, 0x10000
    0x02, 0x00, 0x88, 0x52, // round: mov w2, 16384
    0x42, 0x04, 0x00, 0x71, // turn: subs w2, w2, 1
    0xe1, 0xff, 0xff, 0x54, // b.ne turn
    0x9f, 0x00, 0x00, 0xb9, // str wzr, [x4]
    0x63, 0x04, 0x00, 0x71, // subs w3, w3, 1
    0x61, 0xff, 0xff, 0x54, // b.ne round
    0x00, 0x01, 0x80, 0x52, // mov w0, 8
    0x00, 0x80, 0xb0, 0x72, // movk w0, 0x8400, lsl 16: SYSTEM_OFF
    0x02, 0x00, 0x00, 0xd4, // hvc 0
    0x00, 0x00, 0x00, 0x14, // b .
];

/// Brings the only vCPU of the probe's VM to the start of [`PROBE_CODE`].
///
/// # Errors
/// KVM refuses the kind of vCPU or the registers.
pub fn configure_probe(vm: &VmFd, vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut init = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init)?;
    init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    vcpu.vcpu_init(&init)?;
    set(vcpu, PC, PROBE_START)
}

/// What an exit of the probe's guest means; `None` for one that its code does not make.
pub fn probe_step(exit: &VcpuExit<'_>) -> Option<ProbeStep> {
    match exit {
        VcpuExit::MmioWrite(..) => Some(ProbeStep::Round),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Some(ProbeStep::End),
        _ => None,
    }
}
