//! Creating vCPUs and bringing them into the state in which the guest starts.

use kvm_bindings::{
    CpuId, KVM_CAP_PMU_CAPABILITY, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_HALTED,
    KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED, KVM_PMU_CAP_DISABLE, kvm_enable_cap,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use super::boot_data::Entry;
use super::cpuid::{GuestCpu, guest_cpuid};
use super::{layout, msr, registers};
use crate::config::CpuFeature;

/// What the host's KVM can give a guest processor. Asking takes a good part of a millisecond: ask once.
#[derive(Debug)]
pub struct HostCpu {
    supported: CpuId,
    tsc_deadline: bool,
}

/// The interrupt controllers of a VM, about which there is nothing to say: KVM has one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptController;

impl HostCpu {
    /// Asks KVM.
    ///
    /// # Errors
    /// KVM does not answer `KVM_GET_SUPPORTED_CPUID`.
    pub fn probe(kvm: &Kvm) -> Result<Self, CpuError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm_error("get the supported CPUID"))?;
        Ok(Self { supported, tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer) })
    }

    /// How many bits a guest physical address can have (Intel SDM 2A, CPUID leaf 0x80000008).
    pub fn address_bits(&self) -> u8 {
        const ADDRESS_SIZES: u32 = 0x8000_0008;
        /// What processors have that do not say.
        const DEFAULT: u8 = 36;
        let leaf = self.supported.as_slice().iter().find(|leaf| leaf.function == ADDRESS_SIZES);
        leaf.map_or(DEFAULT, |leaf| leaf.eax.to_le_bytes()[0])
    }
}

/// Why a vCPU could not be made or configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// KVM refused a step.
    #[error("{what}")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM refused a model-specific register.
    #[error("set MSR {index:#x}: KVM refuses it")]
    Msr {
        /// Its number.
        index: u32,
    },
    /// A feature that can be asked for, but not here.
    #[error("{0}: x86_64 has no such feature of CPUs")]
    Feature(CpuFeature),
    /// A list for KVM became longer than KVM takes.
    #[error("more CPUID leaves or MSRs than KVM takes")]
    TooManyEntries,
}

/// Turns KVM's error number into an error that says what was tried.
pub(super) fn kvm_error(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> CpuError {
    move |source| CpuError::Kvm { what, source }
}

/// Creates the interrupt controllers (PIC, IOAPIC, local APICs) and `count` vCPUs with ids from 0, in the
/// order this architecture needs. There is no PIT: guests time with the TSC deadline timer.
///
/// Call after the memory slots are registered and before the first irqfd or ioeventfd.
///
/// # Errors
/// KVM refuses one of the steps. There is nothing in `features` that this architecture has.
pub fn create_vcpus(
    vm: &VmFd,
    count: u8,
    features: &[CpuFeature],
) -> Result<(Vec<VcpuFd>, InterruptController), CpuError> {
    if let Some(feature) = features.first() {
        return Err(CpuError::Feature(*feature));
    }
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(kvm_error("set the identity map address"))?;
    vm.set_tss_address(layout::KVM_TSS).map_err(kvm_error("set the TSS address"))?;
    disable_pmu(vm)?;
    vm.create_irq_chip().map_err(kvm_error("create the interrupt controllers"))?;
    let vcpus = (0..count)
        .map(|index| vm.create_vcpu(index.into()).map_err(kvm_error("create a vCPU")))
        .collect::<Result<_, _>>()?;
    Ok((vcpus, InterruptController))
}

/// Takes the performance counters away where KVM can: on AMD processors no CPUID bit does it.
fn disable_pmu(vm: &VmFd) -> Result<(), CpuError> {
    let offered = vm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into());
    let Ok(offered) = u32::try_from(offered) else { return Ok(()) };
    if offered & KVM_PMU_CAP_DISABLE == 0 {
        return Ok(());
    }
    let mut cap = kvm_enable_cap { cap: KVM_CAP_PMU_CAPABILITY, ..Default::default() };
    cap.args[0] = KVM_PMU_CAP_DISABLE.into();
    vm.enable_cap(&cap).map_err(kvm_error("disable the performance counters"))
}

/// Brings vCPU `index` of `count` into its start state: CPUID, MSRs and, for vCPU 0, the registers of the
/// boot protocol. The others wait for the guest's INIT and SIPI; until then `KVM_RUN` on them may return
/// `EAGAIN`, which means: run it again.
///
/// # Errors
/// KVM refuses one of the steps.
pub fn configure_vcpu(
    vcpu: &VcpuFd,
    host: &HostCpu,
    index: u8,
    count: u8,
    entry: &Entry,
) -> Result<(), CpuError> {
    let tsc_khz = vcpu.get_tsc_khz().ok().filter(|khz| *khz != 0);
    let cpu = GuestCpu { index, count, tsc_khz, tsc_deadline: host.tsc_deadline };
    let leaves = guest_cpuid(host.supported.as_slice(), &cpu);
    let cpuid = CpuId::from_entries(&leaves).map_err(|_| CpuError::TooManyEntries)?;
    vcpu.set_cpuid2(&cpuid).map_err(kvm_error("set the CPUID leaves"))?;
    msr::set(vcpu)?;
    if index == 0 {
        registers::mask_lint0(vcpu)?;
        registers::set(vcpu, entry)?;
    }
    Ok(())
}

/// Whether the vCPU waits for something that only another vCPU or the host can give it: it was
/// never started, or it halted with interrupts disabled.
pub fn sleeps_forever(vcpu: &VcpuFd) -> bool {
    const RFLAGS_IF: u64 = 1 << 9;
    let Ok(state) = vcpu.get_mp_state() else { return false };
    match state.mp_state {
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => true,
        KVM_MP_STATE_HALTED => vcpu.get_regs().is_ok_and(|regs| regs.rflags & RFLAGS_IF == 0),
        _ => false,
    }
}
