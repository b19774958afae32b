use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::config::{Balloon, PartialConfig};

/// Options with which nothing is missing.
const COMPLETE: &str = "CONFIG_ACPI=y\nCONFIG_BLK_DEV_INITRD=y\nCONFIG_EXT4_FS=y\nCONFIG_IP_PNP=y\n\
    CONFIG_RD_GZIP=y\n\
    CONFIG_SERIAL_8250_CONSOLE=y\nCONFIG_SMP=y\nCONFIG_SQUASHFS=y\nCONFIG_SQUASHFS_ZSTD=y\n\
    CONFIG_VIRTIO_BALLOON=y\nCONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_MMIO=y\nCONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y\n\
    CONFIG_VIRTIO_NET=y\nCONFIG_X86_MPPARSE=y\n";

/// A directory of files and the configuration that names them.
struct Case {
    dir: TempDir,
    machine: &'static str,
    config: PartialConfig,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let case = Self { dir, machine: "x86_64", config: PartialConfig::default() };
        case.kernel(&elf(COMPLETE))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).expect("write");
        path
    }

    fn kernel(mut self, bytes: &[u8]) -> Self {
        self.config.kernel = Some(self.write("kernel", bytes));
        self
    }

    fn rootfs(mut self, bytes: &[u8]) -> Self {
        self.config.rootfs = Some(self.write("rootfs", bytes));
        self
    }

    fn initrd(mut self, bytes: &[u8]) -> Self {
        self.config.initrd = Some(self.write("initrd", bytes));
        self
    }

    /// The machine is one of aarch64.
    fn on_aarch64(self) -> Self {
        Self { machine: "aarch64", ..self }
    }

    fn with(mut self, change: impl FnOnce(&mut PartialConfig)) -> Self {
        change(&mut self.config);
        self
    }

    fn check(&self) -> Result<Vec<Finding>, PreflightError> {
        check_for(self.machine, &self.config.clone().resolve().expect("valid"))
    }

    fn refused(&self) -> String {
        let error = self.check().expect_err("refused");
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{error}");
        error.to_string()
    }

    fn warned(&self) -> String {
        let findings = self.check().expect("may boot");
        let what: Vec<_> = findings.into_iter().map(|finding| finding.what).collect();
        assert_eq!(what.len(), 1, "{what:?}");
        what.concat()
    }
}

/// An ELF kernel with one segment and sections `.rodata` and `.shstrtab`; the former holds `options`
/// as a kernel built with CONFIG_IKCONFIG does, behind enough bytes to need several steps.
fn elf(options: &str) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(options.as_bytes()).expect("pack");
    let mut rodata = vec![0; 100_003];
    rodata.extend_from_slice(b"IKCFG_ST");
    rodata.extend(gzip.finish().expect("pack"));
    rodata.extend_from_slice(b"IKCFG_ED");
    elf_with(&rodata)
}

fn elf_with(rodata: &[u8]) -> Vec<u8> {
    const RODATA_AT: usize = 64 + 56 + 3 * 64 + 32;
    let names = b"\0.rodata\0.shstrtab\0";
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(64, 0);
    put(&mut file, 16, &2_u16.to_le_bytes());
    put(&mut file, 18, &62_u16.to_le_bytes());
    put(&mut file, 32, &64_u64.to_le_bytes());
    put(&mut file, 40, &(64 + 56_u64).to_le_bytes());
    for (at, value) in [(54, 56_u16), (56, 1), (58, 64), (60, 3), (62, 2)] {
        put(&mut file, at, &value.to_le_bytes());
    }
    file.resize(RODATA_AT, 0);
    put(&mut file, 64, &1_u32.to_le_bytes());
    put(&mut file, 64 + 8, &u64::try_from(RODATA_AT).expect("small").to_le_bytes());
    put(&mut file, 64 + 32, &u64::try_from(rodata.len()).expect("small").to_le_bytes());
    let names_at = RODATA_AT - 32;
    put(&mut file, names_at, names);
    for (index, name, at, len) in
        [(1, 1_u32, RODATA_AT, rodata.len()), (2, 9, names_at, names.len())]
    {
        let header = 64 + 56 + index * 64;
        put(&mut file, header, &name.to_le_bytes());
        put(&mut file, header + 24, &u64::try_from(at).expect("small").to_le_bytes());
        put(&mut file, header + 32, &u64::try_from(len).expect("small").to_le_bytes());
    }
    file.extend_from_slice(rodata);
    file
}

fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    file[0x1f1] = 1;
    put(&mut file, 0x1f4, &0xc0_u32.to_le_bytes());
    put(&mut file, 0x1fe, &0xaa55_u16.to_le_bytes());
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x206, &0x20f_u16.to_le_bytes());
    put(&mut file, 0x236, &1_u16.to_le_bytes());
    file
}

/// An ext4 image of 64 blocks of 1 KiB.
fn ext4() -> Vec<u8> {
    let mut file = vec![0; 64 << 10];
    put(&mut file, 0x404, &64_u32.to_le_bytes());
    put(&mut file, 0x438, &0xef53_u16.to_le_bytes());
    put(&mut file, 0x45c, &0x4_u32.to_le_bytes());
    put(&mut file, 0x460, &0x42_u32.to_le_bytes());
    file
}

fn squashfs() -> Vec<u8> {
    let mut file = vec![0; 8192];
    put(&mut file, 0, b"hsqs");
    put(&mut file, 20, &6_u16.to_le_bytes());
    put(&mut file, 40, &8000_u64.to_le_bytes());
    file
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn without(option: &str) -> Vec<u8> {
    let kept: Vec<_> =
        COMPLETE.lines().filter(|line| *line != format!("CONFIG_{option}=y")).collect();
    elf(&kept.join("\n"))
}

#[test]
fn complete_kernel_and_rootfs_are_accepted_without_remarks() {
    assert_eq!(Case::new().rootfs(&ext4()).check().expect("fine"), []);
    assert_eq!(Case::new().rootfs(&squashfs()).check().expect("fine"), []);
    assert_eq!(Case::new().kernel(&bzimage()).rootfs(&ext4()).check().expect("fine"), []);
}

#[test]
fn missing_driver_of_the_root_disk_is_an_error() {
    let case = Case::new().kernel(&without("VIRTIO_BLK")).rootfs(&ext4());
    assert_eq!(case.refused(), "kernel has no CONFIG_VIRTIO_BLK, rootfs is on /dev/vda");
    let case = Case::new().kernel(&without("VIRTIO_MMIO")).rootfs(&ext4());
    assert_eq!(case.refused(), "kernel has no CONFIG_VIRTIO_MMIO, rootfs is on /dev/vda");
}

#[test]
fn driver_as_a_module_needs_an_initrd() {
    let kernel = elf(&COMPLETE.replace("VIRTIO_BLK=y", "VIRTIO_BLK=m"));
    let case = Case::new().kernel(&kernel).rootfs(&ext4());
    assert!(case.refused().contains("CONFIG_VIRTIO_BLK=m and no initrd"));
    let case = case.initrd(b"070701");
    assert_eq!(case.check().expect("the initrd may hold it"), []);
}

#[test]
fn missing_filesystem_is_an_error_and_a_remark_with_another_command_line() {
    let case = Case::new().kernel(&without("EXT4_FS")).rootfs(&ext4());
    assert_eq!(case.refused(), "rootfs is ext4, kernel has no CONFIG_EXT4_FS");
    let case = case.with(|config| config.cmdline = Some("root=/dev/vdb".to_owned()));
    assert_eq!(case.warned(), "rootfs is ext4, kernel has no CONFIG_EXT4_FS");
    let case = Case::new().kernel(&without("SQUASHFS_ZSTD")).rootfs(&squashfs());
    assert_eq!(case.refused(), "rootfs is squashfs, kernel has no CONFIG_SQUASHFS_ZSTD");
}

#[test]
fn everything_that_is_missing_is_told_at_once() {
    let case = Case::new().kernel(&elf("CONFIG_ACPI=y\n")).rootfs(&ext4());
    let error = case.refused();
    for option in ["VIRTIO_BLK", "VIRTIO_MMIO", "EXT4_FS"] {
        assert!(error.contains(option), "{error}");
    }
}

#[test]
fn way_of_finding_devices_must_be_built_in() {
    let acpi = Case::new().kernel(&without("ACPI")).rootfs(&ext4());
    assert!(acpi.refused().contains("CONFIG_ACPI"));
    let off = acpi.with(|config| config.acpi = Some(false));
    assert_eq!(off.check().expect("needs no ACPI"), []);
    let off = off.kernel(&without("VIRTIO_MMIO_CMDLINE_DEVICES"));
    assert!(off.refused().contains("CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"));
    let off = off.kernel(&without("X86_MPPARSE")).with(|config| config.cpus = Some(2));
    assert!(off.warned().contains("CONFIG_X86_MPPARSE"));
}

#[test]
fn nothing_to_start_is_a_remark() {
    let case = Case::new();
    assert!(case.warned().contains("finds nothing to start"));
    let own = format!("{COMPLETE}CONFIG_INITRAMFS_SOURCE=\"initramfs\"\n");
    assert_eq!(Case::new().kernel(&elf(&own)).check().expect("it brings its own"), []);
    let told = case.with(|config| config.append = Some("root=/dev/nfs".to_owned()));
    assert_eq!(told.check().expect("the user knows"), []);
}

#[test]
fn missing_comforts_are_remarks() {
    let serial = Case::new().kernel(&without("SERIAL_8250_CONSOLE")).initrd(b"070701");
    assert!(serial.warned().contains("the console stays empty"));
    let quiet = serial.with(|config| config.console = Some(crate::config::Console::Off));
    assert_eq!(quiet.check().expect("no console wanted"), []);
    let net = Case::new()
        .kernel(&without("VIRTIO_NET"))
        .initrd(b"070701")
        .with(|config| config.net = vec!["tap=tap0".parse().expect("valid")]);
    assert!(net.warned().contains("CONFIG_VIRTIO_NET"));
    let balloon = Case::new()
        .kernel(&without("VIRTIO_BALLOON"))
        .initrd(b"070701")
        .with(|config| config.balloon = Some(Balloon::default()));
    assert!(balloon.warned().contains("CONFIG_VIRTIO_BALLOON"));
    let address = Case::new()
        .kernel(&without("IP_PNP"))
        .initrd(b"070701")
        .with(|config| config.net = vec!["tap=tap0,ip=10.0.0.2/8".parse().expect("valid")]);
    assert!(address.warned().contains("CONFIG_IP_PNP"));
    let smp =
        Case::new().kernel(&without("SMP")).initrd(b"070701").with(|config| config.cpus = Some(2));
    assert!(smp.warned().contains("CONFIG_SMP"));
}

#[test]
fn initrd_must_be_of_a_packing_that_the_kernel_knows() {
    let gzip = Case::new().kernel(&without("RD_GZIP")).initrd(b"\x1f\x8b\x08");
    assert_eq!(gzip.refused(), "initrd is packed with gzip, kernel has no CONFIG_RD_GZIP");
    let plain = Case::new().kernel(&without("RD_GZIP")).initrd(b"070701");
    assert_eq!(plain.check().expect("not packed"), []);
    let none = Case::new().kernel(&without("BLK_DEV_INITRD")).initrd(b"070701");
    assert!(none.refused().contains("CONFIG_BLK_DEV_INITRD"));
}

#[test]
fn what_is_not_a_raw_image_is_named_with_a_way_out() {
    for (magic, kind, fix) in [
        (&b"QFI\xfb"[..], "qcow2", "qemu-img convert -O raw"),
        (b"KDMV", "VMDK", "qemu-img"),
        (b"\x1f\x8b", "gzip", "unpack"),
        (b"070701", "cpio", "--initrd"),
        (b"\x7fELF", "ELF", "--kernel"),
    ] {
        let case = Case::new().rootfs(magic);
        let error = case.check().expect_err(kind);
        assert!(error.to_string().contains(kind), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains(fix)), "{error}");
    }
    let mut tar = vec![0; 512];
    put(&mut tar, 0x101, b"ustar");
    assert!(Case::new().rootfs(&tar).refused().contains("a tar archive"));
}

#[test]
fn truncated_filesystem_is_an_error() {
    let cut = |image: Vec<u8>| Case::new().rootfs(&image[..4096]).refused();
    assert!(cut(ext4()).contains("its filesystem has 65536 bytes, the file 4096"));
    assert!(cut(squashfs()).contains("its filesystem has 8000 bytes"));
}

#[test]
fn unclean_journal_of_a_read_only_rootfs_is_a_remark() {
    let mut image = ext4();
    put(&mut image, 0x460, &0x46_u32.to_le_bytes());
    let case = Case::new().rootfs(&image);
    assert_eq!(case.check().expect("replayed"), []);
    let case = case.with(|config| config.rootfs_readonly = Some(true));
    assert!(case.warned().contains("journal"));
}

#[test]
fn partitions_and_unknown_contents_are_remarks() {
    let mut disk = vec![0; 64 << 10];
    put(&mut disk, 0x1fe, &0xaa55_u16.to_le_bytes());
    let case = Case::new().rootfs(&disk);
    assert!(case.warned().contains("partitions"));
    let case = case.with(|config| config.append = Some("root=/dev/vda1".to_owned()));
    assert_eq!(case.check().expect("the root is named"), []);
    assert!(Case::new().rootfs(&[0; 4096]).warned().contains("no filesystem"));
}

#[test]
fn kernel_of_another_kind_is_named() {
    let mut aarch64 = elf(COMPLETE);
    put(&mut aarch64, 18, &183_u16.to_le_bytes());
    let mut thirty_two_bits = elf(COMPLETE);
    thirty_two_bits[4] = 1;
    let mut object = elf(COMPLETE);
    put(&mut object, 16, &1_u16.to_le_bytes());
    let mut image = vec![0; 4096];
    put(&mut image, 0x38, b"ARM\x64");
    let mut old = bzimage();
    put(&mut old, 0x236, &0_u16.to_le_bytes());
    for (kernel, sign) in [
        (aarch64, "an ELF file for aarch64, this machine is x86_64"),
        (thirty_two_bits, "a 32-bit ELF file"),
        (object, "not an executable one"),
        (image, "an aarch64 Image"),
        (old, "no 64-bit entry point"),
        (b"\x1f\x8b\x08".to_vec(), "packed with gzip"),
        (b"#!/bin/sh\n".to_vec(), "neither an ELF vmlinux nor a bzImage"),
        (vec![0], "neither an ELF vmlinux nor a bzImage"),
    ] {
        let error = Case::new().kernel(&kernel).refused();
        assert!(error.contains(sign), "{error}");
    }
}

/// An Image with its configuration somewhere in it.
fn image(options: &str) -> Vec<u8> {
    let mut file = vec![0; 64];
    put(&mut file, 0x38, b"ARM\x64");
    file.extend(elf(options));
    file
}

#[test]
fn kernels_of_aarch64_are_judged_by_what_that_needs() {
    let case = || Case::new().on_aarch64().rootfs(&ext4());
    let no_acpi = COMPLETE.replace("CONFIG_ACPI=y\n", "");
    assert_eq!(case().kernel(&image(&no_acpi)).check().expect("fine"), []);
    let no_disk = no_acpi.replace("CONFIG_VIRTIO_BLK=y\n", "");
    assert!(case().kernel(&image(&no_disk)).refused().contains("no CONFIG_VIRTIO_BLK"));
    for packed in [&b"\x1f\x8b\x08"[..], b"MZ\0\0zimg"] {
        assert_eq!(case().kernel(packed).check().expect("nothing is known"), []);
    }
    let mut vmlinux = elf(COMPLETE);
    put(&mut vmlinux, 18, &183_u16.to_le_bytes());
    for (kernel, sign) in [
        (elf(COMPLETE), "an ELF file for x86_64, this machine is aarch64"),
        (bzimage(), "an x86 bzImage, this machine is aarch64"),
        (vmlinux, "an ELF vmlinux, which no aarch64 machine boots"),
        (b"BZh".to_vec(), "packed with bzip2"),
        (b"#!/bin/sh\n".to_vec(), "no arm64 Image"),
    ] {
        let error = case().kernel(&kernel).refused();
        assert!(error.contains(sign), "{error}");
    }
}

/// K1 and K2: a kernel that ends early, at each border of its headers and beyond.
#[test]
fn truncated_kernel_is_refused() {
    let whole = elf(COMPLETE);
    for len in [4, 16, 63, 64, 119, 120, 312, whole.len() - 1] {
        let error = Case::new().kernel(&whole[..len]).refused();
        assert!(error.contains("truncated"), "{len}: {error}");
    }
    let bzimage = bzimage();
    for len in [0x206, 0x230, 0x268, bzimage.len() - 16] {
        let error = Case::new().kernel(&bzimage[..len]).refused();
        assert!(error.contains("truncated"), "{len}: {error}");
    }
}

/// The loader takes it too: the header counts paragraphs of 16 bytes.
#[test]
fn bzimage_that_ends_within_its_last_paragraph_is_accepted() {
    let bzimage = bzimage();
    assert!(Case::new().kernel(&bzimage[..bzimage.len() - 15]).check().is_ok());
}

/// K2 and K4: tables and segments that claim to lie beyond the file, or to wrap around.
#[test]
fn tables_and_sizes_beyond_the_file_are_refused() {
    for (at, value) in [(32, u64::MAX), (32, 1 << 40), (64 + 8, u64::MAX), (64 + 32, u64::MAX)] {
        let mut kernel = elf(COMPLETE);
        put(&mut kernel, at, &value.to_le_bytes());
        assert!(Case::new().kernel(&kernel).refused().contains("truncated"), "{at}");
    }
    let mut kernel = elf(COMPLETE);
    put(&mut kernel, 56, &u16::MAX.to_le_bytes());
    assert!(Case::new().kernel(&kernel).refused().contains("65535 program headers"));
    let mut kernel = bzimage();
    put(&mut kernel, 0x1f4, &u32::MAX.to_le_bytes());
    kernel[0x1f1] = 255;
    assert!(Case::new().kernel(&kernel).refused().contains("truncated"));
}

#[test]
fn kernel_without_a_readable_configuration_is_not_judged_by_it() {
    let packed = |text: &[u8]| {
        let mut gzip = GzEncoder::new(b"IKCFG_ST".to_vec(), Compression::best());
        gzip.write_all(text).expect("pack");
        gzip.finish().expect("pack")
    };
    let endless = b"CONFIG_ACPI=y\n".repeat(1 << 20);
    for rodata in [
        &b"no mark"[..],
        b"IKCFG_ST",
        b"IKCFG_STgarbage",
        b"IKCFG_ST\x1f\x8b\x08",
        &packed(b"no configuration"),
        &packed(&endless),
    ] {
        let case = Case::new().kernel(&elf_with(rodata)).rootfs(&ext4());
        assert_eq!(case.check().expect("nothing is known"), []);
    }
}

#[test]
fn mark_is_found_at_every_place_around_a_border_of_steps() {
    let config = {
        let mut gzip = GzEncoder::new(b"IKCFG_ST".to_vec(), Compression::best());
        gzip.write_all(b"CONFIG_ACPI=y\n").expect("pack");
        gzip.finish().expect("pack")
    };
    for before in (32 << 10) - 9..(32 << 10) + 2 {
        let mut rodata = vec![0; before];
        rodata.extend_from_slice(&config);
        let case = Case::new().kernel(&elf_with(&rodata)).rootfs(&ext4());
        assert!(case.refused().contains("CONFIG_VIRTIO_BLK"), "{before}");
    }
}

#[test]
fn missing_empty_and_non_regular_files_are_named_by_their_role() {
    let missing = |noun: &str, config: fn(&mut PartialConfig)| {
        let error = Case::new().with(config).refused();
        assert!(error.starts_with(noun), "{error}");
    };
    missing("kernel", |config| config.kernel = Some("/no/such".into()));
    missing("initrd", |config| config.initrd = Some("/no/such".into()));
    missing("rootfs", |config| config.rootfs = Some("/dev/zero".into()));
    missing("disk", |config| config.disk = vec!["path=/".parse().expect("valid")]);
    assert!(Case::new().kernel(b"").refused().contains("is empty"));
    assert!(Case::new().rootfs(b"").refused().contains("is empty"));
    assert!(Case::new().initrd(b"").refused().contains("is empty"));
}

proptest! {
    /// K1 to K4: bytes changed anywhere in the headers.
    #[test]
    fn damaged_files_never_cause_a_panic(
        changes in prop::collection::vec((0_usize..400, any::<u8>()), 1..20),
        which in 0..4,
    ) {
        let mut file = match which {
            0 => elf(COMPLETE),
            1 => bzimage(),
            2 => ext4(),
            _ => squashfs(),
        };
        for (at, value) in changes {
            // Half of the changes go to where bzImage and ext4 keep their headers.
            let at = match which { 1 => 0x1f0 + at % 0x80, 2 => 0x400 + at % 0x180, _ => at };
            file[at] = value;
        }
        let case = Case::new();
        let case = if which < 2 { case.kernel(&file) } else { case.rootfs(&file) };
        let _ = case.check();
    }
}
