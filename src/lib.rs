//! A lightweight KVM-backed hypervisor.
