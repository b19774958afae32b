//! What the user asked for, as plain data: one struct per noun, shared by the configuration file,
//! the command line and the constructors of the devices.
//!
//! A [`PartialConfig`] is read from the file and another from the flags; [`PartialConfig::over`]
//! lays one over the other, [`PartialConfig::resolve`] fills in the defaults and
//! [`VmConfig::validate`] refuses what cannot work. Nothing here touches the host except reading
//! the file in [`load`] and the host's limits in [`Host::read`].

mod address;
mod balloon;
mod console;
mod cpu_feature;
mod disk;
mod error;
mod file;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod key_value;
mod limit;
mod load;
mod net;
mod partial;
mod port;
mod publish;
mod size;
mod validate;
mod vsock;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use address::{Ipv4Network, Ipv4NetworkError};
pub use balloon::{Balloon, Interval, IntervalError};
pub use console::{Console, ConsoleError};
pub use cpu_feature::CpuFeature;
pub use disk::{Disk, Engine};
pub use error::ConfigError;
pub use file::{FileError, open_appended, open_image, open_regular};
pub use key_value::{KeyValueError, parse_key_values, parse_switch};
pub use limit::{Limit, LimitDirection};
pub use load::{MAX_FILE_LEN, load, load_toml};
pub use net::{MacAddress, MacAddressError, Net};
pub use partial::PartialConfig;
pub use port::Port;
pub use publish::{Protocol, Publish, PublishError};
pub use size::{MemorySize, MemorySizeError};
pub use validate::Host;
pub use vsock::Vsock;

/// Most virtual CPUs one machine can have.
pub const MAX_CPUS: u8 = 64;

/// Least guest memory with which a Linux guest is worth starting.
pub const MIN_MEMORY: MemorySize = MemorySize::from_mib(32);

/// Guest memory comes in steps of this size, so that all of it can be backed by huge pages.
pub const MEMORY_STEP: MemorySize = MemorySize::from_mib(2);

/// Longest kernel command line in bytes, without its terminating NUL (`COMMAND_LINE_SIZE` of
/// Linux is 2048, NUL included).
pub const MAX_CMDLINE_LEN: usize = 2047;

/// Most virtio devices of one machine: each takes an MMIO window and an interrupt line.
pub const MAX_VIRTIO_DEVICES: usize = 18;

/// The name of the virtio console device: see [`VmConfig::device_names`].
pub const CONSOLE_NAME: &str = "console";

/// A virtual machine as the user wants it.
///
/// Made by [`PartialConfig::resolve`]; [`VmConfig::validate`] says whether it can be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmConfig {
    /// The guest kernel: an uncompressed ELF `vmlinux` or a `bzImage`; on aarch64 an `Image`, which may be
    /// compressed.
    pub kernel: PathBuf,
    /// How the kernel is entered.
    pub boot_protocol: BootProtocol,
    /// Initial RAM disk handed to the kernel.
    pub initrd: Option<PathBuf>,
    /// Kernel command line that replaces the default one.
    pub cmdline: Option<String>,
    /// Words added after the command line.
    pub append: Option<String>,
    /// Raw image of the root filesystem, the first disk of the guest.
    pub rootfs: Option<PathBuf>,
    /// Whether the root filesystem is opened and mounted read-only.
    pub rootfs_readonly: bool,
    /// Number of virtual CPUs, 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// What they have besides what every guest's have.
    pub cpu_features: Vec<CpuFeature>,
    /// Guest memory.
    pub memory: MemorySize,
    /// Further disks, in the order in which the guest sees them.
    #[serde(rename = "disk")]
    pub disks: Vec<Disk>,
    /// Network interfaces, in the order in which the guest sees them.
    #[serde(rename = "net")]
    pub nets: Vec<Net>,
    /// Socket device, where there is one.
    pub vsock: Option<Vsock>,
    /// The memory balloon; without one the guest cannot give memory back.
    pub balloon: Option<Balloon>,
    /// How much may pass through the devices.
    #[serde(rename = "limit")]
    pub limits: Vec<Limit>,
    /// File that gets lines of counters.
    pub metrics: Option<PathBuf>,
    /// What the guest's console is connected to.
    pub console: Console,
    /// Named ports between the guest and sockets of the host.
    #[serde(rename = "port")]
    pub ports: Vec<Port>,
    /// Whether the guest is described by ACPI tables; otherwise by an MP table and the command
    /// line. On aarch64 it is always described by a device tree.
    pub acpi: bool,
}

impl VmConfig {
    /// Every disk of the guest in order, each with its id filled in: the root filesystem, where
    /// there is one, as `rootfs`, then the disks as `disk0`, `disk1` and so on unless named.
    pub fn drives(&self) -> Vec<Disk> {
        let rootfs = self.rootfs.iter().map(|path| Disk {
            readonly: self.rootfs_readonly,
            id: Some("rootfs".to_owned()),
            ..Disk::new(path)
        });
        let disks = self.disks.iter().enumerate().map(|(index, disk)| Disk {
            id: Some(disk.id.clone().unwrap_or_else(|| format!("disk{index}"))),
            ..disk.clone()
        });
        rootfs.chain(disks).collect()
    }

    /// The names of the virtio devices in the guest's order: disks by their ids, `net0`, `net1` and
    /// so on, `rng`, `vsock`, `balloon` and `console`.
    pub fn device_names(&self) -> Vec<String> {
        let disks = self.drives().into_iter().filter_map(|disk| disk.id);
        let nets = (0..self.nets.len()).map(|index| format!("net{index}"));
        let others = [
            ("rng", true),
            ("vsock", self.vsock.is_some()),
            ("balloon", self.balloon.is_some()),
            (CONSOLE_NAME, self.has_virtio_console()),
        ];
        let others = others.into_iter().filter(|(_, exists)| *exists);
        disks.chain(nets).chain(others.map(|(name, _)| name.to_owned())).collect()
    }

    /// Whether the machine has a virtio console device: for its console, for its ports, or both.
    pub fn has_virtio_console(&self) -> bool {
        self.console == Console::Virtio || !self.ports.is_empty()
    }
}

/// How the guest kernel is entered.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BootProtocol {
    /// PVH when the kernel carries its note, otherwise the 64-bit protocol.
    #[default]
    Auto,
    /// The 32-bit entry of the Xen PVH note (Xen: docs/misc/pvh.pandoc).
    Pvh,
    /// The 64-bit entry of the Linux boot protocol (Linux: boot.rst, 64-bit Boot Protocol).
    Linux64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_yields_the_rootfs_first_and_fills_in_ids() {
        let config = PartialConfig {
            kernel: Some("vmlinux".into()),
            rootfs: Some("root.img".into()),
            rootfs_readonly: Some(true),
            disk: vec![
                Disk { id: Some("data".into()), ..Disk::new("a") },
                Disk { readonly: true, ..Disk::new("b") },
            ],
            ..PartialConfig::default()
        }
        .resolve()
        .expect("a kernel is given");

        let drives: Vec<_> = config
            .drives()
            .into_iter()
            .map(|disk| (disk.id.unwrap_or_default(), disk.path, disk.readonly))
            .collect();
        assert_eq!(
            drives,
            [
                ("rootfs".to_owned(), PathBuf::from("root.img"), true),
                ("data".to_owned(), PathBuf::from("a"), false),
                ("disk1".to_owned(), PathBuf::from("b"), true),
            ]
        );
    }
}
