//! virtio-blk under a kernel's driver.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::guest::{Guest, run_words, signal, wait, wait_for};

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
    let again =
        Guest::bare("kernels/minimal/vmlinux").arg("--rootfs").arg(second.to_str().unwrap());
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

/// Direct I/O of every size and alignment the driver allows, checked against the host's file.
#[test]
fn direct_io_reads_what_the_host_wrote_and_back() {
    let guest = Guest::minimal();
    let image = guest.file("data.img");
    let bytes: Vec<u8> = (0..16 * MIB).map(|n| ((n * 2_654_435_761) >> 13) as u8).collect();
    fs::write(&image, &bytes).expect("write");
    let guest = guest.arg("--disk").arg(format!("path={}", image.display()));
    let words = run_words(
        "set -e\nfor bs in 512 4k 64k 1M; do dd if=/dev/vdb bs=$bs iflag=direct 2>/dev/null | sha256sum; done\n\
         dd if=/dev/vdb of=/dev/vdb bs=1M skip=8 count=8 conv=notrunc,fsync iflag=direct oflag=direct 2>/dev/null",
    );
    let guest = guest.append(&words);
    let ended = wait(guest.start());
    assert!(ended.console.contains("exit status 0"), "{ended:#?}");
    let sums: Vec<&str> = ended.console.lines().filter(|line| line.ends_with("  -")).collect();
    assert_eq!(sums.len(), 4, "{ended:#?}");
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    let half = bytes.len() / 2;
    let after = fs::read(&image).expect("read");
    assert!(after[..half] == bytes[half..] && after[half..] == bytes[half..]);
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
            .args(["--kernel", "/srv/vmm/kernels/minimal/vmlinux", "--rootfs"])
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
