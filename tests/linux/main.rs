//! Linux guests: real kernels with real drivers, on a KVM that runs them in hardware.
//!
//! These run in the emulated host (`cargo xtask test guest`), as root, with the cache's kernels and
//! root filesystems under /srv/vmm and the fresh `vmm` on the PATH.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(unreachable_pub, reason = "a program has no users but its own modules")]

mod agent;
mod balloon;
mod block;
mod boot;
mod console;
mod containers;
mod ends;
mod guest;
mod net;
mod package;
mod user_net;
mod vsock;

vmm::by_architecture! {
    aarch64 { mod aarch64; }
    x86_64 { mod x86_64; }
}
