//! Container images: references, the store, where images come from, and the read-only root file system
//! that is made from an image's layers.
//!
//! [`reference`] reads what a user calls an image, [`store`] keeps what was verified. Both are all
//! that the monitor links: what reads a stranger's bytes runs in the program `vmm-image`.

pub mod config;
pub mod digest;
#[cfg(feature = "helper")]
pub mod fetch;
#[cfg(feature = "helper")]
pub mod helper;
#[cfg(feature = "helper")]
pub mod oci;
pub mod reference;
#[cfg(feature = "helper")]
pub mod source;
pub mod store;
