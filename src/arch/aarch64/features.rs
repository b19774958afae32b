//! Features that vCPUs have only when asked. KVM takes the others out of the guest's ID registers (KVM API,
//! `KVM_ARM_VCPU_INIT`).

use std::ffi::c_int;

use kvm_bindings::{
    KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT,
    KVM_ARM_VCPU_PMU_V3_IRQ, KVM_ARM_VCPU_PTRAUTH_ADDRESS, KVM_ARM_VCPU_PTRAUTH_GENERIC,
    KVM_ARM_VCPU_SVE, KVM_CAP_ARM_PMU_V3, KVM_CAP_ARM_PTRAUTH_ADDRESS, KVM_CAP_ARM_PTRAUTH_GENERIC,
    KVM_CAP_ARM_SVE,
};
use kvm_ioctls::{VcpuFd, VmFd};

use super::layout;
use super::vcpu::{CpuError, kvm_error, set_attribute};
use crate::config::CpuFeature;

/// The bits by which a feature is asked for, each with the number of the extension that says whether it can be.
fn init_bits(feature: CpuFeature) -> &'static [(u32, u32)] {
    match feature {
        CpuFeature::Pmu => &[(KVM_ARM_VCPU_PMU_V3, KVM_CAP_ARM_PMU_V3)],
        CpuFeature::Pauth => &[
            (KVM_ARM_VCPU_PTRAUTH_ADDRESS, KVM_CAP_ARM_PTRAUTH_ADDRESS),
            (KVM_ARM_VCPU_PTRAUTH_GENERIC, KVM_CAP_ARM_PTRAUTH_GENERIC),
        ],
        CpuFeature::Sve => &[(KVM_ARM_VCPU_SVE, KVM_CAP_ARM_SVE)],
    }
}

/// The bits that ask for `features` when a vCPU is initialised, all in the first word.
///
/// # Errors
/// The host's KVM has one of them for no guest.
pub(super) fn init_word(vm: &VmFd, features: &[CpuFeature]) -> Result<u32, CpuError> {
    let mut word = 0;
    for feature in features {
        for (bit, extension) in init_bits(*feature) {
            if vm.check_extension_raw((*extension).into()) <= 0 {
                return Err(CpuError::Feature(*feature));
            }
            word |= 1 << bit;
        }
    }
    Ok(word)
}

/// Finalizes a vCPU that was just initialised, which then has vectors of all lengths that the host has. Until then they
/// could be fewer (KVM API, `KVM_REG_ARM64_SVE_VLS`).
pub(super) fn finalize(vcpu: &VcpuFd, features: &[CpuFeature]) -> Result<(), CpuError> {
    const SVE: c_int = KVM_ARM_VCPU_SVE as c_int;
    if !features.contains(&CpuFeature::Sve) {
        return Ok(());
    }
    vcpu.vcpu_finalize(&SVE).map_err(kvm_error("finalize the lengths of vectors"))
}

/// Initialises the performance counters of a vCPU, which need the interrupt controller (KVM API:
/// Documentation/virt/kvm/devices/vcpu.rst, 1).
pub(super) fn init_pmu(vcpu: &VcpuFd, features: &[CpuFeature]) -> Result<(), CpuError> {
    if !features.contains(&CpuFeature::Pmu) {
        return Ok(());
    }
    let interrupt = layout::FIRST_PPI.saturating_add(layout::PMU_PPI);
    let set = |what, value: Option<&u32>| {
        set_attribute(|it| vcpu.set_device_attr(it), KVM_ARM_VCPU_PMU_V3_CTRL, what, value)
            .map_err(kvm_error("initialise the performance counters"))
    };
    set(KVM_ARM_VCPU_PMU_V3_IRQ, Some(&interrupt))?;
    set(KVM_ARM_VCPU_PMU_V3_INIT, None)
}
