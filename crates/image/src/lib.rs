//! Container images: references, the store, where images come from, and the read-only root file system
//! that is made from an image's layers.
//!
//! [`reference`] reads what a user calls an image, [`store`] keeps what was verified, [`client`] starts
//! the program `vmm-image`, which reads a stranger's bytes, [`cpio`] writes what a guest starts from. They
//! are all that the monitor links; the rest is built with the feature `helper`.

pub mod client;
pub mod config;
pub mod cpio;
pub mod digest;
#[cfg(feature = "helper")]
mod erofs;
#[cfg(feature = "helper")]
pub mod fetch;
#[cfg(all(any(test, fuzzing), feature = "helper"))]
pub mod fuzz;
#[cfg(feature = "helper")]
pub mod helper;
pub mod inherited;
#[cfg(feature = "helper")]
mod layer;
#[cfg(feature = "helper")]
pub mod oci;
pub mod platform;
pub mod reference;
#[cfg(feature = "helper")]
pub mod rootfs;
#[cfg(feature = "helper")]
pub mod source;
pub mod store;
#[cfg(test)]
mod testing;
#[cfg(feature = "helper")]
mod tree;
#[cfg(any(test, feature = "unpack"))]
pub mod unpack;
