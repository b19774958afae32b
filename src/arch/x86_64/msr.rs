//! Model-specific registers whose reset value a guest would trip over.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::vcpu::{CpuError, kvm_error};

/// `IA32_MISC_ENABLE` (Intel SDM 4, table 2-2).
const MISC_ENABLE: u32 = 0x1a0;
/// Fast `rep movs` and `rep stos`.
const FAST_STRINGS: u64 = 1;
/// `IA32_MTRR_DEF_TYPE` (Intel SDM 3A, 13.11.2.1).
const MTRR_DEF_TYPE: u32 = 0x2ff;
/// Memory types in use, write-back by default. Without it a guest believes that nothing is cached.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// Sets them on `vcpu`. All others start as KVM's reset leaves them.
pub(super) fn set(vcpu: &VcpuFd) -> Result<(), CpuError> {
    let registers = [(MISC_ENABLE, FAST_STRINGS), (MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK)];
    let entries =
        registers.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&entries).map_err(|_| CpuError::TooManyEntries)?;
    let set = vcpu.set_msrs(&msrs).map_err(kvm_error("set MSRs"))?;
    match registers.get(set) {
        None => Ok(()),
        Some(&(index, _)) => Err(CpuError::Msr { index }),
    }
}
