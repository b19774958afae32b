//! What the platform around the devices takes from a guest, and how it ends a machine.

#[path = "../support/mod.rs"]
mod support;

vmm::by_architecture! {
    aarch64 { mod aarch64; }
    x86_64 { mod x86_64; }
}
