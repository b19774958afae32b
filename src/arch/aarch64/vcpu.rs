//! Creating vCPUs and bringing them into the state in which the guest starts.

use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_MP_STATE_STOPPED, KVM_REG_ARM_CORE,
    KVM_REG_ARM64, KVM_REG_SIZE_U64, kvm_device_attr, kvm_vcpu_init,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use super::pure::fdt::{Entry, InterruptController};
use super::{features, gic};
use crate::config::CpuFeature;

/// What the host's KVM can give a guest processor.
#[derive(Debug)]
pub struct HostCpu {
    address_bits: u8,
}

impl HostCpu {
    /// Asks KVM.
    ///
    /// # Errors
    /// None here.
    pub fn probe(kvm: &Kvm) -> Result<Self, CpuError> {
        /// What every KVM has.
        const DEFAULT: u8 = 40;
        let limit = kvm.check_extension_int(Cap::ArmVmIPASize);
        let address_bits = u8::try_from(limit).ok().filter(|bits| *bits > 0).unwrap_or(DEFAULT);
        Ok(Self { address_bits })
    }

    /// How many bits a guest physical address can have (KVM API, `KVM_CAP_ARM_VM_IPA_SIZE`).
    pub fn address_bits(&self) -> u8 {
        self.address_bits
    }
}

/// Why a vCPU or its interrupt controller could not be made or configured.
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
    /// A feature that can be asked for, but not here.
    #[error("{0}: this host's KVM has no such feature of CPUs for guests")]
    Feature(CpuFeature),
    /// No interrupt controller is to be had.
    #[error("this host's KVM has neither a GICv3 nor a GICv2 for guests")]
    NoInterruptController,
    /// More vCPUs than KVM has for a guest. On hosts with a GICv2 it has 8, elsewhere hundreds.
    #[error("{cpus} vCPUs: this host's KVM has {limit} for a guest")]
    TooManyCpus {
        /// The number asked for.
        cpus: u8,
        /// The most.
        limit: i32,
    },
}

/// Turns KVM's error number into an error that says what was tried.
pub(super) fn kvm_error(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> CpuError {
    move |source| CpuError::Kvm { what, source }
}

/// Creates `count` vCPUs with ids from 0 and with `asked` features, and then the interrupt controller, which can be
/// finished only when all of them are there. All but the first wait for the guest to start them (PSCI `CPU_ON`).
///
/// Call after the memory slots are registered and before the first irqfd or ioeventfd.
///
/// # Errors
/// KVM refuses one of the steps, lacks a feature, or has no interrupt controller for so many vCPUs.
pub fn create_vcpus(
    vm: &VmFd,
    count: u8,
    asked: &[CpuFeature],
) -> Result<(Vec<VcpuFd>, InterruptController), CpuError> {
    let limit = vm.check_extension_int(Cap::MaxVcpus);
    if i32::from(count) > limit {
        return Err(CpuError::TooManyCpus { cpus: count, limit });
    }
    let word = features::init_word(vm, asked)?;
    let mut target = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target).map_err(kvm_error("get the preferred kind of vCPU"))?;
    let vcpus = (0..count)
        .map(|index| {
            let vcpu = vm.create_vcpu(index.into()).map_err(kvm_error("create a vCPU"))?;
            let init = kvm_vcpu_init { features: init_features(index, word), ..target };
            vcpu.vcpu_init(&init).map_err(kvm_error("initialise a vCPU"))?;
            features::finalize(&vcpu, asked)?;
            Ok(vcpu)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let interrupt_controller = gic::create(vm)?;
    vcpus.iter().try_for_each(|vcpu| features::init_pmu(vcpu, asked))?;
    Ok((vcpus, interrupt_controller))
}

/// The features of vCPU `index`: those that were asked for, and PSCI of version 1, by which the guest ends and
/// starts vCPUs.
fn init_features(index: u8, asked: u32) -> [u32; 7] {
    let mut features = [0; 7];
    features[0] = asked | 1 << KVM_ARM_VCPU_PSCI_0_2;
    if index > 0 {
        features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
    }
    features
}

/// Has `set` set attribute `attr` of `group`. KVM reads `value`, which has the length of that attribute.
pub(super) fn set_attribute<T>(
    set: impl FnOnce(&kvm_device_attr) -> Result<(), kvm_ioctls::Error>,
    group: u32,
    attr: u32,
    value: Option<&T>,
) -> Result<(), kvm_ioctls::Error> {
    let addr = value.map_or(0, |value| std::ptr::from_ref(value).expose_provenance());
    let addr = u64::try_from(addr).unwrap_or(0);
    set(&kvm_device_attr { group, attr: attr.into(), addr, flags: 0 })
}

/// Sets the registers of vCPU 0 to what the boot protocol wants (Linux: arm64/booting.rst, 4). The others get
/// theirs from the guest that starts them.
///
/// # Errors
/// KVM refuses one of the steps.
pub fn configure_vcpu(
    vcpu: &VcpuFd,
    _host: &HostCpu,
    index: u8,
    _count: u8,
    entry: &Entry,
) -> Result<(), CpuError> {
    /// Exception level 1 with its own stack; no interrupts and no exceptions of the kinds that can wait.
    const EL1_MASKED: u64 = 0b1111 << 6 | 0b0101;
    if index > 0 {
        return Ok(());
    }
    for (register, value) in
        [(PSTATE, EL1_MASKED), (PC, entry.address), (X0, entry.device_tree), (1, 0), (2, 0), (3, 0)]
    {
        set(vcpu, register, value).map_err(kvm_error("set registers"))?;
    }
    Ok(())
}

/// Positions in `struct user_pt_regs`, which begins what KVM calls core registers: x0 to x30, the stack
/// pointer, and these.
const X0: u64 = 0;
pub(super) const PC: u64 = 32;
const PSTATE: u64 = 33;

/// Sets the core register at `position`.
pub(super) fn set(vcpu: &VcpuFd, position: u64, value: u64) -> Result<(), kvm_ioctls::Error> {
    // KVM counts in words of 32 bits.
    let id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM_CORE) | (position * 2);
    vcpu.set_one_reg(id, &value.to_le_bytes()).map(drop)
}

/// Whether the vCPU waits for something that only another vCPU can give it: it was never started, or has
/// turned itself off.
pub fn sleeps_forever(vcpu: &VcpuFd) -> bool {
    vcpu.get_mp_state().is_ok_and(|state| state.mp_state == KVM_MP_STATE_STOPPED)
}
