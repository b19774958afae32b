//! What only aarch64 has: its interrupt controller, its firmware calls, its forms of a kernel.

use std::fs;

use crate::boot::CPUS;
use crate::guest::{Guest, artifact, kernel, packed_kernel};

/// The interrupt controller that a list of interrupts shows. Linux calls a GICv2 so where it started as a hypervisor,
/// and by its number where it did not.
fn controller(interrupts: &str) -> &'static str {
    let names = [("GICv3", "GICv3"), ("GICv2", "GICv2"), ("GIC-0", "GICv2")];
    let found = names.into_iter().find(|(name, _)| interrupts.contains(name));
    found.unwrap_or_else(|| panic!("{interrupts}")).1
}

fn controller_of_host() -> &'static str {
    controller(&fs::read_to_string("/proc/interrupts").expect("interrupts"))
}

#[test]
fn guest_has_the_interrupt_controller_of_its_host() {
    let console = Guest::minimal().args("--cpus 2").succeed("cat /proc/interrupts");
    assert_eq!(controller(&console), controller_of_host(), "{console}");
    for (line, device) in [("32 Edge", "ttyS0"), ("33 Edge", "virtio0")] {
        let found = console.lines().any(|text| text.contains(line) && text.contains(device));
        assert!(found, "{line} {device}: {console}");
    }
}

#[test]
fn kernel_knows_its_firmware_and_its_clock() {
    let guest = Guest::minimal().append("loglevel=8");
    let console = guest.succeed(
        "dmesg | grep -e psci: -e rtc-pl031\n\
         cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
    );
    assert!(console.contains("psci: PSCIv1."), "{console}");
    assert!(console.contains("setting system clock to 2"), "{console}");
    assert!(console.contains("arch_sys_counter"), "{console}");
}

/// A GICv2 serves eight vCPUs, a GICv3 any number.
#[test]
fn ninth_cpu_takes_the_newer_interrupt_controller() {
    let console = Guest::minimal().args("--cpus 8").succeed(CPUS);
    assert!(console.contains("cpus 8\n"), "{console}");
    let ended = Guest::minimal().args("--cpus 9").run(CPUS);
    if controller_of_host() == "GICv3" {
        assert!(ended.console.contains("cpus 9\n"), "{ended:#?}");
    } else {
        assert_eq!(ended.status, Some(3), "{ended:#?}");
        assert!(ended.stderr.contains("9 vCPUs: this host's KVM has 8 for a guest"), "{ended:#?}");
    }
}

/// Vectors of variable length and pointer authentication, where the host has them, and nowhere unasked.
#[test]
fn programs_find_the_features_that_were_asked_for() {
    const LOOK: &str = "grep -m 1 Features /proc/cpuinfo";
    let has = |text: &str, flag: &str| text.split_whitespace().any(|word| word == flag);
    let host = fs::read_to_string("/proc/cpuinfo").expect("cpuinfo");
    let unasked = Guest::minimal().succeed(LOOK);
    for (feature, flag) in [("pauth", "paca"), ("sve", "sve")] {
        assert!(!has(&unasked, flag), "{unasked}");
        let ended = Guest::minimal().args(&format!("--cpu-features {feature}")).run(LOOK);
        if has(&host, flag) {
            assert!(has(&ended.console, flag), "{ended:#?}");
        } else {
            assert_eq!(ended.status, Some(3), "{ended:#?}");
            let expected = format!("{feature}: this host's KVM has no such feature of CPUs");
            assert!(ended.stderr.contains(&expected), "{ended:#?}");
        }
    }
}

/// Debian's kernel has a driver for them, which takes their interrupt.
#[test]
fn kernel_drives_the_performance_counters_that_were_asked_for() {
    let guest = Guest::new(&artifact("kernels/debian/vmlinuz"));
    let guest = guest.args("--initrd /srv/vmm/kernels/debian/initrd --cpu-features pmu");
    let console = guest.succeed("cat /proc/interrupts");
    let is_counters = |line: &str| line.contains(" 23 Level ") && line.contains("arm-pmu");
    assert!(console.lines().any(is_counters), "{console}");
}

/// The seventeenth processor has another affinity at the level above.
#[test]
fn seventeen_cpus_share_one_package() {
    let console = Guest::minimal().args("--cpus 17").succeed(&format!(
        "{CPUS}; cat /sys/devices/system/cpu/cpu16/topology/physical_package_id \
         /sys/devices/system/cpu/cpu16/topology/core_id"
    ));
    assert!(console.contains("cpus 17\n0\n16\n"), "{console}");
}

/// A zboot image, as a build with CONFIG_EFI_ZBOOT makes it of its Image.
#[test]
fn zboot_image_boots() {
    let packed = fs::read(packed_kernel()).expect("packed kernel");
    let mut image = b"MZ\0\0zimg".to_vec();
    image.extend(0x80_u32.to_le_bytes());
    image.extend(u32::try_from(packed.len()).expect("a kernel").to_le_bytes());
    image.resize(24, 0);
    image.extend(b"gzip");
    image.resize(0x3c, 0);
    image.extend(0x40_u32.to_le_bytes());
    image.extend(b"PE\0\0\x64\xaa");
    image.resize(0x80, 0);
    image.extend(packed);
    let guest = Guest::bare(&kernel("minimal"));
    let path = guest.file("vmlinuz.efi");
    fs::write(&path, image).expect("write");
    Guest::new(&path).succeed("uname -a");
}

#[test]
fn kernels_of_another_architecture_are_named() {
    let mut bzimage = vec![0; 0x1000];
    bzimage[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    let mut vmlinux = b"\x7fELF\x02\x01\x01".to_vec();
    vmlinux.resize(0x1000, 0);
    vmlinux[18] = 62;
    for (kernel, name) in [(bzimage, "an x86 bzImage"), (vmlinux, "an ELF file for x86_64")] {
        let guest = Guest::bare(&artifact("kernels/minimal/Image"));
        let path = guest.file("foreign");
        fs::write(&path, kernel).expect("write");
        let ended = Guest::bare(&path).boot();
        assert_eq!(ended.status, Some(2), "{ended:#?}");
        assert!(ended.stderr.contains(name), "{ended:#?}");
        assert!(ended.stderr.contains("this machine is aarch64"), "{ended:#?}");
    }
}
