//! The program `vmm-image`: the only one that reads what a stranger has made into an image.
//!
//! It does its work in processes of their own, each behind walls: one gets the blobs, and can write
//! to the store's directories for blobs alone; one makes the file system, and can open nothing, because
//! layers and result are open files that it is given. What they say is compared here.

mod calls;
mod cli;
mod confine;
pub mod credentials;
pub mod progress;
pub mod pull;
mod stage;
mod wire;
mod work;

pub use cli::main;
