//! Which ways out should be closed.

/// Open under docker's defaults, on a kernel that is shared: raw sockets are docker's to give, and the only process
/// that can be traced is the probe itself.
const OF_A_CONTAINER: [&str; 3] = ["link packets", "raw packets", "trace process 1"];

/// Open in a machine besides: they lead to a kernel that is the container's own.
const OF_A_MACHINE: [&str; 5] =
    ["kernel log", "key rings", "page faults", "performance counters", "user namespace"];

/// Whether the way out `name` may be open where the kernel is the container's own, or where it is not.
pub(super) fn may_be_open(name: &str, own_kernel: bool) -> bool {
    OF_A_CONTAINER.contains(&name) || own_kernel && OF_A_MACHINE.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_of_ones_own_may_be_asked_for_more() {
        assert!(may_be_open("raw packets", false) && may_be_open("raw packets", true));
        assert!(!may_be_open("user namespace", false) && may_be_open("user namespace", true));
        assert!(!may_be_open("kernel module", false) && !may_be_open("kernel module", true));
        assert!(!may_be_open("what is new", true));
    }
}
