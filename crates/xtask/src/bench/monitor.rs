//! The command lines of the monitors that are compared: the same guest, described to each in its
//! own words.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::program::DEBUG_EXIT_PORT;
use super::record::Arm;

/// Memory of every guest.
pub(super) const MEMORY_MIB: u64 = 128;

/// A guest, without a word about who runs it. It has one processor.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    /// ELF kernel with a PVH note.
    pub(super) kernel: PathBuf,
    /// Its whole command line; nothing for programs that read none.
    pub(super) cmdline: Option<String>,
    /// Disks, in order, each opened read-only or not.
    pub(super) disks: Vec<Disk>,
    /// What is behind its network interface.
    pub(super) net: Option<Network>,
}

/// What is behind a network interface.
#[derive(Clone, Debug)]
pub(super) enum Network {
    /// A TAP interface.
    Tap(String),
    /// The same, its frames moved by the host's kernel; of QEMU alone.
    Vhost(String),
    /// passt, for a guest with this address and this gateway; of ours alone.
    User { guest: &'static str, gateway: &'static str },
}

impl Network {
    fn vmm(&self) -> String {
        match self {
            Self::Tap(tap) | Self::Vhost(tap) => format!("tap={tap}"),
            Self::User { guest, gateway } => format!("user,ip={guest}/24,gateway={gateway}"),
        }
    }

    fn qemu(&self) -> String {
        match self {
            Self::Tap(tap) => format!("tap,id=net,ifname={tap},script=no,downscript=no"),
            Self::Vhost(tap) => {
                format!("tap,id=net,ifname={tap},script=no,downscript=no,vhost=on")
            }
            Self::User { .. } => "user,id=net".to_owned(),
        }
    }
}

/// A raw disk image.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    /// The file.
    pub(super) path: PathBuf,
    /// Whether the guest may only read.
    pub(super) readonly: bool,
    /// How its data moves.
    pub(super) way: Way,
}

/// How a monitor moves the data of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As it does unless told otherwise.
    Default,
    /// Past the host's page cache, by system calls that wait: ours on one thread, QEMU's on many.
    Waiting,
    /// Past the host's page cache, by io_uring.
    IoUring,
}

impl Way {
    fn vmm(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::Waiting => ",engine=sync,direct=on",
            Self::IoUring => ",engine=io_uring,direct=on",
        }
    }

    fn qemu(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::Waiting => ",aio=threads,cache.direct=on",
            Self::IoUring => ",aio=io_uring,cache.direct=on",
        }
    }
}

impl Disk {
    /// The image at `path`, for reading alone.
    pub(super) fn readonly(path: PathBuf) -> Self {
        Self { path, readonly: true, way: Way::Default }
    }

    /// The image at `path`.
    pub(super) fn writable(path: PathBuf) -> Self {
        Self { path, readonly: false, way: Way::Default }
    }
}

impl Guest {
    /// The command that runs the guest under the monitor of `arm`, whose program is `vmm` when it is
    /// ours. The guest's serial port is the command's standard output.
    pub(super) fn command(&self, arm: Arm, vmm: &Path) -> Command {
        let (program, words) = match arm {
            Arm::Ours => (vmm.as_os_str().to_owned(), self.vmm()),
            Arm::Peer => ("qemu-system-x86_64".into(), self.qemu()),
            Arm::Control => ("/bin/true".into(), vec![]),
        };
        let mut command = Command::new(program);
        command.args(words);
        command
    }

    fn vmm(&self) -> Vec<OsString> {
        let mut words = Words::default();
        words.pair("--kernel", self.kernel.as_os_str());
        words.pair("--memory", format!("{MEMORY_MIB}M"));
        if let Some(cmdline) = &self.cmdline {
            words.pair("--cmdline", cmdline);
        }
        for disk in &self.disks {
            let readonly = if disk.readonly { ",readonly=on" } else { "" };
            words.pair("--disk", joined(&["path=", &text(&disk.path), readonly, disk.way.vmm()]));
        }
        if let Some(net) = &self.net {
            words.pair("--net", net.vmm());
        }
        words.0
    }

    /// QEMU's smallest machine without anything it would attach unasked: no timer or interrupt
    /// controller of the PC, no clock, no option ROM, no second I/O APIC (whose interrupts a guest
    /// of KVM does not get); virtio 1 on MMIO and ACPI, as ours.
    fn qemu(&self) -> Vec<OsString> {
        let mut words = Words::default();
        for word in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            words.0.push(word.into());
        }
        words.pair("-display", "none");
        let machine = "microvm,accel=kvm,pit=off,pic=off,rtc=off,ioapic2=off,x-option-roms=off";
        words.pair("-M", machine);
        // The one feature of the host that a KVM virtualised in software cannot lend.
        words.pair("-cpu", "host,-arch-capabilities");
        words.pair("-m", MEMORY_MIB.to_string());
        words.pair("-global", "virtio-mmio.force-legacy=false");
        words.pair("-serial", "stdio");
        words.pair("-kernel", self.kernel.as_os_str());
        match &self.cmdline {
            Some(cmdline) => words.pair("-append", cmdline),
            None => words
                .pair("-device", format!("isa-debug-exit,iobase={DEBUG_EXIT_PORT:#x},iosize=1")),
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let readonly = if disk.readonly { ",readonly=on" } else { "" };
            let file = text(&disk.path);
            let id = format!("id=disk{index},if=none,format=raw,file=");
            words.pair("-drive", joined(&[&id, &file, readonly, disk.way.qemu()]));
            words.pair("-device", format!("virtio-blk-device,drive=disk{index}"));
        }
        if let Some(net) = &self.net {
            words.pair("-netdev", net.qemu());
            words.pair("-device", "virtio-net-device,netdev=net");
        }
        if self.cmdline.is_some() {
            // Ours always has one, and a kernel takes its time with it.
            words.pair("-object", "rng-random,id=rng,filename=/dev/urandom");
            words.pair("-device", "virtio-rng-device,rng=rng");
        }
        words.0
    }
}

#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn pair(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }
}

/// A path as a value among options: both monitors take a doubled comma for one that is meant.
fn text(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

fn joined(parts: &[&str]) -> String {
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;

    fn guest() -> Guest {
        Guest {
            kernel: "k".into(),
            cmdline: None,
            disks: vec![Disk::readonly("a,b".into())],
            net: Some(Network::Tap("tap0".to_owned())),
        }
    }

    #[test]
    fn both_monitors_get_the_same_devices() {
        let line = |arm| command::describe(&guest().command(arm, Path::new("./vmm")));
        assert_eq!(
            line(Arm::Ours),
            "./vmm --kernel k --memory 128M --disk path=a,,b,readonly=on --net tap=tap0"
        );
        let qemu = line(Arm::Peer);
        for part in ["file=a,,b,readonly=on", "virtio-blk-device,drive=disk0", "ifname=tap0"] {
            assert!(qemu.contains(part), "{qemu}");
        }
        assert!(qemu.contains("isa-debug-exit,iobase=0xf4"), "{qemu}");
    }

    #[test]
    fn ways_to_move_data_are_told_to_each() {
        let disk = Disk { way: Way::IoUring, ..Disk::writable("d".into()) };
        let guest = Guest { disks: vec![disk], ..guest() };
        let line = |arm| command::describe(&guest.command(arm, Path::new("vmm")));
        assert!(line(Arm::Ours).contains("path=d,engine=io_uring,direct=on"));
        assert!(line(Arm::Peer).contains("file=d,aio=io_uring,cache.direct=on"));
    }

    #[test]
    fn networks_are_told_to_each() {
        let line = |net, arm| {
            let guest = Guest { net: Some(net), ..guest() };
            command::describe(&guest.command(arm, Path::new("vmm")))
        };
        let vhost = line(Network::Vhost("tap0".to_owned()), Arm::Peer);
        assert!(vhost.contains("ifname=tap0") && vhost.contains("vhost=on"), "{vhost}");
        let user = line(Network::User { guest: "10.0.3.2", gateway: "10.0.3.1" }, Arm::Ours);
        assert!(user.contains("--net user,ip=10.0.3.2/24,gateway=10.0.3.1"), "{user}");
    }

    #[test]
    fn kernels_get_their_command_line_and_no_debug_exit() {
        let guest = Guest { cmdline: Some("quiet".to_owned()), ..guest() };
        let qemu = command::describe(&guest.command(Arm::Peer, Path::new("vmm")));
        assert!(qemu.contains("-append quiet"), "{qemu}");
        assert!(!qemu.contains("isa-debug-exit"), "{qemu}");
    }
}
