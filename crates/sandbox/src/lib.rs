//! What containers are made of, whether a guest's kernel runs them or the host's own.
//!
//! What docker gives a container unless it is told otherwise stands here once: its files and devices
//! ([`mounts`], [`devices`], [`network`]), its rights ([`capabilities`], `filter`), and how a process comes to be in it
//! ([`process`]).
//!
//! Functions that are called between a fork and the start of a program take no memory, because in a copy of a
//! process with several threads nobody would ever give its lock back; those that do say so.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::as_conversions))]

pub mod capabilities;
pub mod devices;
#[cfg(feature = "filter")]
pub mod filter;
pub mod mounts;
pub mod network;
pub mod process;
