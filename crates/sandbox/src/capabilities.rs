//! Capabilities of a process.

use rustix::io::{Errno, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
};
use vmm_protocol::{CAPABILITIES, DEFAULT_CAPABILITIES};

/// The one that `name` (with or without `CAP_`, in any case) stands for. Takes memory.
pub fn named(name: &str) -> Option<CapabilitySet> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let number = CAPABILITIES.iter().position(|known| *known == plain)?;
    Some(CapabilitySet::from_bits_retain(1 << number))
}

/// What docker leaves to root in a container. Takes memory.
pub fn docker() -> CapabilitySet {
    DEFAULT_CAPABILITIES.iter().filter_map(|name| named(name)).collect()
}

/// Takes all capabilities but `set` out of the bounding set: nothing can bring them back. The kernel
/// may know more than we have names for.
///
/// # Errors
/// The process may not.
pub fn bound(set: CapabilitySet) -> Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if set.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            // Beyond the last one.
            Err(Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

/// Leaves root no others than `set`. Nothing is inherited by programs without capabilities of their
/// own.
///
/// # Errors
/// The process lacks one of them.
pub fn limit(set: CapabilitySet) -> Result<()> {
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: set, permitted: set, inheritable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_their_bits() {
        let bits = |name| named(name).map(|set| set.bits());
        assert_eq!(bits("CHOWN"), Some(1));
        assert_eq!(bits("cap_net_raw"), Some(1 << 13));
        assert_eq!(bits("CAP_CHECKPOINT_RESTORE"), Some(1 << 40));
        assert_eq!(docker().bits(), 0xa804_25fb);
        let all: CapabilitySet = CAPABILITIES.iter().filter_map(|name| named(name)).collect();
        assert_eq!(all.bits(), (1 << 41) - 1);
    }

    #[test]
    fn unknown_names_stand_for_nothing() {
        assert_eq!(named("ALL"), None);
        assert_eq!(named(""), None);
    }
}
