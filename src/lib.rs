//! A lightweight KVM-backed hypervisor.

pub mod arch;
pub mod bus;
pub mod config;
pub mod devices;
pub mod kvm;
pub mod memory;
