//! The emulated host is what the tests that run in it take it for.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;

#[test]
fn kvm_is_hardware_svm_with_nested_paging() {
    File::options().read(true).write(true).open("/dev/kvm").unwrap();
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap();
    assert!(flags.split_whitespace().any(|flag| flag == "svm"));
    let nested_paging = fs::read_to_string("/sys/module/kvm_amd/parameters/npt").unwrap();
    assert!(["1", "Y"].contains(&nested_paging.trim()), "{nested_paging}");
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
    let files = [
        "kernels/minimal/vmlinux",
        "kernels/minimal/bzImage",
        "kernels/container/vmlinux",
        "kernels/debian/vmlinuz",
        "kernels/debian/initrd",
        "rootfs/busybox.ext4",
        "rootfs/busybox.cpio",
    ];
    for file in files {
        let path = Path::new("/srv/vmm").join(file);
        assert!(path.metadata().is_ok_and(|file| file.len() > 0), "{}", path.display());
    }
    assert!(File::create("/srv/vmm/new").is_err());
}

#[test]
fn fresh_vmm_is_first_on_the_path() {
    let output = Command::new("sh").args(["-c", "command -v vmm"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/usr/local/bin/vmm\n");
}
