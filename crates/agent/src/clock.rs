//! The time since the guest's kernel began.

use rustix::time::{ClockId, clock_gettime};
use vmm_protocol::Stamp;

/// This moment, at which `name` is done.
pub(crate) fn stamp(name: &str) -> Stamp {
    Stamp { name: name.to_owned(), uptime_us: uptime_us() }
}

/// Microseconds since the guest's kernel began.
pub(crate) fn uptime_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec).saturating_mul(1_000_000).saturating_add(part(now.tv_nsec) / 1000)
}
