//! Capabilities of a process.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
};
use vmm_protocol::{CAPABILITIES, Refusal};

use crate::error::Failure;

/// The set that `names` (with or without `CAP_`, in any case) stand for.
pub(crate) fn parse(names: &[String]) -> Result<CapabilitySet, Failure> {
    let mut set = CapabilitySet::empty();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let number = CAPABILITIES.iter().position(|known| *known == plain);
        let number = number.ok_or_else(|| unknown(name))?;
        set |= CapabilitySet::from_bits_retain(1 << number);
    }
    Ok(set)
}

fn unknown(name: &str) -> Failure {
    Failure::new(Refusal::Other, format!("unknown capability {name}"))
}

/// Takes all capabilities but `set` out of the bounding set: nothing can bring them back. The kernel
/// may know more than we have names for.
pub(crate) fn bound(set: CapabilitySet) -> io::Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if set.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            // Beyond the last one.
            Err(rustix::io::Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

/// Leaves root no others than `set`. Nothing is inherited by programs without capabilities of their
/// own.
pub(crate) fn limit(set: CapabilitySet) -> io::Result<()> {
    let sets =
        CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn names_stand_for_their_bits() {
        let set = parse(&names(&["CHOWN", "cap_net_raw", "CAP_CHECKPOINT_RESTORE"])).unwrap();
        assert_eq!(set.bits(), 1 | 1 << 13 | 1 << 40);
        let docker = parse(&names(&vmm_protocol::DEFAULT_CAPABILITIES)).unwrap();
        assert_eq!(docker.bits(), 0xa804_25fb);
        assert!(parse(&names(&CAPABILITIES)).unwrap().bits() == (1 << 41) - 1);
    }

    #[test]
    fn unknown_names_are_refused() {
        assert_eq!(parse(&names(&["ALL"])).unwrap_err().what, "unknown capability ALL");
    }
}
