//! What follows from the kernel's options, the root filesystem and the machine together.

use super::Finding;
use super::initrd::Packing;
use super::options::{Options, Setting};
use super::rootfs::Rootfs;
use crate::config::{Console, VmConfig};

/// What the options of the kernel leave missing, for a machine of this architecture.
///
/// `initrd` is absent without an initial RAM disk and holds `None` for one that is not packed.
pub(super) fn kernel_options(
    (config, machine): (&VmConfig, &str),
    options: &Options,
    initrd: Option<Option<Packing>>,
    rootfs: Option<&Rootfs>,
) -> Vec<Finding> {
    let rules = Rules { config, machine, options, has_initrd: initrd.is_some() };
    let mut findings = Vec::new();
    findings.extend(rules.unpacking(initrd));
    findings.extend(rules.root());
    findings.extend(rules.discovery());
    findings.extend(rules.root_disk());
    findings.extend(rules.root_filesystem(rootfs));
    findings.extend(rules.comforts());
    findings
}

/// What follows from the root filesystem alone.
pub(super) fn rootfs(config: &VmConfig, rootfs: Option<&Rootfs>) -> Option<Finding> {
    match rootfs? {
        Rootfs::Filesystem { name, needs_recovery: true, .. } if config.rootfs_readonly => {
            Some(Finding::warning(
                format!(
                    "rootfs was not unmounted cleanly: {name} cannot replay its journal read-only"
                ),
                "repair it with e2fsck -p, or boot it writable once",
            ))
        }
        Rootfs::Partitioned if config.cmdline.is_none() && config.append.is_none() => {
            Some(Finding::warning(
                "rootfs is a disk with partitions, and the guest looks for its root on /dev/vda",
                "add --append root=/dev/vda1 with the number of the partition",
            ))
        }
        Rootfs::Unknown => Some(Finding::warning(
            "rootfs holds no filesystem that is known here",
            "make one with mke2fs -d DIRECTORY root.img SIZE",
        )),
        _ => None,
    }
}

struct Rules<'a> {
    config: &'a VmConfig,
    /// Its architecture.
    machine: &'a str,
    options: &'a Options,
    has_initrd: bool,
}

impl Rules<'_> {
    /// Whether the kernel has none of `name`, or only a module that nothing can load before the
    /// root filesystem is mounted; in words.
    fn missing(&self, name: &str) -> Option<String> {
        match self.options.get(name) {
            Setting::BuiltIn => None,
            Setting::Module if self.has_initrd => None,
            Setting::Module => Some(format!("CONFIG_{name}=m and no initrd to load it from")),
            Setting::Absent => Some(format!("no CONFIG_{name}")),
        }
    }

    fn absent(&self, name: &str) -> bool {
        self.options.get(name) == Setting::Absent
    }

    /// A finding about mounting the root filesystem. With a command line of the user's own the root
    /// may be elsewhere.
    fn about_root(&self, what: String, fix: &str) -> Finding {
        Finding { fatal: self.config.cmdline.is_none(), what, fix: fix.to_owned() }
    }

    fn unpacking(&self, initrd: Option<Option<Packing>>) -> Option<Finding> {
        let packing = initrd?;
        if self.absent("BLK_DEV_INITRD") {
            return Some(Finding::error(
                "kernel has no CONFIG_BLK_DEV_INITRD, and an initrd is given",
                "leave --initrd out, or use a kernel that has it",
            ));
        }
        let Packing { name, option } = packing?;
        self.absent(option).then(|| {
            Finding::error(
                format!("initrd is packed with {name}, kernel has no CONFIG_{option}"),
                "give the initrd unpacked, or use a kernel that has it",
            )
        })
    }

    /// Whether there is anything for the kernel to start.
    fn root(&self) -> Option<Finding> {
        let VmConfig { rootfs, disks, cmdline, append, .. } = self.config;
        let given = rootfs.is_some() || self.has_initrd || !disks.is_empty();
        // With words of the user's own on the command line the root may come from elsewhere.
        let told = cmdline.is_some() || append.is_some();
        (!given && !told && !self.options.has_text("INITRAMFS_SOURCE")).then(|| {
            Finding::warning(
                "neither a rootfs nor an initrd is given: the kernel finds nothing to start",
                "add --rootfs IMG or --initrd FILE",
            )
        })
    }

    /// How the guest finds its devices.
    fn discovery(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let config = self.config;
        if self.machine == "x86_64" {
            findings.extend(self.discovery_on_x86_64());
        }
        if config.cpus > 1 && self.absent("SMP") {
            findings.push(Finding::warning(
                "kernel has no CONFIG_SMP: it uses one CPU",
                "use --cpus 1, or a kernel that has it",
            ));
        }
        findings
    }

    /// By ACPI tables, or by the command line and the MP table. Other architectures have device trees, which
    /// their kernels cannot do without.
    fn discovery_on_x86_64(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let config = self.config;
        if config.acpi && self.absent("ACPI") {
            findings.push(self.about_devices("ACPI", "add --acpi off"));
        }
        if !config.acpi && self.absent("VIRTIO_MMIO_CMDLINE_DEVICES") {
            findings
                .push(self.about_devices("VIRTIO_MMIO_CMDLINE_DEVICES", "leave --acpi off out"));
        }
        if !config.acpi && config.cpus > 1 && self.absent("X86_MPPARSE") {
            findings.push(Finding::warning(
                "kernel has no CONFIG_X86_MPPARSE: without ACPI it finds one CPU",
                "leave --acpi off out",
            ));
        }
        findings
    }

    /// Without the option the guest finds no disk and no network: fatal where its root is on one.
    fn about_devices(&self, option: &str, fix: &str) -> Finding {
        let what = format!("kernel has no CONFIG_{option}: it finds no disk and no network");
        match self.config.rootfs {
            Some(_) => self.about_root(what, fix),
            None => Finding::warning(what, fix),
        }
    }

    fn root_disk(&self) -> Vec<Finding> {
        if self.config.rootfs.is_none() {
            return Vec::new();
        }
        let drivers = ["VIRTIO_MMIO", "VIRTIO_BLK"];
        let missing = drivers.into_iter().filter_map(|name| self.missing(name));
        let finding = |missing| {
            let what = format!("kernel has {missing}, rootfs is on /dev/vda");
            self.about_root(what, "use a kernel that has it built in")
        };
        missing.map(finding).collect()
    }

    fn root_filesystem(&self, rootfs: Option<&Rootfs>) -> Vec<Finding> {
        let Some(Rootfs::Filesystem { name, options, .. }) = rootfs else { return Vec::new() };
        let missing = options.iter().filter_map(|option| self.missing(option));
        let finding = |missing| {
            let what = format!("rootfs is {name}, kernel has {missing}");
            self.about_root(what, "use a kernel that has it built in, or another filesystem")
        };
        missing.map(finding).collect()
    }

    /// What the guest boots without, but the user expects.
    fn comforts(&self) -> Vec<Finding> {
        let config = self.config;
        let disks = config.rootfs.is_none() && !config.disks.is_empty();
        let address = config.nets.iter().any(|net| net.ip.is_some());
        let serial = !matches!(config.console, Console::Virtio | Console::Off);
        let wanted = [
            (serial, "SERIAL_8250_CONSOLE", "the console stays empty"),
            (config.console == Console::Virtio, "VIRTIO_CONSOLE", "the console stays empty"),
            (!config.ports.is_empty(), "VIRTIO_CONSOLE", "it sees no --port"),
            (disks, "VIRTIO_BLK", "it sees no --disk"),
            (!config.nets.is_empty(), "VIRTIO_NET", "it sees no --net"),
            (config.vsock.is_some(), "VIRTIO_VSOCKETS", "it sees no --vsock"),
            (config.balloon.is_some(), "VIRTIO_BALLOON", "it gives no memory back"),
            (address, "IP_PNP", "it leaves the ip= of --net to the guest's own programs"),
        ];
        let missing =
            wanted.into_iter().filter(|(wanted, option, _)| *wanted && self.absent(option));
        let finding = |(_, option, effect): (bool, &str, &str)| {
            let what = format!("kernel has no CONFIG_{option}: {effect}");
            Finding::warning(what, "use a kernel that has it")
        };
        missing.map(finding).collect()
    }
}
