//! Kernels, entries, CPUs, memory: what boots.

use crate::guest::{Guest, artifact, kernel, packed_kernel, run_words};

/// The shell command for the number of CPUs that are online.
pub const CPUS: &str = "echo cpus $(grep -c ^processor /proc/cpuinfo)";

/// MiB of memory the guest's kernel found.
fn mem_total_mib(console: &str) -> u64 {
    let line = console.lines().find(|line| line.starts_with("MemTotal:")).expect("MemTotal");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("KiB") / 1024
}

#[test]
fn kernel_boots_with_the_default_command_line() {
    let console = Guest::minimal().succeed("uname -a; cat /proc/cmdline");
    assert!(console.contains("Linux guest 6."), "{console}");
    assert!(console.contains("console=ttyS0 panic=-1 root=/dev/vda rw quiet vmm.sh="), "{console}");
}

#[test]
fn packed_kernel_boots() {
    Guest::new(&packed_kernel()).succeed("uname -a");
}

#[test]
fn container_kernel_boots_and_carries_its_configuration() {
    let console = Guest::new(&kernel("container")).succeed(
        "zcat /proc/config.gz | grep -x CONFIG_OVERLAY_FS=y; grep -w cgroup2 /proc/filesystems",
    );
    assert!(console.contains("CONFIG_OVERLAY_FS=y"), "{console}");
}

#[test]
fn initrd_boots_without_a_disk() {
    let guest = Guest::bare(&kernel("minimal")).args("--initrd /srv/vmm/rootfs/busybox.cpio");
    let console = guest.succeed("ls /dev/vda 2>&1 || true");
    assert!(console.contains("No such file"), "{console}");
}

#[test]
fn one_two_and_four_cpus_come_up() {
    for cpus in ["1", "2", "4"] {
        let console = Guest::minimal().arg("--cpus").arg(cpus).succeed(CPUS);
        assert!(console.contains(&format!("cpus {cpus}\n")), "{cpus} CPUs: {console}");
    }
}

#[test]
fn smallest_usual_and_large_memory() {
    for (size, least, most) in
        [("32M", 12, 32), ("64M", 40, 64), ("128M", 100, 128), ("3G", 2900, 3072)]
    {
        let console = Guest::minimal().arg("--memory").arg(size).succeed("head -n 1 /proc/meminfo");
        let found = mem_total_mib(&console);
        assert!((least..=most).contains(&found), "{size}: {found} MiB");
    }
}

#[test]
fn unmodified_debian_kernel_reaches_userland() {
    let guest = Guest::new(&artifact("kernels/debian/vmlinuz"));
    let console = guest
        .args("--initrd /srv/vmm/kernels/debian/initrd --cpus 2")
        .succeed(&format!("uname -a; {CPUS}; grep -w vda /proc/partitions"));
    assert!(console.contains("Debian"), "{console}");
    assert!(console.contains("cpus 2\n"), "{console}");
}

/// The guest has the host's time of day, and it goes on.
#[test]
fn clock_tells_the_time_and_advances() {
    let now = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("after 1970").as_secs()
    };
    let before = now();
    let console = Guest::minimal()
        .succeed("a=$(date +%s); sleep 1; b=$(date +%s); echo began $a; echo moved $((b - a))");
    let began = console.lines().find_map(|line| line.strip_prefix("began "));
    let began: u64 = began.expect("a time").parse().expect("seconds");
    assert!((before - 1..=now() + 1).contains(&began), "{before}: {console}");
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
    let guest = Guest::bare(&kernel("minimal"));
    let file = guest.file("vm.toml");
    let text = format!(
        "kernel = {:?}\ninitrd = {:?}\ncpus = 2\nmemory = \"128M\"\nappend = {:?}\n",
        kernel("minimal"),
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
