//! The emulated host is what the tests that run in it take it for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env::consts::ARCH;
use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;

/// The standard output of a shell's `script`.
fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn kvm_is_that_of_hardware() {
    File::options().read(true).write(true).open("/dev/kvm").unwrap();
    match ARCH {
        "x86_64" => {
            let flags = fs::read_to_string("/proc/cpuinfo").unwrap();
            assert!(flags.split_whitespace().any(|flag| flag == "svm"));
            let nested_paging = fs::read_to_string("/sys/module/kvm_amd/parameters/npt").unwrap();
            assert!(["1", "Y"].contains(&nested_paging.trim()), "{nested_paging}");
        }
        _ => {
            let messages = shell("dmesg");
            for sign in ["Hyp mode initialized successfully", "GICv3"] {
                assert!(messages.contains(sign), "{messages}");
            }
        }
    }
}

/// QEMU makes a virtual machine and its first processor, and is told to leave.
#[test]
fn kvm_makes_a_machine() {
    let machine = if ARCH == "x86_64" { "q35" } else { "virt,gic-version=host" };
    let qemu = format!("qemu-system-{ARCH} -M {machine} -accel kvm -cpu host -m 64");
    shell(&format!("echo quit | {qemu} -nodefaults -S -display none -monitor stdio"));
}

#[test]
fn devices_of_the_trade_are_there() {
    for device in ["/dev/net/tun", "/dev/vhost-net", "/dev/vhost-vsock", "/dev/loop-control"] {
        let kind = fs::metadata(device).map(|metadata| metadata.file_type());
        assert!(kind.is_ok_and(|kind| kind.is_char_device()), "{device}");
    }
}

#[test]
fn modules_load_on_demand() {
    let ip = |line: &str| Command::new("ip").args(line.split(' ')).status().unwrap().success();
    assert!(ip("link add name br-test type bridge"));
    assert!(ip("link add name veth-a type veth peer name veth-b"));
    assert!(ip("link delete dev veth-a"));
    assert!(ip("link delete dev br-test"));
}

#[test]
fn control_groups_are_version_2() {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    assert!(controllers.split_whitespace().any(|name| name == "memory"), "{controllers}");
}

#[test]
fn kernels_and_root_filesystems_are_offered_read_only() {
    let kernels: &[&str] = match ARCH {
        "x86_64" => {
            &["kernels/minimal/vmlinux", "kernels/minimal/bzImage", "kernels/container/vmlinux"]
        }
        _ => &["kernels/minimal/Image", "kernels/container/Image"],
    };
    let files = [
        "kernels/debian/vmlinuz",
        "kernels/debian/initrd",
        "rootfs/busybox.ext4",
        "rootfs/busybox.cpio",
    ];
    for file in kernels.iter().copied().chain(files) {
        let path = Path::new("/srv/vmm").join(file);
        assert!(path.metadata().is_ok_and(|file| file.len() > 0), "{}", path.display());
    }
    assert!(File::create("/srv/vmm/new").is_err());
}

#[test]
fn fresh_programs_are_first_on_the_path() {
    for program in ["vmm", "vmm-agent", "vmm-image"] {
        let search = format!("command -v {program}");
        let output = Command::new("sh").args(["-c", &search]).output().unwrap();
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(found, format!("/usr/local/bin/{program}\n"));
    }
}

/// Of the images made by running programs of theirs there are such for x86_64 alone.
fn only_x86_64(names: &'static [&'static str]) -> &'static [&'static str] {
    if ARCH == "x86_64" { names } else { &[] }
}

#[test]
fn images_are_offered_in_every_form() {
    let further = only_x86_64(&["python", "nginx", "built", "built-zstd"]);
    for layout in ["busybox", "debian", "layers"].iter().chain(further) {
        let mut umoci = Command::new("umoci");
        let output = umoci.args(["list", "--layout"]).arg(format!("/srv/vmm/images/{layout}"));
        let output = output.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "latest\n", "{layout}: {output:?}");
    }
    for archive in only_x86_64(&["built.oci.tar", "built.docker.tar"]) {
        let path = Path::new("/srv/vmm/images").join(archive);
        assert!(path.metadata().is_ok_and(|file| file.len() > 0), "{}", path.display());
    }
}

#[test]
fn store_of_images_was_filled_before_and_can_be_written() {
    let names = fs::read_to_string("/var/lib/vmm/images/names.json").unwrap();
    for name in ["busybox", "debian"].iter().chain(only_x86_64(&["python", "nginx"])) {
        assert!(names.contains(&format!("/{name}:latest\"")), "{names}");
    }
    fs::write("/var/lib/vmm/written", "by a container").unwrap();
}

/// The peers that container semantics are compared with run an image unpacked by umoci.
#[test]
fn image_runs_in_runc_and_in_crun() {
    let unpack = "umoci unpack --image /srv/vmm/images/busybox:latest /srv/peers && \
                  cd /srv/peers && sed -i 's/\"terminal\": true/\"terminal\": false/' config.json && \
                  sed -i 's/\"sh\"/\"sh\",\"-c\",\"exit 42\"/' config.json";
    assert!(Command::new("sh").args(["-c", unpack]).status().unwrap().success());
    for runtime in ["runc", "crun"] {
        let mut run = Command::new(runtime);
        let status = run.args(["run", "--bundle", "/srv/peers", "peer"]).status().unwrap();
        assert_eq!(status.code(), Some(42), "{runtime}");
    }
}
