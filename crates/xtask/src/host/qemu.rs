//! Starting QEMU so that it leaves nothing behind, whatever happens to us.
//!
//! Every file QEMU gets that is ours alone has no name; its overlay on the root disk has none
//! either; and the kernel kills it when this process dies.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

use super::image::Parts;
use super::init;
use crate::arch::Arch;

/// As many of the console's last lines are kept for an explanation.
const CONSOLE_LINES: usize = 40;

/// Longer lines of the console are cut, in bytes.
const CONSOLE_LINE: u64 = 4096;

/// The machine to emulate.
pub(crate) struct Machine {
    pub(crate) arch: Arch,
    pub(crate) parts: Parts,
    pub(crate) artifacts: Option<PathBuf>,
    pub(crate) store: Option<PathBuf>,
    pub(crate) job: File,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) extra: Vec<String>,
}

/// A running emulated host; dropping it ends it.
pub(crate) struct Qemu {
    child: Child,
    console: Arc<Mutex<VecDeque<String>>>,
    reader: Option<JoinHandle<()>>,
    /// QEMU opens them through our descriptors, at a time of its own.
    _unnamed: [File; 2],
}

impl Qemu {
    /// Starts the machine; the stream is the outer end of its virtio-serial port.
    ///
    /// # Errors
    /// QEMU is missing or cannot be started.
    pub(crate) fn start(machine: Machine) -> Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair().context("create a socket pair")?;
        let (console, console_writer) = std::io::pipe().context("create a pipe")?;
        let mut command = Command::new("setpriv");
        let qemu = format!("qemu-system-{}", machine.arch);
        command.args(["--pdeathsig", "KILL", "--", &qemu]).args(arguments(&machine));
        command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(console_writer.try_clone()?)
            .stderr(console_writer)
            // Ctrl-C in our terminal is ours to handle.
            .process_group(0);
        let child = command.spawn().with_context(|| format!("start setpriv and {qemu}"))?;
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let reader = {
            let lines = Arc::clone(&lines);
            thread::spawn(move || keep_last_lines(console, &lines))
        };
        let unnamed = [machine.job, machine.parts.initrd];
        Ok((Self { child, console: lines, reader: Some(reader), _unnamed: unnamed }, ours))
    }

    /// The last lines of the host's console, once the machine has ended or been ended.
    pub(crate) fn end(mut self) -> String {
        self.kill();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let lines = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("  {line}\n")).collect()
    }

    fn kill(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The machine type and processor with which `arch` has hardware KVM, and the name of the first serial port.
fn hardware(arch: Arch) -> [&'static str; 3] {
    match arch {
        // Without XSAVE: under QEMU's SVM a guest's XSETBV reaches the host's register, and the sizes
        // of saved states then disagree with CPUID, in both.
        Arch::X86_64 => ["pc", "EPYC,+svm,-xsave", "ttyS0"],
        Arch::Aarch64 => ["virt,virtualization=on,gic-version=3", "cortex-a72", "ttyAMA0"],
    }
}

fn arguments(machine: &Machine) -> Vec<String> {
    let Machine { arch, parts, artifacts, store, job, cpus, memory_mib, extra } = machine;
    let (job, initrd) = (reachable(job), reachable(&parts.initrd));
    let [kind, processor, serial] = hardware(*arch);
    let kernel_line = format!("rdinit={} console={serial} quiet panic=-1 nokaslr", init::PATH);
    let mut words: Vec<String> = vec![];
    let mut add = |line: &[&str]| words.extend(line.iter().map(|&word| word.to_owned()));
    add(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    add(&["-machine", kind, "-accel", "tcg,thread=multi", "-cpu", processor]);
    add(&["-smp", &cpus.to_string(), "-m", &memory_mib.to_string()]);
    add(&["-kernel", &text(&parts.kernel), "-initrd", &initrd]);
    add(&["-append", &kernel_line]);
    add(&["-chardev", "file,id=console,path=/dev/fd/1", "-serial", "chardev:console"]);
    add(&["-chardev", "socket,id=job,fd=0", "-device", "virtio-serial-pci"]);
    add(&["-device", &format!("virtserialport,chardev=job,name={}", init::PORT)]);
    let root = format!("file={},snapshot=on", escaped(&text(&parts.disk)));
    let job = format!("file={},readonly=on", escaped(&job));
    let artifacts =
        artifacts.as_ref().map(|path| format!("file={},readonly=on", escaped(&text(path))));
    let store = store.as_ref().map(|path| format!("file={},snapshot=on", escaped(&text(path))));
    for drive in [Some(root), Some(job), artifacts, store].into_iter().flatten() {
        add(&["-drive", &format!("if=virtio,format=raw,cache=unsafe,{drive}")]);
    }
    words.extend(extra.iter().cloned());
    words
}

/// A path by which another process of ours reaches a file without a name.
fn reachable(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

fn text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A comma separates options unless it is doubled.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

fn keep_last_lines(console: PipeReader, lines: &Mutex<VecDeque<String>>) {
    let mut console = BufReader::new(console);
    loop {
        let mut line = vec![];
        match console.by_ref().take(CONSOLE_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
        if lines.len() > CONSOLE_LINES {
            lines.pop_front();
        }
    }
}
