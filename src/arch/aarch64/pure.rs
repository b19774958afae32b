//! What of the aarch64 machine asks nothing of KVM: tests of it run on any machine.

pub(in crate::arch) mod caches;
pub(in crate::arch) mod fdt;
pub(in crate::arch) mod initrd;
pub mod layout;
pub(in crate::arch) mod loader;
pub(in crate::arch) mod memory_map;
pub(in crate::arch) mod platform;
#[cfg(test)]
pub(in crate::arch) mod test_support;
