//! The balloon under a kernel's driver: memory comes back to the host, and the guest gets it again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::guest::{Guest, run_words, signal, wait, wait_for};

/// Longer than a guest takes to report what it has freed, in the emulated host.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shell functions for the scripts: a line of /proc/meminfo in KiB, and to wait for it to fall or rise.
const FUNCTIONS: &str = "\
mem() { sed -n \"s/^$1: *\\([0-9]*\\) kB/\\1/p\" /proc/meminfo; }
below() { n=0; while [ $(mem $1) -ge $2 ]; do n=$((n+1)); [ $n -lt 300 ]; sleep 0.1; done; }
above() { n=0; while [ $(mem $1) -le $2 ]; do n=$((n+1)); [ $n -lt 300 ]; sleep 0.1; done; }
take() { mount -t tmpfs -o size=200m tmpfs /mnt; head -c $1 /dev/zero > /mnt/taken; }
";

/// Proportional memory of the monitor and its guest, in MiB.
fn pss_mib(child: &Child) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", child.id());
    let maps = fs::read_to_string(path).expect("a running monitor");
    let line = maps.lines().find(|line| line.starts_with("Pss:")).expect("Pss");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("KiB") / 1024
}

/// Waits until the monitor has at most `most` MiB; what it has then.
fn wait_for_pss(child: &Child, most: u64) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pss = pss_mib(child);
        if pss <= most || Instant::now() > deadline {
            return pss;
        }
        sleep(Duration::from_millis(100));
    }
}

fn start(options: &str, script: &str) -> (Guest, Child) {
    let words = run_words(&format!("set -e\n{FUNCTIONS}{script}"));
    let guest = Guest::minimal().args(options).append(&words);
    let child = guest.start();
    (guest, child)
}

fn end(child: Child) {
    signal(child.id(), "TERM");
    wait(child);
}

/// A guest takes 96 MiB and frees them: they are the host's again when it reports them, and not
/// otherwise.
#[test]
fn memory_the_guest_frees_comes_back_to_the_host_when_it_is_reported() {
    let script = "take 100663296; echo taken; sleep 1; rm /mnt/taken; echo freed; sleep 300";
    for (options, reported) in [("--balloon", true), ("--balloon free-page-reporting=off", false)] {
        let (_files, mut child) = start(options, script);
        wait_for(&mut child, "taken");
        let taken = pss_mib(&child);
        assert!(taken > 96, "{options}: {taken} MiB with 96 MiB taken");
        wait_for(&mut child, "freed");
        if reported {
            // Blocks of less than 2 MiB are not reported.
            let left = wait_for_pss(&child, taken - 64);
            assert!(left <= taken - 64, "{options}: from {taken} to {left} MiB");
        } else {
            // Three times as long as a guest waits before it reports.
            sleep(Duration::from_secs(6));
            let left = pss_mib(&child);
            assert!(left + 8 > taken, "{options}: from {taken} to {left} MiB");
        }
        end(child);
    }
}

/// Memory that was given back holds data again, and holds it right.
#[test]
fn memory_that_was_given_back_holds_data_again() {
    let script = "\
        for round in 1 2 3; do\n\
            head -c 50000000 /dev/urandom > /tmp/a; cp /tmp/a /tmp/b; cmp /tmp/a /tmp/b\n\
            rm /tmp/a /tmp/b; sleep 3\n\
        done; echo $(dmesg | grep -c -i -e 'bad page' -e corrupt) bad";
    let console = Guest::minimal().args("--cpus 2 --balloon").succeed(script);
    assert!(console.contains("0 bad"), "{console}");
}

/// The balloon takes its size from the guest, and what the guest had touched from the monitor. The
/// driver goes and comes for that, with the memory in the balloon when it goes.
#[test]
fn inflated_balloon_takes_memory_from_the_guest_and_from_the_monitor() {
    let script = "\
        below MemTotal 100000; echo total $(mem MemTotal)\n\
        cd /sys/bus/virtio/drivers/virtio_balloon; device=$(ls -d virtio*)\n\
        echo $device > unbind; echo deflated $(mem MemTotal)\n\
        take 167772160; rm /mnt/taken; echo touched; sleep 1\n\
        echo $device > bind; below MemTotal 100000; below MemFree 80000\n\
        echo inflated; sleep 300";
    let options = "--balloon size=160M,deflate-on-oom=off,free-page-reporting=off";
    let (_files, mut child) = start(options, script);
    wait_for(&mut child, "touched");
    let touched = pss_mib(&child);
    assert!(touched > 160, "{touched} MiB with 160 MiB touched");
    wait_for(&mut child, "inflated");
    // Of 256 MiB the guest has 96 left: whichever it gives up, at least 48 of those it touched are in the
    // balloon.
    let left = wait_for_pss(&child, touched - 48);
    assert!(left <= touched - 48, "from {touched} to {left} MiB");
    end(child);
}

/// What the driver puts into the balloon is missing in the guest.
#[test]
fn balloon_takes_its_size_from_the_guest() {
    let script = format!("{FUNCTIONS}below MemTotal 80000; echo total $(mem MemTotal)");
    let console = Guest::minimal()
        .args("--memory 128M --balloon size=48M,deflate-on-oom=off")
        .succeed(&script);
    let total = console.lines().find_map(|line| line.strip_prefix("total ")).expect("a total");
    let total: u64 = total.parse().expect("KiB");
    assert!((40 << 10..80 << 10).contains(&total), "{console}");
}

/// A guest that needs the memory takes it out of the balloon; one that may not goes without.
#[test]
fn guest_that_runs_out_of_memory_takes_it_from_the_balloon() {
    let script = "\
        below MemFree 50000; echo 1 > /proc/sys/vm/overcommit_memory\n\
        if dd if=/dev/zero of=/dev/null bs=80M count=1; then echo got it; else echo went without; fi";
    for (options, outcome) in [("on", "got it"), ("off", "went without")] {
        let options = format!("--memory 128M --balloon size=80M,deflate-on-oom={options}");
        let console = Guest::minimal().args(&options).succeed(&format!("{FUNCTIONS}{script}"));
        assert!(console.contains(outcome), "{options}: {console}");
        assert_eq!(console.contains("Killed process"), outcome == "went without", "{console}");
    }
}

/// A machine whose balloon is described by a file, and which tells what it counts.
struct Told {
    child: Child,
    config: PathBuf,
    metrics: PathBuf,
    _guest: Guest,
}

impl Told {
    fn new(script: &str) -> Self {
        let words = run_words(&format!("set -e\n{FUNCTIONS}{script}"));
        let guest = Guest::minimal().append(&words);
        let (config, metrics) = (guest.file("vm.toml"), guest.file("metrics"));
        write_size(&config, 0);
        let [from, to] = [&config, &metrics].map(|path| path.to_str().expect("UTF-8").to_owned());
        let guest = guest.arg("--config").arg(from).arg("--metrics").arg(to);
        Self { child: guest.start(), config, metrics, _guest: guest }
    }

    fn resize(&self, mib: u64) {
        write_size(&self.config, mib);
        signal(self.child.id(), "USR2");
    }

    /// Asks for metrics until those of the balloon are as `wanted`, and returns them.
    fn wait_for_metrics(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            signal(self.child.id(), "USR1");
            sleep(Duration::from_millis(300));
            let lines = fs::read_to_string(&self.metrics).unwrap_or_default();
            let last = lines.lines().last().and_then(|line| serde_json::from_str(line).ok());
            let last: serde_json::Value = last.unwrap_or_default();
            let balloon = last["devices"]["balloon"].clone();
            if wanted(&balloon) {
                return balloon;
            }
            assert!(Instant::now() < deadline, "{last}");
        }
    }
}

fn write_size(config: &Path, mib: u64) {
    let text = format!(
        "[balloon]\nsize = \"{mib}M\"\ndeflate-on-oom = false\nfree-page-reporting = false\n\
         statistics = \"1s\"\n"
    );
    fs::write(config, text).expect("write");
}

/// The file says another size: the guest gives memory up and gets it back, and both sides say so.
#[test]
fn size_follows_the_file_while_the_guest_runs_and_the_metrics_tell() {
    const SIZE: u64 = 160;
    let mut machine = Told::new(
        "take 167772160; rm /mnt/taken; echo touched\n\
         below MemTotal 90000; echo inflated; above MemTotal 240000; echo deflated; sleep 300",
    );
    wait_for(&mut machine.child, "touched");
    let touched = pss_mib(&machine.child);
    machine.resize(SIZE);
    wait_for(&mut machine.child, "inflated");
    let left = wait_for_pss(&machine.child, touched - 48);
    assert!(left <= touched - 48, "from {touched} to {left} MiB");
    let balloon = machine.wait_for_metrics(|balloon| {
        balloon["actual_bytes"] == SIZE << 20 && balloon["total_bytes"].as_u64() < Some(90 << 20)
    });
    assert_eq!(balloon["target_bytes"], SIZE << 20, "{balloon}");
    assert!(balloon["inflated_bytes"].as_u64() >= Some(SIZE << 20), "{balloon}");
    assert!(balloon["statistics"].as_u64() > Some(1), "{balloon}");

    machine.resize(0);
    wait_for(&mut machine.child, "deflated");
    let balloon = machine.wait_for_metrics(|balloon| balloon["actual_bytes"] == 0);
    assert!(balloon["deflated_bytes"].as_u64() >= Some(SIZE << 20), "{balloon}");
    end(machine.child);
}

/// The monitor asks again only when it was answered: each interrupt is a question.
#[test]
fn statistics_are_asked_for_and_answered_again_and_again() {
    let script = "\
        cd /sys/bus/virtio/drivers/virtio_balloon; device=$(ls -d virtio*)\n\
        asked() { sed -n \"s/^ *[0-9]*: *\\([0-9]*\\) .* $device$/\\1/p\" /proc/interrupts; }\n\
        before=$(asked); sleep 5; echo asked $(($(asked) - before)) times";
    for (options, least, most) in [("statistics=1s", 3, 6), ("size=0M", 0, 0)] {
        let options = format!("--balloon free-page-reporting=off,{options}");
        let console = Guest::minimal().args(&options).succeed(script);
        let count = console.lines().find_map(|line| line.strip_prefix("asked "));
        let count = count.and_then(|rest| rest.split(' ').next()).expect("a count");
        let count: u32 = count.parse().expect("a number");
        assert!((least..=most).contains(&count), "{options}: {console}");
    }
}
