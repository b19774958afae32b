//! The objects that own KVM's file descriptors: the VM, its vCPUs and how they run.

mod exit;
mod stats;
mod teardown;
mod vcpu;
mod vm;

pub use exit::LastExit;
pub use stats::VcpuStats;
pub use teardown::close_after_exit;
pub use vcpu::{Buses, RunningVcpu, VcpuEnd, VcpuError, VcpuEvents, start_vcpu};
pub use vm::{IrqLine, Vm, VmError, open_kvm};
