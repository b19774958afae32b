//! What a user reads for every input that is refused before a machine is built: exit status, one line
//! of error and a hint. Needs no /dev/kvm.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expects")]

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use assert_cmd::Command;
use tempfile::TempDir;

/// Far more than any of this takes, and less than a person waits: nothing may block.
const PATIENCE: Duration = Duration::from_secs(10);

fn vmm(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
    command.current_dir(dir).args(args).timeout(PATIENCE).output().expect("vmm runs")
}

/// Files that a user may have lying around.
fn files() -> TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(dir.path().join(name), bytes).expect("write");
    };
    let mut kernel = elf(62);
    write("vmlinux", &kernel);
    kernel.truncate(kernel.len() - 1);
    write("truncated", &kernel);
    write("aarch64", &elf(183));
    write("empty", b"");
    write("text", b"hello\n");
    write("gzip", b"\x1f\x8b\x08\0\0\0\0\0");
    write("qcow2", b"QFI\xfb\0\0\0\x03");
    write("root.img", &[0; 4096]);
    std::fs::create_dir(dir.path().join("directory")).expect("directory");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("fifo"), mode).expect("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("fifo.toml"), mode).expect("fifo");
    std::fs::create_dir(dir.path().join("directory.toml")).expect("directory");
    write("unknown.toml", b"kernel = 'vmlinux'\n\ncpu = 2\n");
    write("unknown.json", b"{\n  \"kernel\": \"vmlinux\",\n  \"cpu\": 2\n}\n");
    write("disk.toml", b"kernel = 'vmlinux'\n[[disk]]\npath = 'root.img'\nro = true\n");
    write("type.toml", b"kernel = 'vmlinux'\ncpus = 'two'\n");
    write("overflow.json", b"{\"cpus\": 18446744073709551616}");
    write("infinite.json", b"{\"cpus\": 1e400}");
    write("twice.toml", b"cpus = 1\ncpus = 2\n");
    write("latin1.toml", b"kernel = 'vmlinux'\n# caf\xe9\n");
    write("nested.json", "[".repeat(10_000).as_bytes());
    write("escape.toml", b"\"\\u001b[2J\\n\" = 1\n");
    write("empty.toml", b"");
    write("large.toml", &vec![b'\n'; (1 << 20) + 1]);
    write("vm.yaml", b"kernel: vmlinux\n");
    write("nul.json", b"{\"kernel\": \"vmlinux\", \"append\": \"a\\u0000b\"}");
    dir
}

/// An ELF executable of one segment for the processor `machine`.
fn elf(machine: u16) -> Vec<u8> {
    let mut file = vec![0; 64 + 56 + 16];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2_u16.to_le_bytes());
    put(18, &machine.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &1_u16.to_le_bytes());
    put(64, &1_u32.to_le_bytes());
    put(64 + 8, &120_u64.to_le_bytes());
    put(64 + 32, &16_u64.to_le_bytes());
    file
}

/// Runs `vmm` with arguments that it must refuse as a mistake of the user's, and returns the error.
fn refused(dir: &Path, args: &[&str]) -> String {
    let output = vmm(dir, args);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?}");
    let lines: Vec<_> = stderr.lines().collect();
    let [error, hint] = lines.as_slice() else { panic!("{args:?}: {stderr}") };
    assert!(error.starts_with("vmm: "), "{args:?}: {stderr}");
    assert!(hint.starts_with("hint: ") && hint.len() > 10, "{args:?}: {stderr}");
    assert!(!stderr.contains('\u{1b}'), "{args:?}: {stderr}");
    (*error).to_owned()
}

/// A reader of messages that has gone away (`vmm ... 2>&1 | head -1`) costs the messages alone: those
/// of the command line, and those of the log (about a disk that is no whole number of sectors).
#[test]
fn closed_standard_error_does_not_change_the_exit_status() {
    let dir = files();
    std::fs::write(dir.path().join("odd.img"), [0; 1000]).expect("write");
    let run = |args: &[&str]| {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vmm"));
        command.current_dir(dir.path()).args(args).stderr(writer);
        command.status().expect("vmm runs")
    };
    assert_eq!(run(&["--kernel", "missing"]).code(), Some(2));
    // What follows the log's message differs by host; a panic (101) or an abort is none of it.
    let args = ["--kernel", "vmlinux", "--disk", "path=odd.img"];
    assert!(run(&args).code().is_some_and(|code| code != 101));
}

fn assert_refused(cases: &[(&[&str], &str)]) {
    let dir = files();
    let before = listing(dir.path());
    for (args, sign) in cases {
        let error = refused(dir.path(), args);
        assert!(error.contains(sign), "{args:?}: {error}");
    }
    assert_eq!(listing(dir.path()), before, "nothing is left behind");
}

fn listing(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("directory");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    paths
}

/// K1, K2, K9: kernels that are no kernels.
#[test]
fn unusable_kernels_are_refused() {
    assert_refused(&[
        (&[], "no kernel given"),
        (&["--kernel", ""], "a value is required for '--kernel <FILE>'"),
        (&["--kernel", "missing"], "kernel: open missing: No such file"),
        (&["--kernel", "empty"], "kernel empty is empty"),
        (&["--kernel", "truncated"], "kernel truncated is truncated"),
        (&["--kernel", "aarch64"], "an ELF file for aarch64"),
        (&["--kernel", "text"], "neither an ELF vmlinux nor a bzImage"),
        (&["--kernel", "gzip"], "packed with gzip"),
        (&["--kernel", "directory"], "is a directory"),
        (&["--kernel", "fifo"], "is a FIFO"),
        (&["--kernel", "/dev/zero"], "is a character device"),
        (&["--kernel", "/proc/self/mem"], "is empty"),
        (&["--kernel", "vmlinux/x"], "Not a directory"),
    ]);
}

/// K9, B17: root filesystems, initial RAM disks and disks that are not files, or not raw.
#[test]
fn unusable_disks_and_initrds_are_refused() {
    const K: &str = "--kernel=vmlinux";
    assert_refused(&[
        (&[K, "--rootfs", "missing"], "rootfs: open missing"),
        (&[K, "--rootfs", "empty"], "rootfs empty is empty"),
        (&[K, "--rootfs", "fifo"], "is a FIFO"),
        (&[K, "--rootfs", "directory"], "is a directory"),
        (&[K, "--rootfs", "qcow2"], "a qcow2 image, not a raw image"),
        (&[K, "--rootfs", "vmlinux"], "an ELF file, not a raw image"),
        (&[K, "--initrd", "missing"], "initrd: open missing"),
        (&[K, "--initrd", "empty"], "initrd empty is empty"),
        (&[K, "--initrd", "fifo"], "is a FIFO"),
        (&[K, "--disk", "path=missing"], "disk: open missing"),
        (&[K, "--disk", "path=fifo"], "is a FIFO"),
        (&[K, "--disk", "path=/dev/zero,readonly=on"], "is a character device"),
        (&[K, "--disk", "path="], "the path of the disk is empty"),
        (&[K, "--console", "file=fifo"], "is a FIFO"),
        (&[K, "--console", "file=directory"], "is a directory"),
        (&[K, "--console", "file=/dev/zero"], "is a character device"),
        (&[K, "--console", "file=missing/log"], "console: open missing/log"),
        (&[K, "--port", "name=a,socket=missing/s"], "port a: open the directory missing"),
    ]);
}

/// K7: sizes and counts of nothing, too much and beyond 64 bits.
#[test]
fn sizes_and_counts_out_of_range_are_refused() {
    const K: &str = "--kernel=vmlinux";
    assert_refused(&[
        (&[K, "--cpus", "0"], "cpus is 0, a machine has 1 to 64"),
        (&[K, "--cpus", "65"], "cpus is 65"),
        (&[K, "--cpus", "4294967296"], "cpus is 4294967296"),
        (&[K, "--cpus", "18446744073709551616"], "too large"),
        (&[K, "--cpus", "-1"], "'-1'"),
        (&[K, "--cpus", "two"], "'two'"),
        (&[K, "--memory", "0M"], "at least 32M"),
        (&[K, "--memory", "31M"], "at least 32M"),
        (&[K, "--memory", "33M"], "not a multiple of 2M"),
        (&[K, "--memory", "1000000G"], "this host has"),
        (&[K, "--memory", "17592186044416M"], "64 bits"),
        (&[K, "--memory=-1M"], "'-1M'"),
        (&[K, "--memory", "256"], "did you mean 256M?"),
        (&[K, "--memory", ""], "a size is a whole number and a unit"),
        (&[K, "--balloon=size=256M"], "balloon is 256M, the machine has 256M"),
        (&[K, "--balloon=size=1000K"], "not a multiple of 1M"),
        (&[K, "--balloon", "size=64"], "did you mean 64M?"),
        (&[K, "--net", "tap=t,mtu=0"], "mtu is 0"),
        (&[K, "--net", "tap=t,mtu=65536"], "mtu"),
        (&[K, "--net", "tap=t,ip=10.0.0.2"], "ip: an address is written with its network's prefix"),
        (&[K, "--net", "tap=t,gateway=10.0.0.1"], "gateway 10.0.0.1 is given without ip"),
        (&[K, "--net", "tap=t,ip6=10.0.0.1"], "ip6"),
        (&[K, "--net", "tap=t,filter=maybe"], "neither `on` nor `off`"),
        (&[K, "--vsock", "cid=2,socket=s"], "cid is 2, a guest has 3 to 4294967294"),
        (&[K, "--vsock", "cid=4294967295,socket=s"], "cid is 4294967295"),
        (&[K, "--vsock", "cid=4294967296,socket=s"], "`4294967296` is not a number"),
    ]);
}

#[test]
fn unknown_and_clashing_flags_and_keys_are_refused() {
    const K: &str = "--kernel=vmlinux";
    assert_refused(&[
        (&["--memroy", "1G"], "'--memroy'"),
        (&["vmlinux"], "'vmlinux'"),
        (&[K, K], "cannot be used multiple times"),
        (&[K, "--console", "vga"], "none of `serial`, `virtio`, `pty`, `file=PATH` and `off`"),
        (&[K, "--console", "file="], "the path of the console is empty"),
        (&[K, "--port", "name=a"], "missing key `socket`"),
        (&[K, "--port", "name=a b,socket=s"], "port \"a b\" is not a name"),
        (&[K, "--port=name=a,socket=x", "--port=name=a,socket=y"], "two ports have the name \"a\""),
        (&[K, "--acpi", "maybe"], "neither `on` nor `off`"),
        (&[K, "--disk", "root.img"], "`root.img` is not key=value"),
        (&[K, "--disk", "path=a,ro=on"], "unknown key `ro`, expected one of `path`, `readonly`"),
        (&[K, "--disk", "readonly=on"], "missing key `path`"),
        (&[K, "--disk", "path=a,path=b"], "key `path` is given twice"),
        (&[K, "--disk=path=a,id=x", "--disk=path=b,id=x"], "two disks have the id \"x\""),
        (&[K, "--rootfs=root.img", "--disk=path=root.img"], "given as a disk twice"),
        (&[K, "--rootfs-readonly"], "there is no rootfs"),
        (&[K, "--net", "mac=02:00:00:00:00:01"], "on a tap or a user network"),
        (&[K, "--net", "user,tap=t"], "on a tap or a user network"),
        (&[K, "--net", "user,publish=80"], "a published port is [udp:][ADDRESS:]PORT:GUEST_PORT"),
        (&[K, "--net", "user,queues=2"], "queues is not for a user network"),
        (&[K, "--net", "tap=t,mtu=1,mtu=2"], "key `mtu` is given twice"),
        (&[K, "--net", "tap=sixteen-bytes-xx"], "is not an interface name"),
        (&[K, "--net", "tap=t,mac=01:00:00:00:00:00"], "multicast"),
        (&[K, "--net=tap=t", "--net=tap=t"], "two networks use the tap"),
        (&[K, "--balloon", "64M"], "`64M` is not key=value"),
        (&[K, "--balloon=sise=64M"], "unknown key `sise`, expected one of `size`"),
        (&[K, "--balloon=statistics=0s"], "statistics: an interval is"),
        (&[K, "--balloon", "--balloon"], "cannot be used multiple times"),
        (&[K, "--vsock", "cid=3"], "missing key `socket`"),
        (&[K, "--vsock", "cid=3,socket="], "is not the path of a file"),
        (&[K, "--vsock", "cid=3,socket=s", "--vsock", "cid=4,socket=t"], "multiple times"),
        (&[K, "--vsock", "cid=3,socket=root.img"], "root.img exists and is no socket"),
        (&[K, "--append", "a\nb"], "control character '\\n'"),
        (&[K, "--log-level", "loud"], "'loud'"),
        (&["doctor", "--format", "xml"], "'xml'"),
        (&["doctor", K], "'--kernel'"),
    ]);
}

/// K6: a command line that the kernel would cut off.
#[test]
fn cmdline_that_is_too_long_is_refused() {
    let dir = files();
    let long = "x".repeat(2048);
    let error = refused(dir.path(), &["--kernel", "vmlinux", "--cmdline", &long]);
    assert!(error.contains("2048 bytes"), "{error}");
}

#[test]
fn more_devices_than_the_machine_has_places_are_refused() {
    let dir = files();
    let disks: Vec<_> =
        (0..30).map(|n| format!("--disk=path=root.img,readonly=on,id=d{n}")).collect();
    let args: Vec<_> = ["--kernel=vmlinux"].into_iter().chain(disks.iter().map(|d| &**d)).collect();
    let error = refused(dir.path(), &args);
    assert!(error.contains("31 virtio devices"), "{error}");
}

/// K8, K9: configuration files; errors in them name the place.
#[test]
fn unusable_configuration_files_are_refused() {
    assert_refused(&[
        (&["--config", "missing.toml"], "open missing.toml: No such file"),
        (&["--config", "vm.yaml"], "neither .toml nor .json"),
        (&["--config", "fifo.toml"], "is a FIFO"),
        (&["--config", "directory.toml"], "is a directory"),
        (&["--config", "empty.toml"], "no kernel given"),
        (&["--config", "large.toml"], "larger than 1 MiB"),
        (&["--config", "unknown.toml"], "unknown.toml:3:1: unknown key `cpu`"),
        (&["--config", "unknown.json"], "unknown.json:3:"),
        (&["--config", "disk.toml"], "disk.toml:4:1: unknown key `ro`"),
        (&["--config", "type.toml"], "type.toml:2:8: "),
        (&["--config", "overflow.json"], "overflow.json:1:"),
        (&["--config", "infinite.json"], "infinite.json:1:"),
        (&["--config", "twice.toml"], "twice.toml:2:1: duplicate key"),
        (&["--config", "latin1.toml"], "latin1.toml:2:6: invalid UTF-8"),
        (&["--config", "nested.json"], "nested.json:1:"),
        (&["--config", "escape.toml"], "escape.toml:1:1: unknown key `\\u{1b}[2J\\n`"),
        (&["--config", "nul.json"], "control character '\\0'"),
    ]);
}

#[test]
fn flag_wins_over_the_file() {
    let dir = files();
    std::fs::write(dir.path().join("vm.toml"), "kernel = 'vmlinux'\ncpus = 65\n").expect("write");
    let error = refused(dir.path(), &["--config", "vm.toml"]);
    assert!(error.contains("cpus is 65"), "{error}");
    let error = refused(dir.path(), &["--config", "vm.toml", "--cpus", "66"]);
    assert!(error.contains("cpus is 66"), "{error}");
}

#[test]
fn help_and_version_go_to_standard_output() {
    let dir = files();
    for (args, sign) in
        [(["--help"], "Exit status:"), (["-h"], "Examples:"), (["--version"], "vmm 0.1.0")]
    {
        let output = vmm(dir.path(), &args);
        assert_eq!(output.status.code(), Some(0));
        let stdout = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(stdout.contains(sign), "{args:?}: {stdout}");
        assert!(output.stderr.is_empty(), "{args:?}");
    }
}

/// P10: the report says the same in its status, its verdict and its problems on every host.
#[test]
fn doctor_reports_the_host_for_programs_and_people() {
    let dir = files();
    let output = vmm(dir.path(), &["doctor", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ready = report["ready"].as_bool().expect("ready");
    assert_eq!(output.status.code(), Some(if ready { 0 } else { 3 }));
    let mode = report["kvm"]["mode"].as_str().expect("mode");
    assert!(["hardware", "software", "unavailable"].contains(&mode), "{mode}");
    assert!(mode == "hardware" || !ready, "{report}");
    let problems = report["problems"].as_array().expect("problems");
    assert_eq!(problems.iter().any(|problem| problem["blocks"] == true), !ready);
    for problem in problems {
        assert!(problem["what"].is_string() && problem["fix"].is_string(), "{problem}");
    }
    for key in ["present", "permitted", "api_version"] {
        assert!(report["kvm"].get(key).is_some(), "{key}");
    }
    assert!(report["tun"]["present"].is_boolean());
    assert!(report["passt"]["path"].is_null() || report["passt"]["path"].is_string());
    assert!(report["memory"]["available_mib"].as_u64().is_some_and(|mib| mib > 0));
    assert!(report["limits"].get("open_files").is_some());

    let text = vmm(dir.path(), &["doctor"]);
    assert_eq!(text.status.code(), output.status.code());
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    let verdict = if ready { "guests can run here" } else { "guests cannot run here" };
    assert!(text.trim_end().ends_with(verdict), "{text}");
}
