//! The devices a guest sees. Everything a guest writes to them is hostile.

#![deny(clippy::as_conversions, clippy::indexing_slicing)]

pub mod console;
pub mod power;
pub mod rtc;
pub mod serial;
pub mod virtio;
