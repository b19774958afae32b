//! The program `vmm-image`.

pub mod progress;
