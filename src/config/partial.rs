//! What one source of configuration says, before the sources are put together.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{
    Balloon, BootProtocol, ConfigError, Console, CpuFeature, Disk, Limit, MAX_CPUS, MemorySize,
    Net, Port, VmConfig, Vsock, parse_switch,
};

/// What one source says: the file and the flags read into the same struct, key by key and flag by
/// flag. Nothing is required and nothing is checked against anything else.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct PartialConfig {
    /// Guest kernel: an ELF vmlinux or a bzImage; on aarch64 an Image
    #[arg(long, value_name = "FILE", help_heading = "Boot")]
    pub kernel: Option<PathBuf>,

    /// Raw image of the root filesystem, the guest's first disk
    #[arg(long, value_name = "IMG", help_heading = "Boot")]
    pub rootfs: Option<PathBuf>,

    /// Open and mount the root filesystem read-only
    #[arg(
        long,
        value_name = "on|off",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "on",
        hide_possible_values = true,
        value_parser = parse_switch,
        help_heading = "Boot"
    )]
    pub rootfs_readonly: Option<bool>,

    /// Initial RAM disk handed to the kernel
    #[arg(long, value_name = "FILE", help_heading = "Boot")]
    pub initrd: Option<PathBuf>,

    /// Kernel command line, replacing the default one
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Boot")]
    pub cmdline: Option<String>,

    /// Words added after the kernel command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Boot")]
    pub append: Option<String>,

    /// How the kernel is entered [default: auto]
    #[arg(long, value_name = "PROTOCOL", help_heading = "Boot")]
    pub boot_protocol: Option<BootProtocol>,

    /// Number of virtual CPUs, 1 to 64 [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Machine")]
    pub cpus: Option<u64>,

    /// Give the CPUs what they lack unless asked, on aarch64: performance counters, pointer
    /// authentication, vectors of variable length
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Machine")]
    pub cpu_features: Vec<CpuFeature>,

    /// Guest memory with its unit, such as 512M or 2G [default: 256M]
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    pub memory: Option<MemorySize>,

    /// Add a disk backed by a raw image; repeatable
    #[arg(
        long,
        value_name = "path=FILE,readonly=on|off,id=ID,engine=sync|io_uring,direct=on|off,overlay=FILE,queues=N",
        help_heading = "Machine"
    )]
    pub disk: Vec<Disk>,

    /// Add a network interface on a TAP device, or without privilege on passt; repeatable
    #[arg(long, value_name = "tap=NAME|user,ip=ADDR/N,...", help_heading = "Machine")]
    pub net: Vec<Net>,

    /// Add a socket device: host programs connect to the Unix socket FILE, the guest's to FILE_PORT
    #[arg(long, value_name = "cid=N,socket=FILE", help_heading = "Machine")]
    pub vsock: Option<Vsock>,

    /// Let the guest give memory back: an empty balloon, or one of `size` that takes it
    #[arg(
        long,
        value_name = "size=SIZE,statistics=1s,...",
        num_args = 0..=1,
        default_missing_value = "size=0M",
        help_heading = "Machine"
    )]
    pub balloon: Option<Balloon>,

    /// Limit what passes through a device; repeatable
    #[arg(
        long,
        value_name = "device=NAME,direction=send|receive,bandwidth=SIZE,ops=N",
        help_heading = "Machine"
    )]
    pub limit: Vec<Limit>,

    /// Append counters to a file every minute, on SIGUSR1 and at the end
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub metrics: Option<PathBuf>,

    /// Connect the console: serial or virtio to this terminal, pty, file=PATH, off [default: serial]
    #[arg(long, value_name = "WHERE", help_heading = "Machine")]
    pub console: Option<Console>,

    /// Connect /dev/virtio-ports/NAME of the guest to a unix socket of the host; repeatable
    #[arg(long, value_name = "name=NAME,socket=PATH", help_heading = "Machine")]
    pub port: Vec<Port>,

    /// Describe the machine by ACPI tables, or by an MP table and the command line [default: on]
    #[arg(
        long,
        value_name = "on|off",
        hide_possible_values = true,
        value_parser = parse_switch,
        help_heading = "Machine"
    )]
    pub acpi: Option<bool>,
}

impl PartialConfig {
    /// Lays `self` over `base`: what `self` says wins, what it leaves out comes from `base`. A list
    /// of features, disks, networks, limits or ports replaces the whole list beneath it, and a balloon the
    /// whole balloon.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            kernel: self.kernel.or(base.kernel),
            rootfs: self.rootfs.or(base.rootfs),
            rootfs_readonly: self.rootfs_readonly.or(base.rootfs_readonly),
            initrd: self.initrd.or(base.initrd),
            cmdline: self.cmdline.or(base.cmdline),
            append: self.append.or(base.append),
            boot_protocol: self.boot_protocol.or(base.boot_protocol),
            cpus: self.cpus.or(base.cpus),
            cpu_features: unless_empty(self.cpu_features, base.cpu_features),
            memory: self.memory.or(base.memory),
            disk: unless_empty(self.disk, base.disk),
            net: unless_empty(self.net, base.net),
            vsock: self.vsock.or(base.vsock),
            balloon: self.balloon.or(base.balloon),
            limit: unless_empty(self.limit, base.limit),
            metrics: self.metrics.or(base.metrics),
            console: self.console.or(base.console),
            port: unless_empty(self.port, base.port),
            acpi: self.acpi.or(base.acpi),
        }
    }

    /// Fills in the defaults.
    ///
    /// # Errors
    /// When no source names a kernel, or the number of CPUs is not 1 to [`MAX_CPUS`].
    pub fn resolve(self) -> Result<VmConfig, ConfigError> {
        let cpus = self.cpus.unwrap_or(1);
        let in_range = u8::try_from(cpus).ok().filter(|cpus| (1..=MAX_CPUS).contains(cpus));
        Ok(VmConfig {
            kernel: self.kernel.ok_or(ConfigError::NoKernel)?,
            boot_protocol: self.boot_protocol.unwrap_or_default(),
            initrd: self.initrd,
            cmdline: self.cmdline,
            append: self.append,
            rootfs: self.rootfs,
            rootfs_readonly: self.rootfs_readonly.unwrap_or(false),
            cpus: in_range.ok_or(ConfigError::Cpus(cpus))?,
            cpu_features: self.cpu_features,
            memory: self.memory.unwrap_or(MemorySize::from_mib(256)),
            disks: self.disk,
            nets: self.net,
            vsock: self.vsock,
            balloon: self.balloon,
            limits: self.limit,
            metrics: self.metrics,
            console: self.console.unwrap_or_default(),
            ports: self.port,
            acpi: self.acpi.unwrap_or(true),
        })
    }

    /// Makes every relative path start at `directory`.
    pub(super) fn rebase(&mut self, directory: &Path) {
        let files = [&mut self.kernel, &mut self.rootfs, &mut self.initrd, &mut self.metrics]
            .into_iter()
            .flatten();
        let disks = self
            .disk
            .iter_mut()
            .flat_map(|disk| [Some(&mut disk.path), disk.overlay.as_mut()].into_iter().flatten());
        let ports = self.port.iter_mut().map(|port| &mut port.socket);
        let sockets = self.vsock.iter_mut().map(|vsock| &mut vsock.socket).chain(ports);
        let console = match &mut self.console {
            Some(Console::File(path)) => Some(path),
            _ => None,
        };
        for path in files.chain(disks).chain(sockets).chain(console) {
            // Joining an empty path would turn "no file" into the directory.
            if !path.as_os_str().is_empty() {
                *path = directory.join(&*path);
            }
        }
    }
}

/// The list of a source, or `base` where it has none.
fn unless_empty<T>(list: Vec<T>, base: Vec<T>) -> Vec<T> {
    if list.is_empty() { base } else { list }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_kernel() -> PartialConfig {
        PartialConfig { kernel: Some("vmlinux".into()), ..PartialConfig::default() }
    }

    #[test]
    fn defaults_are_one_cpu_256_mib_serial_console_and_acpi() {
        let config = with_kernel().resolve().expect("a kernel is enough");
        assert_eq!(config.cpus, 1);
        assert_eq!(config.memory, MemorySize::from_mib(256));
        assert_eq!(config.console, Console::Serial);
        assert_eq!(config.boot_protocol, BootProtocol::Auto);
        assert!(config.acpi && !config.rootfs_readonly);
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = PartialConfig { cpus: Some(2), acpi: Some(false), ..with_kernel() };
        let flags = PartialConfig { cpus: Some(4), ..PartialConfig::default() };
        let config = flags.over(file).resolve().expect("valid");
        assert_eq!((config.cpus, config.acpi), (4, false));
    }

    #[test]
    fn disks_of_the_flags_replace_those_of_the_file() {
        let disk = |path: &str| Disk::new(path);
        let file = PartialConfig { disk: vec![disk("a"), disk("b")], ..with_kernel() };
        let flags = PartialConfig { disk: vec![disk("c")], ..PartialConfig::default() };
        let config = flags.over(file).resolve().expect("valid");
        assert_eq!(config.disks, [disk("c")]);
    }

    #[test]
    fn features_of_the_flags_replace_those_of_the_file() {
        let features = |features: &[CpuFeature]| PartialConfig {
            cpu_features: features.to_vec(),
            ..with_kernel()
        };
        let file = features(&[CpuFeature::Pmu, CpuFeature::Sve]);
        for (flags, expected) in [
            (&[][..], &[CpuFeature::Pmu, CpuFeature::Sve][..]),
            (&[CpuFeature::Pauth], &[CpuFeature::Pauth]),
        ] {
            let config = features(flags).over(file.clone()).resolve().expect("valid");
            assert_eq!(config.cpu_features, expected);
        }
    }

    #[test]
    fn cpus_outside_1_to_64_are_refused_with_the_number() {
        for cpus in [0, 65, 256, 1 << 32, u64::MAX] {
            let partial = PartialConfig { cpus: Some(cpus), ..with_kernel() };
            let error = partial.resolve().expect_err("out of range").to_string();
            assert!(error.contains(&cpus.to_string()), "{error}");
        }
    }

    #[test]
    fn rebase_moves_relative_paths_only() {
        let mut partial = PartialConfig {
            kernel: Some("vmlinux".into()),
            initrd: Some("/boot/initrd".into()),
            disk: vec![Disk::new("data.img")],
            console: Some(Console::File("log".into())),
            port: vec![Port { name: "a".into(), socket: "a.sock".into() }],
            vsock: Some(Vsock { cid: 3, socket: "vm.vsock".into() }),
            ..PartialConfig::default()
        };
        partial.rebase(Path::new("/etc/vm"));
        assert_eq!(partial.kernel.as_deref(), Some(Path::new("/etc/vm/vmlinux")));
        assert_eq!(partial.initrd.as_deref(), Some(Path::new("/boot/initrd")));
        assert_eq!(partial.disk[0].path, Path::new("/etc/vm/data.img"));
        assert_eq!(partial.console, Some(Console::File("/etc/vm/log".into())));
        assert_eq!(partial.port[0].socket, Path::new("/etc/vm/a.sock"));
        assert_eq!(partial.vsock.expect("kept").socket, Path::new("/etc/vm/vm.vsock"));
    }
}
