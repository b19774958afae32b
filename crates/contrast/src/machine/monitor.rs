//! The command lines of monitors: the same guest, described to each in its own words. All have one processor, the same
//! memory, the image as a read-only disk and a serial port on their standard output, and no network.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{Guest, Place};

/// A program that makes machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Monitor {
    /// Our own, as `vmm --kernel ...`.
    Vmm,
    /// QEMU's smallest machine.
    QemuMicrovm,
    /// Firecracker without its interface for programs.
    Firecracker,
    /// Cloud Hypervisor.
    CloudHypervisor,
}

impl Monitor {
    /// The name of its program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Vmm => "vmm",
            Self::QemuMicrovm => "qemu-system-x86_64",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }

    /// Where its guests find the image. Cloud Hypervisor has disks on PCI alone, which our kernel leaves out.
    pub const fn place(self) -> Place {
        match self {
            Self::CloudHypervisor => Place::Memory,
            _ => Place::Disk,
        }
    }

    /// The process that is the machine, for the run of this name. Its standard output is the guest's serial port.
    pub fn command(self, program: &Path, guest: &Guest, name: &str) -> Command {
        let mut command = Command::new(program);
        command.args(match self {
            Self::Vmm => vmm(guest, name),
            Self::QemuMicrovm => qemu(guest, name),
            Self::Firecracker => firecracker(guest, name),
            Self::CloudHypervisor => cloud_hypervisor(guest, name),
        });
        command
    }
}

#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn pair(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }
}

/// A path as a value among options: ours and QEMU take a doubled comma for one that is meant.
fn text(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

fn vmm(guest: &Guest, name: &str) -> Vec<OsString> {
    let mut words = Words::default();
    words.pair("--kernel", &guest.kernel);
    words.pair("--initrd", &guest.initrd);
    words.pair("--memory", format!("{}M", guest.memory));
    words.pair("--cmdline", guest.command_line(name, false));
    if let Some(disk) = &guest.disk {
        words.pair("--disk", format!("path={},readonly=on", text(disk)));
    }
    words.0.push("--timing=json".into());
    words.0
}

/// Without anything it would attach unasked: no timer or interrupt controller of the PC, no clock, no option ROM, no
/// second I/O APIC (whose interrupts a guest of KVM does not get); virtio 1 on MMIO and ACPI, as ours.
fn qemu(guest: &Guest, name: &str) -> Vec<OsString> {
    let mut words = Words::default();
    words.0.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from));
    words.pair("-display", "none");
    words.pair("-M", "microvm,accel=kvm,pit=off,pic=off,rtc=off,ioapic2=off,x-option-roms=off");
    // The one feature of the host that a KVM virtualised in software cannot lend.
    words.pair("-cpu", "host,-arch-capabilities");
    words.pair("-m", guest.memory.to_string());
    words.pair("-global", "virtio-mmio.force-legacy=false");
    words.pair("-serial", "stdio");
    words.pair("-kernel", &guest.kernel);
    words.pair("-initrd", &guest.initrd);
    words.pair("-append", guest.command_line(name, false));
    if let Some(disk) = &guest.disk {
        let file = text(disk);
        words.pair("-drive", format!("id=image,if=none,format=raw,readonly=on,file={file}"));
        words.pair("-device", "virtio-blk-device,drive=image");
    }
    // Ours always has one, and a kernel takes its time with it.
    words.pair("-object", "rng-random,id=rng,filename=/dev/urandom");
    words.pair("-device", "virtio-rng-device,rng=rng");
    words.0
}

/// It takes its machine from a file alone, and ends when its guest resets. What it says itself goes where its guest's
/// serial port goes, so that it is to say failures alone.
fn firecracker(guest: &Guest, name: &str) -> Vec<OsString> {
    let file = guest.directory.join(format!("{name}.json"));
    // Without the file it will say so, and the run has failed.
    let _ = fs::write(&file, firecracker_config(guest, name).to_string());
    let mut words = Words(vec!["--no-api".into()]);
    words.pair("--config-file", file);
    words.pair("--level", "Error");
    words.0
}

/// Its configuration: what follows `reboot=` and `pci=` spares the guest a search for what is not there.
fn firecracker_config(guest: &Guest, name: &str) -> Value {
    let drive = |disk: &Path| json!({"drive_id": "image", "path_on_host": disk, "is_root_device": false, "is_read_only": true});
    json!({
        "boot-source": {
            "kernel_image_path": guest.kernel,
            "initrd_path": guest.initrd,
            "boot_args": format!("{} reboot=k pci=off", guest.command_line(name, true)),
        },
        "drives": guest.disk.iter().map(|disk| drive(disk)).collect::<Vec<_>>(),
        "machine-config": {"vcpu_count": 1, "mem_size_mib": guest.memory},
    })
}

/// Without a disk: see [`Monitor::place`].
fn cloud_hypervisor(guest: &Guest, name: &str) -> Vec<OsString> {
    let mut words = Words::default();
    words.pair("--kernel", &guest.kernel);
    words.pair("--initramfs", &guest.initrd);
    words.pair("--cmdline", guest.command_line(name, false));
    words.pair("--cpus", "boot=1");
    words.pair("--memory", format!("size={}M", guest.memory));
    words.pair("--serial", "tty");
    words.pair("--console", "off");
    words.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(monitor: Monitor, guest: &Guest) -> String {
        let command = monitor.command(Path::new("program"), guest, "one");
        command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_monitor_is_told_the_same_in_its_own_words() {
        let guest = Guest::without_files();
        let token = format!("console=ttyS0 quiet panic=-1 VMM_TOKEN={}", guest.token("one"));
        let parts: [(Monitor, &[&str]); 3] = [
            (
                Monitor::Vmm,
                &["--kernel /k", "--initrd /i", "--disk path=/d,,1,readonly=on", "--memory 512M"],
            ),
            (
                Monitor::QemuMicrovm,
                &["-kernel /k", "-initrd /i", "readonly=on,file=/d,,1", "-m 512", "microvm"],
            ),
            (
                Monitor::CloudHypervisor,
                &["--kernel /k", "--initramfs /i", "size=512M", "--serial tty --console off"],
            ),
        ];
        for (monitor, parts) in parts {
            let line = line(monitor, &guest);
            assert!(line.contains(&token), "{line}");
            parts.iter().for_each(|part| assert!(line.contains(part), "{part}: {line}"));
        }
    }

    #[test]
    fn firecracker_reads_its_machine_from_a_file() {
        let top = tempfile::tempdir().unwrap();
        let guest = Guest { directory: top.path().to_owned(), ..Guest::without_files() };
        let line = line(Monitor::Firecracker, &guest);
        let file = top.path().join("one.json");
        assert_eq!(line, format!("--no-api --config-file {} --level Error", file.display()));
        let config: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        assert_eq!(config["drives"][0]["is_read_only"], true);
        assert_eq!(config["machine-config"]["vcpu_count"], 1);
        let args = config["boot-source"]["boot_args"].as_str().unwrap();
        assert!(args.contains(" VMM_END=reset reboot=k pci=off"), "{args}");
    }
}
