//! Why a machine could not be built.

use std::io;

use thiserror::Error;

use crate::arch::{BootDataError, CpuError, InitrdError, KernelError};
use crate::bus::BusError;
use crate::config::FileError;
use crate::devices::virtio::UpdateError;
use crate::devices::virtio::block::DiskError;
use crate::devices::virtio::net::{PasstError, TapError};
use crate::devices::virtio::vsock::VsockError;
use crate::kvm::VmError;
use crate::listener::ListenError;

/// Why a machine could not be built.
#[derive(Debug, Error)]
pub enum MachineError {
    /// A file the user named cannot be opened.
    #[error("{noun}")]
    File {
        /// What the file is for.
        noun: &'static str,
        /// What is wrong with it.
        #[source]
        source: FileError,
    },
    /// A disk cannot be used.
    #[error("disk {id}")]
    Disk {
        /// The disk's id.
        id: String,
        /// What is wrong with it.
        #[source]
        source: DiskError,
    },
    /// A network interface cannot be used.
    #[error("network interface {tap}")]
    Net {
        /// Name of the TAP interface.
        tap: String,
        /// What is wrong with it.
        #[source]
        source: TapError,
    },
    /// The socket device cannot be had.
    #[error("vsock")]
    Vsock {
        /// What is wrong with its socket.
        #[source]
        source: VsockError,
    },
    /// The balloon's timer cannot be had.
    #[error("create a timer for the balloon")]
    Balloon(#[source] io::Error),
    /// A user network cannot be had.
    #[error("user network")]
    UserNet(#[from] PasstError),
    /// A named port cannot be had.
    #[error("port {name}")]
    Port {
        /// Name of the port.
        name: String,
        /// What is wrong with its socket.
        #[source]
        source: ListenError,
    },
    /// The host gave no pseudo-terminal.
    #[error("make a pseudo-terminal for the console")]
    Pty(#[source] io::Error),
    /// Guest memory cannot be had.
    #[error("allocate {mib} MiB of guest memory")]
    Memory {
        /// Size in MiB.
        mib: u64,
        /// What the host said.
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    /// Guest memory beyond what the processor addresses.
    #[error("{mib} MiB of guest memory: this host's guests have {bits} bits of addresses")]
    AddressSpace {
        /// Size in MiB.
        mib: u64,
        /// Bits of a guest physical address.
        bits: u8,
    },
    /// KVM refused.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// A vCPU could not be made.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The kernel cannot be booted.
    #[error("kernel {path}")]
    Kernel {
        /// Path of the kernel.
        path: String,
        /// What is wrong with it.
        #[source]
        source: KernelError,
    },
    /// The initial RAM disk cannot be loaded.
    #[error("initrd {path}")]
    Initrd {
        /// Path of the initial RAM disk.
        path: String,
        /// What is wrong with it.
        #[source]
        source: InitrdError,
    },
    /// The guest cannot be told what it runs on.
    #[error(transparent)]
    BootData(#[from] BootDataError),
    /// A limit cannot be set.
    #[error("limit {device}")]
    Limit {
        /// Name of the device.
        device: String,
        /// What is wrong.
        #[source]
        source: UpdateError,
    },
    /// A vCPU has no statistics.
    #[error("open the statistics of a vCPU for --metrics; they need Linux 5.14")]
    Stats(#[source] io::Error),
    /// More devices than there are places.
    #[error("no room for virtio device {0}")]
    TooManyDevices(usize),
    /// Two devices at one address: a mistake of the layout.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The host gave no eventfd.
    #[error("create an eventfd")]
    EventFd(#[source] io::Error),
}
