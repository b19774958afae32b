//! What only x86_64 has: several ways into a kernel, and machines without ACPI.

use crate::boot::CPUS;
use crate::guest::{Guest, kernel};

#[test]
fn elf_kernel_boots_by_pvh() {
    let console = Guest::minimal().args("--boot-protocol pvh").succeed("uname -a");
    assert!(console.contains("Linux guest 6."), "{console}");
}

#[test]
fn elf_kernel_boots_by_the_64_bit_protocol() {
    Guest::minimal().args("--boot-protocol linux64").succeed("uname -a");
}

#[test]
fn initrd_boots_by_either_protocol() {
    for protocol in ["pvh", "linux64"] {
        let console = Guest::bare(&kernel("minimal"))
            .args("--initrd /srv/vmm/rootfs/busybox.cpio --boot-protocol")
            .arg(protocol)
            .succeed("ls /dev/vda 2>&1 || true");
        assert!(console.contains("No such file"), "{protocol}: {console}");
    }
}

#[test]
fn cpus_and_devices_are_found_without_acpi() {
    for cpus in ["1", "4"] {
        // Without ACPI a kernel cannot power off, but it can reboot.
        let ended = Guest::minimal()
            .args("--acpi off --cpus")
            .arg(cpus)
            .run(&format!("{CPUS}; ls /sys/firmware/acpi 2>&1; sync; reboot -f"));
        assert_eq!(ended.status, Some(0), "{cpus} CPUs: {ended:#?}");
        assert!(ended.console.contains(&format!("cpus {cpus}\n")), "{cpus} CPUs: {ended:#?}");
        assert!(ended.console.contains("No such file"), "{ended:#?}");
    }
}

#[test]
fn halted_guest_is_noticed() {
    let ended = Guest::minimal().args("--acpi off --cpus 2").run("halt -f");
    assert_eq!(ended.status, Some(7), "{ended:#?}");
    assert!(ended.stderr.contains("halted with interrupts disabled"), "{ended:#?}");
}

#[test]
fn sixteen_cpus_share_one_package() {
    let console = Guest::minimal().args("--cpus 16").succeed(&format!(
        "{CPUS}; cat /sys/devices/system/cpu/cpu15/topology/physical_package_id \
         /sys/devices/system/cpu/cpu15/topology/core_id"
    ));
    assert!(console.contains("cpus 16\n0\n15\n"), "{console}");
}

/// Memory beyond the gap is real: Linux takes it first, and it holds what was written.
#[test]
fn memory_above_4_gib_holds_data() {
    let free = "sed -n '/zone *Normal/,/min/s/.*pages free *//p' /proc/zoneinfo";
    let script = format!(
        "mount -t tmpfs tmpfs /mnt; before=$({free})\n\
         head -c 24000000 /dev/urandom > /mnt/high\n\
         a=$(sha256sum < /mnt/high); b=$(cat /mnt/high | sha256sum); [ \"$a\" = \"$b\" ]\n\
         echo taken $((before - $({free})))"
    );
    let console = Guest::minimal().args("--memory 5G").succeed(&script);
    let taken = console.lines().find_map(|line| line.strip_prefix("taken ")).expect("a count");
    let pages: u64 = taken.parse().expect("a number");
    assert!(pages > 5_000, "{console}");
}

#[test]
fn cpu_shows_a_hypervisor_and_no_nested_virtualisation() {
    let console = Guest::minimal().succeed("grep -m 1 ^flags /proc/cpuinfo");
    let flags: Vec<&str> = console.split_whitespace().collect();
    assert!(flags.contains(&"hypervisor"), "{console}");
    assert!(!flags.contains(&"svm") && !flags.contains(&"vmx"), "{console}");
    assert!(flags.contains(&"tsc_deadline_timer"), "{console}");
}

#[test]
fn clock_is_that_of_kvm() {
    let console = Guest::minimal()
        .succeed("cat /sys/devices/system/clocksource/clocksource0/current_clocksource");
    assert!(console.contains("kvm-clock") || console.contains("tsc"), "{console}");
}
