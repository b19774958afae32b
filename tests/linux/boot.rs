//! Kernels, entries, CPUs, memory: what boots.

use crate::guest::{Guest, artifact, run_words};

/// The shell command for the number of CPUs that are online.
const CPUS: &str = "echo cpus $(grep -c ^processor /proc/cpuinfo)";

/// MiB of memory the guest's kernel found.
fn mem_total_mib(console: &str) -> u64 {
    let line = console.lines().find(|line| line.starts_with("MemTotal:")).expect("MemTotal");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("KiB") / 1024
}

#[test]
fn elf_kernel_boots_by_pvh() {
    let console =
        Guest::minimal().args("--boot-protocol pvh").succeed("uname -a; cat /proc/cmdline");
    assert!(console.contains("Linux guest 6."), "{console}");
    assert!(console.contains("console=ttyS0 panic=-1 root=/dev/vda rw quiet vmm.sh="), "{console}");
}

#[test]
fn elf_kernel_boots_by_the_64_bit_protocol() {
    Guest::minimal().args("--boot-protocol linux64").succeed("uname -a");
}

#[test]
fn bzimage_boots() {
    Guest::new("kernels/minimal/bzImage").succeed("uname -a");
}

#[test]
fn container_kernel_boots_and_carries_its_configuration() {
    let console = Guest::new("kernels/container/vmlinux").succeed(
        "zcat /proc/config.gz | grep -x CONFIG_OVERLAY_FS=y; grep -w cgroup2 /proc/filesystems",
    );
    assert!(console.contains("CONFIG_OVERLAY_FS=y"), "{console}");
}

#[test]
fn initrd_boots_without_a_disk() {
    for protocol in ["pvh", "linux64"] {
        let console = Guest::bare("kernels/minimal/vmlinux")
            .args("--initrd /srv/vmm/rootfs/busybox.cpio --boot-protocol")
            .arg(protocol)
            .succeed("ls /dev/vda 2>&1 || true");
        assert!(console.contains("No such file"), "{protocol}: {console}");
    }
}

#[test]
fn one_two_and_four_cpus_come_up_with_acpi() {
    for cpus in ["1", "2", "4"] {
        let console = Guest::minimal().arg("--cpus").arg(cpus).succeed(CPUS);
        assert!(console.contains(&format!("cpus {cpus}\n")), "{cpus} CPUs: {console}");
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
fn sixteen_cpus_share_one_package() {
    let console = Guest::minimal().args("--cpus 16").succeed(&format!(
        "{CPUS}; cat /sys/devices/system/cpu/cpu15/topology/physical_package_id \
         /sys/devices/system/cpu/cpu15/topology/core_id"
    ));
    assert!(console.contains("cpus 16\n0\n15\n"), "{console}");
}

#[test]
fn smallest_usual_and_large_memory() {
    for (size, least, most) in [("32M", 12, 32), ("128M", 100, 128), ("5G", 4800, 5120)] {
        let console = Guest::minimal().arg("--memory").arg(size).succeed("head -n 1 /proc/meminfo");
        let found = mem_total_mib(&console);
        assert!((least..=most).contains(&found), "{size}: {found} MiB");
    }
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
fn unmodified_debian_kernel_reaches_userland() {
    let guest = Guest::new("kernels/debian/vmlinuz");
    let console = guest
        .args("--initrd /srv/vmm/kernels/debian/initrd --cpus 2")
        .succeed(&format!("uname -a; {CPUS}; grep -w vda /proc/partitions"));
    assert!(console.contains("Debian"), "{console}");
    assert!(console.contains("cpus 2\n"), "{console}");
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
fn clock_is_kvm_clock_and_advances() {
    let console = Guest::minimal().succeed(
        "cat /sys/devices/system/clocksource/clocksource0/current_clocksource\n\
         a=$(date +%s); sleep 1; b=$(date +%s); echo moved $((b - a))",
    );
    assert!(console.contains("kvm-clock") || console.contains("tsc"), "{console}");
    assert!(console.contains("moved 1") || console.contains("moved 2"), "{console}");
}

#[test]
fn entropy_comes_from_the_host() {
    let console = Guest::minimal()
        .succeed("cat /sys/class/misc/hw_random/rng_current; head -c 64 /dev/hwrng | wc -c");
    assert!(console.contains("virtio_rng"), "{console}");
    assert!(console.contains("64"), "{console}");
}

#[test]
fn cmdline_replaces_the_default() {
    let cmdline = "console=ttyS0 root=/dev/vda ro";
    let ended = Guest::minimal().arg("--cmdline").arg(cmdline).run("cat /proc/cmdline");
    assert_eq!(ended.status, Some(0), "{ended:#?}");
    assert!(ended.console.contains(&format!("{cmdline} quiet vmm.sh=")), "{ended:#?}");
    assert!(!ended.console.contains("panic=-1"), "{ended:#?}");
}

#[test]
fn configuration_file_boots_the_same_guest() {
    let guest = Guest::bare("kernels/minimal/vmlinux");
    let file = guest.file("vm.toml");
    let text = format!(
        "kernel = {:?}\ninitrd = {:?}\ncpus = 2\nmemory = \"128M\"\nappend = {:?}\n",
        artifact("kernels/minimal/vmlinux"),
        artifact("rootfs/busybox.cpio"),
        run_words(CPUS),
    );
    std::fs::write(&file, text).expect("write");
    let output =
        std::process::Command::new("vmm").arg("--config").arg(&file).output().expect("vmm");
    let console = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert_eq!(output.status.code(), Some(0), "{console}");
    assert!(console.contains("cpus 2\n"), "{console}");
}
