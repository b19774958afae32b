//! The objects that own KVM's file descriptors: the VM, its vCPUs and how they run.

mod exit;
mod vcpu;
mod vm;

pub use exit::LastExit;
pub use vcpu::{Buses, RunningVcpu, VcpuEnd, VcpuError, VcpuEvents, start_vcpu};
pub use vm::{IrqLine, Vm, VmError, open_kvm};
