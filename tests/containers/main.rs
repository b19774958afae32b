//! Containers on this host, whose guests are played: client, keeper and monitor are the real ones; the
//! guest's processor idles, and a thread of the test says on the monitor's sockets what the agent would say.
//!
//! So it takes no kernel that runs containers, and everything on the host's side of the socket can be tried
//! often: killed, refused its files, told nonsense. With real guests `tests/linux/containers` does it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]
#![expect(unreachable_pub, reason = "a program has no users but its own modules")]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod ends;
mod faults;
mod kills;
mod lifecycle;
mod scrub;
mod world;
