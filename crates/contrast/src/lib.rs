//! What a virtual machine costs over a container, measured: the same image and command in every way this
//! host can run them, in turn, in one run.
//!
//! A module uses only those above it:
//!
//! - [`clock`]: the one clock all times are taken from.
//! - [`stats`]: quantiles, intervals and ratios.
//! - [`timeline`]: the phases of one run, whose times make up the whole.
//! - [`workload`], [`user`], [`rootfs`]: what is run, as whom, and where.
//! - [`inside`]: an image with the probe in it, for what is measured from within.
//! - [`watch`]: when a program in the unpacked image begins and ends.
//! - [`console`]: what a guest tells on its serial port.
//! - [`launch`], [`leftovers`]: one process, started and watched, and what it leaves.
//! - [`container`]: our own containers without a machine, to compare with and to learn from.
//! - [`machine`]: the same command in a guest, under any monitor.
//! - [`arm`]: a way to run a command.
//! - [`plan`]: the order of runs.
//! - [`measure`]: a plan carried out.
//! - [`figures`], [`probed`], [`sink`]: what is found where an arm has several figures, as by the probe within it,
//!   which may send streams to this host.
//! - [`processes`], [`instance`], [`memory`], [`density`]: what goes on until it is ended, and what it and many of
//!   it take.
//! - [`virtualisation`], [`fingerprint`], [`verdict`]: the host, and whether its numbers are to be trusted.
//! - [`page`]: reports as pages, with plots.
//! - [`report`], [`compare`]: what was found, in every form; two of these.
//! - [`isolation`]: what each way keeps apart.
//! - [`cli`]: the program `vmm-contrast`.

pub mod arm;
pub mod cli;
pub mod clock;
pub mod compare;
pub mod console;
pub mod container;
pub mod density;
pub mod figures;
pub mod fingerprint;
pub mod inside;
pub mod instance;
pub mod isolation;
pub mod launch;
pub mod leftovers;
pub mod machine;
pub mod measure;
pub mod memory;
pub mod page;
pub mod plan;
pub mod probed;
pub mod processes;
pub mod report;
pub mod rootfs;
pub mod sink;
pub mod stats;
#[cfg(test)]
mod testing;
pub mod timeline;
pub mod user;
pub mod verdict;
pub mod virtualisation;
pub mod watch;
pub mod workload;
