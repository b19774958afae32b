//! virtio-blk under a kernel's driver.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::guest::{Guest, artifact, copy_sparse, kernel, run_words, signal, wait, wait_for};

const MIB: u64 = 1 << 20;

#[test]
fn data_survives_sync_and_reboot() {
    let guest = Guest::minimal();
    let rootfs = guest.file("rootfs.ext4");
    let kept = tempfile::tempdir().expect("temporary directory");
    let second = kept.path().join("rootfs.ext4");
    let ended = {
        let words =
            run_words("head -c 3000000 /dev/urandom > /root/data; sha256sum /root/data; sync");
        let guest = guest.append(&words);
        let ended = wait(guest.start());
        fs::copy(&rootfs, &second).expect("copy");
        ended
    };
    assert_eq!(ended.status, Some(0), "{ended:#?}");
    let sum = ended.console.lines().find(|line| line.ends_with("/root/data")).expect("a sum");
    let again = Guest::bare(&kernel("minimal")).arg("--rootfs").arg(second.to_str().unwrap());
    let console = again.succeed("sha256sum /root/data");
    assert!(console.contains(sum), "{sum} not in {console}");
}

#[test]
fn filesystem_written_by_the_guest_is_clean_for_the_host() {
    let guest = Guest::minimal();
    let rootfs = guest.file("rootfs.ext4");
    let words = run_words(
        "for i in $(seq 200); do echo $i > /root/f$i; done; rm /root/f1*; sync; mount -o remount,ro /",
    );
    let guest = guest.append(&words);
    let ended = wait(guest.start());
    assert_eq!(ended.status, Some(0), "{ended:#?}");
    let check = Command::new("e2fsck").args(["-f", "-n"]).arg(&rootfs).output().expect("e2fsck");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
fn several_disks_appear_in_order_with_their_ids() {
    let guest = Guest::minimal();
    let (a, b) = (guest.image("a.img", 3 * MIB), guest.image("b.img", 5 * MIB));
    let console = guest
        .arg("--disk")
        .arg(format!("path={},id=first", a.display()))
        .arg("--disk")
        .arg(format!("path={},readonly=on", b.display()))
        .succeed(
            "for d in vda vdb vdc; do echo $d $(cat /sys/block/$d/serial) $(cat /sys/block/$d/size) \
             $(cat /sys/block/$d/ro); done",
        );
    assert!(console.contains("vdb first 6144 0\n"), "{console}");
    assert!(console.contains("vdc disk1 10240 1\n"), "{console}");
    assert!(console.contains("vda rootfs "), "{console}");
}

/// B6: what was opened read-only stays as it was.
#[test]
fn read_only_disk_refuses_writes_and_keeps_its_bytes() {
    let guest = Guest::minimal();
    let image = guest.file("ro.img");
    fs::write(&image, vec![0x5a; MIB as usize]).expect("write");
    let keep = image.clone();
    let guest = guest.arg("--disk").arg(format!("path={},readonly=on", image.display()));
    let words = run_words(
        "echo 0 > /sys/block/vdb/ro 2>/dev/null; blockdev --setrw /dev/vdb 2>/dev/null\n\
         dd if=/dev/zero of=/dev/vdb bs=4k count=4 conv=fsync && echo WROTE",
    );
    let guest = guest.append(&words);
    let ended = wait(guest.start());
    assert!(!ended.console.contains("WROTE\n"), "{ended:#?}");
    assert!(fs::read(&keep).expect("read").iter().all(|byte| *byte == 0x5a));
}

#[test]
fn read_only_root_filesystem_boots_and_stays_unchanged() {
    let guest = Guest::minimal().arg("--rootfs-readonly");
    let rootfs = guest.file("rootfs.ext4");
    let before = fs::read(&rootfs).expect("read");
    let words = run_words("touch /root/x 2>&1 || echo refused");
    let guest = guest.append(&words);
    let ended = wait(guest.start());
    assert_eq!(ended.status, Some(0), "{ended:#?}");
    assert!(ended.console.contains("refused"), "{ended:#?}");
    assert!(before == fs::read(&rootfs).expect("read"), "the image changed");
}

#[test]
fn discard_gives_space_back_to_the_host() {
    let guest = Guest::minimal();
    let image = guest.file("data.img");
    fs::write(&image, vec![1; 8 * MIB as usize]).expect("write");
    let before = fs::metadata(&image).expect("metadata").blocks();
    let guest = guest.arg("--disk").arg(format!("path={}", image.display()));
    let words = run_words(
        "set -e; blkdiscard -o 1048576 -l 4194304 /dev/vdb; dd if=/dev/vdb bs=1M skip=1 count=4 | tr -d '\\0' | wc -c",
    );
    let guest = guest.append(&words);
    let ended = wait(guest.start());
    assert!(ended.console.contains("exit status 0"), "{ended:#?}");
    let after = fs::metadata(&image).expect("metadata").blocks();
    assert_eq!(before - after, 4 * MIB / 512);
    let bytes = fs::read(&image).expect("read");
    let hole = MIB as usize..5 * MIB as usize;
    assert!(bytes[hole.clone()].iter().all(|byte| *byte == 0));
    assert!(bytes[..hole.start].iter().chain(&bytes[hole.end..]).all(|byte| *byte == 1));
}

/// The ways to move data.
const WAYS: [&str; 4] = [
    "engine=sync",
    "engine=io_uring",
    "engine=sync,direct=on",
    "engine=io_uring,direct=on,queues=2",
];

/// Direct I/O of every size and alignment the driver allows, checked against the host's file.
#[test]
fn direct_io_reads_what_the_host_wrote_and_back() {
    let bytes: Vec<u8> = (0..4 * MIB).map(|n| ((n * 2_654_435_761) >> 13) as u8).collect();
    for way in WAYS {
        let guest = Guest::minimal();
        // On a disk: the tmpfs of this host knows no direct I/O.
        let directory = tempfile::tempdir_in("/var/tmp").expect("temporary directory");
        let image = directory.path().join("data.img");
        fs::write(&image, &bytes).expect("write");
        let guest = guest.arg("--disk").arg(format!("path={},{way}", image.display()));
        let words = run_words(
            "set -e\nfor bs in 512 4k 64k 1M; do dd if=/dev/vdb bs=$bs iflag=direct 2>/dev/null | sha256sum; done\n\
             dd if=/dev/vdb of=/dev/vdb bs=1M skip=2 count=2 conv=notrunc,fsync iflag=direct oflag=direct 2>/dev/null",
        );
        let guest = guest.append(&words);
        let ended = wait(guest.start());
        assert!(ended.console.contains("exit status 0"), "{way}: {ended:#?}");
        assert_eq!(ended.stderr, "", "{way}");
        let sums: Vec<&str> = ended.console.lines().filter(|line| line.ends_with("  -")).collect();
        assert_eq!(sums.len(), 4, "{way}: {ended:#?}");
        assert!(sums.iter().all(|sum| *sum == sums[0]), "{way}: {sums:?}");
        let half = bytes.len() / 2;
        let after = fs::read(&image).expect("read");
        assert!(after[..half] == bytes[half..] && after[half..] == bytes[half..], "{way}");
    }
}

/// A file system made, filled, checked, emptied and trimmed by the guest: the host's file gets its
/// holes back.
#[test]
fn trimmed_file_system_gives_space_back_to_the_host() {
    for way in ["engine=sync", "engine=io_uring"] {
        let guest = Guest::minimal();
        let image = guest.image("data.img", 64 * MIB);
        let make = Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&image).output();
        assert!(make.expect("mke2fs").status.success());
        let guest = guest.arg("--disk").arg(format!("path={},{way}", image.display()));
        let words = run_words(
            "set -e; mkdir -p /root/m; mount /dev/vdb /root/m; head -c 30000000 /dev/urandom > /root/m/f\n\
             a=$(sha256sum < /root/m/f); sync; echo 3 > /proc/sys/vm/drop_caches\n\
             [ \"$(sha256sum < /root/m/f)\" = \"$a\" ]; echo filled; read x; rm /root/m/f; sync\n\
             fstrim /root/m; umount /root/m",
        );
        let guest = guest.append(&words);
        let mut child = guest.start_with_input();
        wait_for(&mut child, "filled");
        let blocks = || fs::metadata(&image).expect("metadata").blocks();
        let full = blocks();
        child.stdin.take().expect("piped").write_all(b"\n").expect("typed");
        let ended = wait(child);
        assert!(ended.console.contains("exit status 0"), "{way}: {ended:#?}");
        assert!(full - blocks() > 28_000_000 / 512, "{way}: {full} to {} blocks", blocks());
        let check = Command::new("e2fsck").args(["-f", "-n"]).arg(&image).output().expect("e2fsck");
        assert!(check.status.success(), "{way}: {}", String::from_utf8_lossy(&check.stdout));
    }
}

/// A guest boots from a base that others may share, and writes to its overlay: the base keeps every byte,
/// and what was written is there at the next boot, in a file system without a fault.
#[test]
fn overlay_keeps_what_the_guest_wrote_and_the_base_stays_as_it_was() {
    let files = tempfile::tempdir().expect("temporary directory");
    let [base, overlay, merged] =
        ["base.ext4", "overlay.qcow2", "merged.ext4"].map(|name| files.path().join(name));
    copy_sparse(&artifact("rootfs/busybox.ext4"), &base);
    let before = fs::read(&base).expect("read");
    let boot = |script: &str| {
        let disk = format!("path={},overlay={}", base.display(), overlay.display());
        let guest = Guest::bare(&kernel("minimal")).args("--disk").arg(disk);
        guest.append("root=/dev/vda rw").succeed(script)
    };
    let first = boot(
        "for i in $(seq 100); do echo $i > /root/f$i; done; rm /root/f1?; echo changed >> /etc/passwd\n\
         head -c 5000000 /dev/urandom > /root/data; sha256sum /root/data; sync",
    );
    let sum = first.lines().find(|line| line.ends_with("/root/data")).expect("a sum");
    let second = boot("sha256sum /root/data; ls /root | grep -c '^f'; tail -n 1 /etc/passwd");
    assert!(second.contains(sum), "{sum} not in {second}");
    assert!(second.contains("\n90\nchanged\n"), "{second}");
    assert!(before == fs::read(&base).expect("read"), "the base changed");
    succeed(Command::new("qemu-img").arg("check").arg(&overlay));
    succeed(Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(&overlay).arg(&merged));
    succeed(Command::new("e2fsck").args(["-f", "-n"]).arg(&merged));
}

/// Runs a program of the host that must succeed.
fn succeed(command: &mut Command) {
    let output = command.output().expect("a program of the host");
    assert!(output.status.success(), "{command:?}: {output:#?}");
}

#[test]
fn disk_that_grows_is_seen_by_the_running_guest() {
    let guest = Guest::minimal();
    let image = guest.image("data.img", 4 * MIB);
    let guest = guest.arg("--disk").arg(format!("path={}", image.display()));
    let words = run_words(
        "set -e; echo ready; while [ $(cat /sys/block/vdb/size) != 16384 ]; do sleep 0.1; done\n\
         dd if=/dev/zero of=/dev/vdb bs=1M seek=7 count=1 conv=fsync",
    );
    let guest = guest.append(&words);
    let mut child = guest.start();
    wait_for(&mut child, "ready");
    fs::File::options().write(true).open(&image).and_then(|f| f.set_len(8 * MIB)).expect("grow");
    signal(child.id(), "USR2");
    let ended = wait(child);
    assert!(ended.console.contains("exit status 0"), "{ended:#?}");
}

#[test]
fn queues_are_as_many_as_asked_for() {
    let guest = Guest::minimal();
    let image = guest.image("data.img", 4 * MIB);
    let disk = format!("path={},queues=2", image.display());
    let console = guest
        .args("--cpus 2 --disk")
        .arg(disk)
        .succeed("ls /sys/block/vda/mq | wc -l; ls /sys/block/vdb/mq | wc -l");
    assert!(console.contains("1\n2\n"), "{console}");
}

/// B14: a second machine is refused while the first writes, by name and with the exit status of
/// the host; read-only machines may share.
#[test]
fn one_image_has_one_writer() {
    let guest = Guest::minimal();
    let rootfs = guest.file("rootfs.ext4");
    let guest = guest.append(&run_words("echo ready; sleep 60"));
    let mut first = guest.start();
    wait_for(&mut first, "ready");
    let second = || {
        let output = Command::new("vmm")
            .arg("--kernel")
            .arg(kernel("minimal"))
            .arg("--rootfs")
            .arg(&rootfs)
            .stdin(std::process::Stdio::null())
            .output()
            .expect("vmm");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, stderr) = second();
    signal(first.id(), "TERM");
    let ended = wait(first);
    assert_eq!(ended.status, Some(143), "{ended:#?}");
    assert_eq!(status, Some(3), "{stderr}");
    assert!(stderr.contains("rootfs.ext4") && stderr.contains("lock"), "{stderr}");
}
