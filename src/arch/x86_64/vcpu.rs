//! Creating vCPUs and bringing them into the state in which the guest starts.

use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::boot_data::Entry;

/// What the host's KVM can give a guest processor. Asking costs a good part of a millisecond: ask once.
#[derive(Debug)]
pub struct HostCpu {}

impl HostCpu {
    /// Asks KVM.
    ///
    /// # Errors
    /// KVM does not answer `KVM_GET_SUPPORTED_CPUID`.
    pub fn probe(kvm: &Kvm) -> Result<Self, CpuError> {
        todo!()
    }
}

/// Why a vCPU could not be made or configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// An ioctl failed.
    #[error("{what}")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// Creates the interrupt controllers (PIC, IOAPIC, local APICs) and `count` vCPUs with ids from 0, in the
/// order this architecture needs. There is no PIT: guests time with the TSC deadline timer.
///
/// Call after the memory slots are registered and before the first irqfd or ioeventfd.
///
/// # Errors
/// KVM refuses one of the steps.
pub fn create_vcpus(vm: &VmFd, count: u8) -> Result<Vec<VcpuFd>, CpuError> {
    todo!()
}

/// Brings vCPU `index` of `count` into its start state: CPUID, MSRs, local APIC and, for vCPU 0, the
/// registers of the boot protocol. The others wait for the guest's INIT and SIPI.
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
    todo!()
}
