//! One measured boot: QEMU without hardware acceleration, with the counting plugin.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::symbols::Symbols;

/// Debian packages that a measurement needs.
pub(crate) const PACKAGES: &[&str] = &["qemu-system-x86", "gcc", "binutils", "e2fsprogs"];

const PLUGIN: &str = include_str!("plugin.c");
const INIT: &str = include_str!("init.c");
const QEMU: &str = "qemu-system-x86_64";
const TIMEOUT: Duration = Duration::from_secs(180);
const MOST_RUNS: u32 = 12;

/// First instruction of a kernel that is booted by its PVH note.
const ENTRY: &str = "pvh_start_xen";
/// Kernel side of the first process: runs after everything that runs at low addresses, before user space.
const ARMED: &str = "kernel_init";
/// Tells a device that there is work: the guest waits for the device where this returns.
const NOTIFY: &str = "vm_notify";
/// Waits for hardware that only this emulated machine has: no PIT answers, and the frequency of the
/// local APIC is unknown. A guest of KVM takes both from its hypervisor and never runs this.
const NOT_COUNTED: &[&str] = &["quick_pit_calibrate", "setup_boot_APIC_clock", "lapic_cal_handler"];

/// What to boot.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// ELF kernel with its symbol table.
    pub(crate) kernel: PathBuf,
    /// Memory of the machine.
    pub(crate) memory_mib: u32,
    /// Devices and processors described by ACPI; else by the command line and the MP table.
    pub(crate) acpi: bool,
    /// What precedes the root filesystem and the measurement's own options on the command line.
    pub(crate) cmdline: String,
}

/// Instructions from the kernel's entry to the first one of user space.
#[derive(Debug, Default)]
pub(crate) struct Count {
    /// As a processor counts them: a repeated string instruction is one.
    pub(crate) retired: u64,
    /// Every round of a repeated string instruction counted.
    pub(crate) rounds: u64,
    /// Instructions by kernel function.
    pub(crate) functions: BTreeMap<String, u64>,
    /// Names of initialisation functions in the order they ran, each with the count reached before it.
    pub(crate) phases: Vec<(String, u64)>,
    /// The whole command line.
    pub(crate) cmdline: String,
}

/// Boots `guest` until two runs agree to a ten-thousandth, and returns the lower count.
///
/// The guest sees no clock of the host and waits for its devices at once, so that runs mostly agree to
/// the last instruction. What is left is the value of a random number here and there, and a device
/// that a busy host lets answer late.
pub(crate) fn measure(guest: &Guest) -> Result<Count> {
    let scratch = Scratch::new()?;
    let dir = &scratch.0;
    let counter = Counter::new(&guest.kernel, dir)?;
    make_disk(dir)?;
    let cmdline = format!("{} root=/dev/vda ro norandmaps tsc_early_khz=1000000", guest.cmdline);
    let mut seen: Vec<Count> = Vec::new();
    for _ in 0..MOST_RUNS {
        boot(guest, dir, &counter.plugin_argument(false)?, &cmdline)?;
        let count = counter.read().with_context(|| {
            let console = fs::read_to_string(dir.join("console")).unwrap_or_default();
            format!("the guest reached no user space; its console:\n{console}")
        })?;
        let twin = seen.iter().position(|other| agree(other.retired, count.retired));
        if let Some(twin) = twin.map(|index| seen.swap_remove(index)) {
            let lower = if twin.retired < count.retired { twin } else { count };
            return Ok(Count { cmdline, ..lower });
        }
        seen.push(count);
    }
    let seen: Vec<u64> = seen.iter().map(|count| count.retired).collect();
    bail!("no two of {MOST_RUNS} runs agree: {seen:?}; is the host overloaded?")
}

/// Name and version of the emulator, which decides what the processor and its tables offer.
pub(super) fn emulator() -> Result<String> {
    let output =
        Command::new(QEMU).arg("--version").output().with_context(|| format!("run {QEMU}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn agree(a: u64, b: u64) -> bool {
    a.abs_diff(b) <= a.min(b) / 10_000
}

/// Counts one kernel's instructions by a plugin of the QEMU that runs it.
pub(crate) struct Counter {
    dir: PathBuf,
    symbols: Symbols,
}

impl Counter {
    /// Compiles the plugin into `dir`, for the ELF `kernel` with its symbol table.
    pub(crate) fn new(kernel: &Path, dir: &Path) -> Result<Self> {
        let symbols = Symbols::read(kernel)?;
        let dir = fs::canonicalize(dir).with_context(|| format!("find {}", dir.display()))?;
        fs::write(dir.join("plugin.c"), PLUGIN)?;
        run(&dir, "gcc", &["-O2", "-shared", "-fPIC", "-o", "plugin.so", "plugin.c"])?;
        let marks: String =
            symbols.initialisers().map(|address| format!("{address:x}\n")).collect();
        fs::write(dir.join("marks"), marks)?;
        Ok(Self { dir, symbols })
    }

    /// The value of QEMU's `-plugin` option. QEMU ends when the count is complete.
    ///
    /// With `nested` the kernel is a guest of KVM on the machine that QEMU emulates, which must have
    /// one processor with AMD-V; its own instructions are not counted.
    pub(crate) fn plugin_argument(&self, nested: bool) -> Result<String> {
        let range = |name: &str| {
            let range = self.symbols.range(name);
            range.with_context(|| format!("the kernel has no symbol {name}"))
        };
        let file = |name: &str| self.dir.join(name).display().to_string().replace(',', ",,");
        let mut argument = format!(
            "{},out={},marks={},entry={:x},armed={:x}",
            file("plugin.so"),
            file("report"),
            file("marks"),
            range(ENTRY)?.start,
            range(ARMED)?.start
        );
        if nested {
            return Ok(argument + ",nested=on");
        }
        let notify = range(NOTIFY)?;
        argument += &format!(",settle={:x}-{:x}", notify.start, notify.end);
        for range in NOT_COUNTED.iter().filter_map(|name| self.symbols.range(name)) {
            argument += &format!(",exclude={:x}-{:x}", range.start, range.end);
        }
        Ok(argument)
    }

    /// Takes the report that the plugin left.
    pub(crate) fn read(&self) -> Result<Count> {
        let path = self.dir.join("report");
        let report = fs::read_to_string(&path).context("the plugin left no report")?;
        fs::remove_file(&path)?;
        parse(&report, &self.symbols)
    }
}

/// Makes `root.ext4` with a first process that ends the machine.
fn make_disk(dir: &Path) -> Result<()> {
    fs::write(dir.join("init.c"), INIT)?;
    fs::create_dir_all(dir.join("root/sbin"))?;
    fs::create_dir_all(dir.join("root/dev"))?;
    run(dir, "gcc", &["-O2", "-static", "-nostdlib", "-o", "root/sbin/init", "init.c"])?;
    let uuid = "00000000-0000-0000-0000-000000000001";
    let seed = format!("hash_seed={uuid}");
    run(
        dir,
        "mke2fs",
        &["-q", "-t", "ext4", "-d", "root", "-U", uuid, "-E", &seed, "root.ext4", "16M"],
    )
}

fn boot(guest: &Guest, dir: &Path, plugin: &str, cmdline: &str) -> Result<()> {
    let acpi = if guest.acpi { "on" } else { "off" };
    let machine = format!("microvm,acpi={acpi},pit=off,pic=off,x-option-roms=off");
    let kernel = fs::canonicalize(&guest.kernel)
        .with_context(|| format!("find {}", guest.kernel.display()))?;
    let mut qemu = Command::new(QEMU);
    qemu.current_dir(dir)
        .args(["-M", &machine, "-accel", "tcg", "-cpu", "max", "-smp", "1"])
        .args(["-m", &guest.memory_mib.to_string()])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "file:console"])
        // One instruction is one nanosecond; nothing is taken from the host's clock or randomness.
        .args(["-icount", "shift=0", "-seed", "1"])
        .args(["-rtc", "base=2024-01-01,clock=vm"])
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .args(["-global", "virtio-mmio.ioeventfd=off"])
        .args(["-drive", "id=root,if=none,format=raw,file=root.ext4,readonly=on"])
        .args(["-device", "virtio-blk-device,drive=root"])
        .args(["-netdev", "user,id=net,restrict=on"])
        .args(["-device", "virtio-net-device,netdev=net,mac=52:54:00:12:34:56"])
        .args(["-object", "rng-builtin,id=rng"])
        .args(["-device", "virtio-rng-device,rng=rng"])
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", cmdline, "-plugin", plugin])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(File::create(dir.join("errors"))?));
    let mut child = qemu.spawn().with_context(|| format!("run {QEMU}"))?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > TIMEOUT {
            child.kill()?;
            child.wait()?;
            let console = fs::read_to_string(dir.join("console")).unwrap_or_default();
            bail!("no user space after {} s; the guest's console:\n{console}", TIMEOUT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let errors = fs::read_to_string(dir.join("errors")).unwrap_or_default();
    ensure!(status.success(), "QEMU failed ({status}): {}", errors.trim());
    Ok(())
}

fn parse(report: &str, symbols: &Symbols) -> Result<Count> {
    let mut count = Count::default();
    for line in report.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let unread = || format!("report of the plugin: {line}");
        match fields.as_slice() {
            ["retired", n] => count.retired = n.parse().with_context(unread)?,
            ["iterations", n] => count.rounds = n.parse().with_context(unread)?,
            ["excluded", _] => {}
            ["mark", address, n] => {
                let name = symbols.name(hexadecimal(address)?);
                count.phases.push((name.to_owned(), n.parse().with_context(unread)?));
            }
            ["at", address, n] => {
                let name = symbols.name(hexadecimal(address)?).to_owned();
                let n: u64 = n.parse().with_context(unread)?;
                *count.functions.entry(name).or_default() += n;
            }
            _ => bail!(unread()),
        }
    }
    ensure!(count.retired > 0, "the plugin counted nothing");
    count.phases.sort_by_key(|&(_, reached)| reached);
    Ok(count)
}

fn hexadecimal(text: &str) -> Result<u64> {
    u64::from_str_radix(text, 16).with_context(|| format!("not an address: {text}"))
}

fn run(dir: &Path, program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .output()
        .with_context(|| format!("run {program} (packages: {})", PACKAGES.join(" ")))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed: {}", errors.trim());
    Ok(())
}

/// A directory that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("vmm-icount-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind is a few files in the temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_attributed_to_functions() {
        let symbols = Symbols::parse(
            "ffffffff81000000 T first\nffffffff81000010 t second\nffffffff81000020 T _sinittext\n",
        );
        let report = "retired 12\niterations 15\nexcluded 3\nmark ffffffff81000010 7\n\
                      at ffffffff81000004 5\nat ffffffff81000008 2\nat ffffffff81000010 5\nat 0 0\n";
        let count = symbols.and_then(|symbols| parse(report, &symbols));
        let Ok(count) = count else {
            panic!("not parsed: {count:?}");
        };
        assert_eq!((count.retired, count.rounds), (12, 15));
        assert_eq!(count.functions.get("first"), Some(&7));
        assert_eq!(count.functions.get("second"), Some(&5));
        assert_eq!(count.phases, [("second".to_owned(), 7)]);
    }

    #[test]
    fn counts_agree_up_to_a_ten_thousandth() {
        assert!(agree(20_000_000, 20_002_000));
        assert!(!agree(20_002_001, 20_000_000));
    }

    #[test]
    fn report_with_an_unknown_record_is_refused() {
        let symbols = Symbols::parse("ffffffff81000000 T first\n");
        let count = symbols.and_then(|symbols| parse("retired 1\nsurprise 2\n", &symbols));
        assert!(count.is_err_and(|error| error.to_string().contains("surprise")));
    }
}
