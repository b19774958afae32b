//! What a virtual machine costs over a container, measured: the same image and command in every way this
//! host can run them, in turn, in one run.
//!
//! A module uses only those above it:
//!
//! - [`clock`]: the one clock all times are taken from.
//! - [`stats`]: quantiles, intervals and ratios.
//! - [`timeline`]: the phases of one run, whose times make up the whole.
//! - [`workload`], [`user`], [`rootfs`]: what is run, as whom, and where.
//! - [`watch`]: when a program in the unpacked image begins and ends.
//! - [`console`]: what a guest tells on its serial port.
//! - [`launch`], [`leftovers`]: one process, started and watched, and what it leaves.
//! - [`container`]: our own containers without a machine, to compare with and to learn from.
//! - [`machine`]: the same command in a guest, under any monitor.
//! - [`arm`]: a way to run a command.
//! - [`plan`]: the order of runs.
//! - [`measure`]: a plan carried out.
//! - [`virtualisation`], [`fingerprint`], [`verdict`]: the host, and whether its numbers are to be trusted.
//! - [`page`]: reports as pages, with plots.
//! - [`report`], [`compare`]: what was found, in every form; two of these.
//! - [`cli`]: the program `vmm-contrast`.

pub mod arm;
pub mod cli;
pub mod clock;
pub mod compare;
pub mod console;
pub mod container;
pub mod fingerprint;
pub mod launch;
pub mod leftovers;
pub mod machine;
pub mod measure;
pub mod page;
pub mod plan;
pub mod report;
pub mod rootfs;
pub mod stats;
#[cfg(test)]
mod testing;
pub mod timeline;
pub mod user;
pub mod verdict;
pub mod virtualisation;
pub mod watch;
pub mod workload;
