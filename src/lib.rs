//! A lightweight KVM-backed hypervisor: each workload gets its own guest kernel.
//!
//! A module uses only modules of a lower rank:
//!
//! | module | what it is | rank |
//! |---|---|---|
//! | [`cli`] | the command line: one file per command | 6 |
//! | [`container`] | containers, each in a machine of its own: state, keeper, commands' connections | 5 |
//! | [`control`] | the owner of a machine: event loop, end, explanation | 4 |
//! | [`machine`] | the assembled computer, built from a configuration | 3 |
//! | [`doctor`] | what this host can run, found by trying | 3 |
//! | [`preflight`] | what a kernel and a root filesystem cannot do together | 3 |
//! | [`kvm`] | the objects that own KVM's file descriptors | 2 |
//! | [`arch`] | what differs between processor architectures | 1 |
//! | [`devices`] | serial port, power registers, virtio | 1 |
//! | [`config`] | what the user asked for, as plain data | 0 |
//! | [`bus`], [`memory`], [`listener`], [`metrics`], [`rate_limiter`] | addresses to devices; guest memory; unix sockets; counters; token buckets | 0 |

pub mod arch;
pub mod bus;
pub mod cli;
pub mod config;
pub mod container;
pub mod control;
pub mod devices;
pub mod doctor;
pub mod kvm;
pub mod listener;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod preflight;
pub mod rate_limiter;
