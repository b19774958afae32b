//! Capabilities by their names.

use rustix::thread::CapabilitySet;
use vmm_protocol::Refusal;
use vmm_sandbox::capabilities::named;

use crate::error::Failure;

/// The set that `names` (with or without `CAP_`, in any case) stand for.
pub(crate) fn parse(names: &[String]) -> Result<CapabilitySet, Failure> {
    let find = |name: &String| named(name).ok_or_else(|| unknown(name));
    names.iter().map(find).collect()
}

fn unknown(name: &str) -> Failure {
    Failure::new(Refusal::Other, format!("unknown capability {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_make_up_a_set() {
        let names = ["CHOWN".to_owned(), "cap_net_raw".to_owned()];
        assert_eq!(parse(&names).unwrap().bits(), 1 | 1 << 13);
    }

    #[test]
    fn unknown_names_are_refused() {
        let error = parse(&["CHOWN".to_owned(), "ALL".to_owned()]).unwrap_err();
        assert_eq!(error.what, "unknown capability ALL");
    }
}
