//! What the tests share: tiny guests, the monitor as a child process, and what to look at.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

pub mod case;
pub mod driver;
pub mod faults;
pub mod fuse;
pub mod layout;
pub mod payload;
pub mod process;
pub mod request;
pub mod ring;
pub mod script;
pub mod seccomp;
pub mod second;
pub mod subject;
pub mod vmm;

::vmm::by_architecture! {
    aarch64 { #[path = "aarch64.rs"] pub mod machine; }
    x86_64 { #[path = "x86_64.rs"] pub mod machine; }
}
