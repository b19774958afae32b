//! What a guest does not need, given back: by free page reporting and by a balloon. The guest's first
//! process is this program, as in `guest`.

use std::fs;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::{MountFlags, mount};

use super::Context;
use super::boot::{ROOT, add_linux_that_runs_us};
use super::figure::{Figure, Unit};
use super::guest::{MARK, PATH};
use super::inside::Inside;
use super::monitor::{Disk, Guest, MEMORY_MIB};
use super::place::{Place, VMM};
use super::record::{Arm, Records};
use super::run::{Run, interleave};

/// Name of the group.
pub(super) const GROUP: &str = "balloon";

/// The variable that tells the guest what to do; the kernel passes it on from its command line.
pub(super) const WORK: &str = "BENCH_BALLOON";

const RUNS: usize = 5;
/// What the guest touches and frees, and what the balloon takes, in MiB.
const FREED_MIB: u64 = 64;
const SIZE_MIB: u64 = 64;

/// The guest lets the host look at its memory for so long.
const PAUSE: Duration = Duration::from_secs(1);
/// Linux reports 2 s after memory became free, the rest in steps as long; then nothing comes any more.
const QUIET: Duration = Duration::from_secs(8);
const SAMPLE: Duration = Duration::from_millis(50);

/// Free memory is reported in blocks of 2 MiB, as ours has it unless told otherwise.
const BLOCKS: &str = "page_reporting.page_reporting_order=9";

const TOUCHED: &str = "touched";
const FREED: &str = "freed";
const INFLATED: &str = "inflated";
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_balloon";

/// The two ways.
#[derive(Clone, Copy, Debug)]
enum Way {
    Reporting,
    Inflating,
}

impl Way {
    const ALL: [Self; 2] = [Self::Reporting, Self::Inflating];

    fn name(self) -> &'static str {
        match self {
            Self::Reporting => "reporting",
            Self::Inflating => "inflating",
        }
    }

    fn series(self, what: &str) -> String {
        format!("{GROUP}, {}: {what}", self.name())
    }
}

const BEFORE: &str = "PSS before";
const AFTER: &str = "PSS after";
const RATE: &str = "rate";

/// Measures and returns the figures.
///
/// # Errors
/// A run failed.
pub(super) fn figures(context: &Context, records: &mut Records) -> Result<Vec<Figure>> {
    let bundle = context.bundle(GROUP)?;
    add_linux_that_runs_us(&bundle)?;
    records.merge(bundle.measure(Place::Emulated, GROUP, context.runs(RUNS))?);
    let mut figures = vec![];
    for way in Way::ALL {
        let what = match way {
            Way::Reporting => format!("free page reporting, {FREED_MIB} MiB freed"),
            Way::Inflating => format!("balloon of {SIZE_MIB} MiB"),
        };
        for (part, unit) in [(BEFORE, Unit::Mib), (AFTER, Unit::Mib), (RATE, Unit::MibPerSecond)] {
            let figure = Figure::of(records, &way.series(part), GROUP)?;
            let name = format!("{what}: {part}");
            figures.push(figure.named(&name, Place::Emulated.name()).in_unit(unit));
        }
    }
    Ok(figures)
}

/// Runs in the emulated host.
///
/// # Errors
/// A run failed.
pub(super) fn inside(inside: &mut Inside) -> Result<()> {
    for way in Way::ALL {
        for arm in [Arm::Ours, Arm::Peer] {
            let command = guest_command(inside, way, arm);
            inside.describe_command(&way.series(RATE), arm, &command)?;
        }
        eprintln!("bench: {} memory, {} guests of each kind", way.name(), inside.runs);
        interleave(inside.runs, &[Arm::Ours, Arm::Peer, Arm::Control], |arm, counts| {
            if arm == Arm::Control {
                return inside.control(GROUP, counts);
            }
            let run = Run::start(&mut guest_command(inside, way, arm))?;
            for (what, value) in visit(run, way, arm, &socket(inside))? {
                inside.sample(&way.series(what), arm, value, counts)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn socket(inside: &Inside) -> PathBuf {
    inside.file("qmp")
}

/// The guest with a balloon, in the words of each monitor.
fn guest_command(inside: &Inside, way: Way, arm: Arm) -> Command {
    let guest = Guest {
        kernel: inside.file("minimal"),
        cmdline: Some(format!(
            "console=ttyS0 quiet panic=-1 {BLOCKS} root=/dev/vda ro init={PATH} {WORK}={}",
            way.name()
        )),
        disks: vec![Disk::readonly(inside.file(ROOT))],
        net: None,
    };
    let mut command = guest.command(arm, &inside.file(VMM));
    let size = format!("size={SIZE_MIB}M,deflate-on-oom=off,free-page-reporting=off");
    let qmp = format!("unix:{},server=on,wait=off", socket(inside).display());
    match (arm, way) {
        (Arm::Ours, Way::Reporting) => command.arg("--balloon"),
        (Arm::Ours, Way::Inflating) => command.args(["--balloon", &size]),
        (_, Way::Reporting) => {
            command.args(["-device", "virtio-balloon-device,free-page-reporting=on"])
        }
        (_, Way::Inflating) => command.args(["-device", "virtio-balloon-device", "-qmp", &qmp]),
    };
    command
}

/// One guest: its monitor's memory before and after it gave some back, in MiB, and how fast that went,
/// in MiB a second: of the monitor's own processor time for reports, which come when the guest finds
/// the time; of the guest's clock for the balloon, which it fills at once.
fn visit(mut run: Run, way: Way, arm: Arm, qmp: &Path) -> Result<[(&'static str, f64); 3]> {
    run.wait_for(TOUCHED)?;
    let before = pss_mib(run.pid())?;
    let (after, rate) = match way {
        Way::Reporting => {
            run.wait_for(FREED)?;
            let (fall, time) = settle(run.pid())?;
            ensure!(!time.is_zero(), "the guest gave nothing back");
            (pss_mib(run.pid())?, fall / time.as_secs_f64())
        }
        Way::Inflating => {
            if arm == Arm::Peer {
                set_target(qmp, MEMORY_MIB - SIZE_MIB)?;
            }
            let (line, _) = run.wait_for(MARK)?;
            let rate = line.split_once(INFLATED).and_then(|(_, rate)| rate.trim().parse().ok());
            let rate = rate.with_context(|| format!("the guest reported: {line}"))?;
            (pss_mib(run.pid())?, rate)
        }
    };
    run.kill()?;
    Ok([(BEFORE, before), (AFTER, after), (RATE, rate)])
}

/// Tells QEMU how much memory to leave the guest.
fn set_target(qmp: &Path, mib: u64) -> Result<()> {
    let mut socket = UnixStream::connect(qmp).context("connect to QEMU")?;
    let mut lines = BufReader::new(socket.try_clone()?).lines();
    let arguments = format!(r#"{{"value": {}}}"#, mib << 20);
    for (command, arguments) in [("qmp_capabilities", "{}"), ("balloon", &arguments)] {
        writeln!(socket, r#"{{"execute": "{command}", "arguments": {arguments}}}"#)?;
        // What comes besides are a greeting and events.
        let answer = lines.find(|line| {
            line.as_ref().map_or(true, |line| line.contains("return") || line.contains("error"))
        });
        let answer = answer.context("QEMU went away")?.context("hear of QEMU")?;
        ensure!(answer.contains("return"), "QEMU said of {command}: {answer}");
    }
    Ok(())
}

/// Waits until the anonymous memory of a process has not fallen for [`QUIET`]; how much it fell, in
/// MiB, and the processor time its devices took while it did.
fn settle(pid: u32) -> Result<(f64, Duration)> {
    let anonymous = || memory_mib(pid, "Pss_Anon:");
    let (top, mut last_fall) = (anonymous()?, Instant::now());
    let (mut least, mut time) = (top, device_time(pid)?);
    let mut busy = Duration::ZERO;
    while last_fall.elapsed() < QUIET {
        std::thread::sleep(SAMPLE);
        let (before, now) = (time, anonymous()?);
        time = device_time(pid)?;
        // Less is what idling itself changes.
        if now + 0.5 < least {
            (least, last_fall) = (now, Instant::now());
            busy += time.saturating_sub(before);
        }
    }
    Ok((top - least, busy))
}

/// Processor time that the first thread of a process has used: the one that serves the devices, in
/// both monitors.
fn device_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/task/{pid}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Ok(Duration::from_nanos(nanos.with_context(|| format!("{path}: {text}"))?))
}

/// The proportional memory of a process.
fn pss_mib(pid: u32) -> Result<f64> {
    memory_mib(pid, "Pss:")
}

fn memory_mib(pid: u32, name: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(field(&text, name)? as f64 / 1024.0)
}

/// The number behind `name` in a list of /proc.
fn field(text: &str, name: &str) -> Result<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    let number = rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("no {name}"))
}

/// What the guest does.
///
/// # Errors
/// It cannot, or does not know how.
pub(super) fn in_guest(work: &str) -> Result<()> {
    mount("proc", "/proc", "proc", MountFlags::empty(), None).context("mount /proc")?;
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).context("mount /sys")?;
    match work {
        "reporting" => {
            touch_and_free();
            println!("{FREED}");
            Ok(())
        }
        "inflating" => inflate(),
        _ => bail!("no work named {work}"),
    }
}

/// Takes memory, shows it to the host for a while, and frees it.
fn touch_and_free() {
    let memory = black_box(vec![1u8; (FREED_MIB << 20) as usize]);
    println!("{TOUCHED}");
    std::thread::sleep(PAUSE);
    drop(memory);
}

/// Takes the balloon's driver away, touches memory, and times what the driver does when it is back.
fn inflate() -> Result<()> {
    let device = balloon()?;
    let control = |file: &str| {
        let path = format!("{DRIVER}/{file}");
        fs::write(&path, &device).with_context(|| format!("write {device} to {path}"))
    };
    control("unbind")?;
    touch_and_free();
    let whole = mem_total_kib()?;
    let start = Instant::now();
    control("bind")?;
    let wanted = whole.saturating_sub(SIZE_MIB << 10);
    while mem_total_kib()? > wanted {
        let left = mem_total_kib()?;
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "the balloon is not filled: {left} KiB of {whole} are left"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let rate = SIZE_MIB as f64 / start.elapsed().as_secs_f64();
    println!("{MARK} {INFLATED} {rate:.3}");
    Ok(())
}

/// The name of the balloon among the devices of its driver.
fn balloon() -> Result<String> {
    for entry in fs::read_dir(DRIVER).with_context(|| format!("read {DRIVER}"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("virtio") {
            return Ok(name);
        }
    }
    bail!("the guest has no balloon")
}

fn mem_total_kib() -> Result<u64> {
    field(&fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?, "MemTotal:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "Rss:  9 kB\nPss:    1536 kB\nPss_Dirty:   7 kB\n";
        assert_eq!(field(text, "Pss:").unwrap(), 1536);
        assert!(field(text, "Swap:").is_err());
        assert!(pss_mib(std::process::id()).unwrap() > 0.1);
        assert!(device_time(std::process::id()).unwrap() > Duration::ZERO);
    }
}
