//! What is known about a guest that failed: how far it came, its last words, the likely cause.

use std::fmt;

use super::end::End;
use crate::doctor;
use crate::machine::Machine;

/// How many of the last console lines are shown.
pub(super) const LINES: usize = 40;

/// How far a guest came, as far as its console and its exits tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It did not print; whether it ran at all, the last exit tells.
    KernelEntry,
    /// The kernel printed.
    Kernel,
    /// The kernel said that it starts init.
    Init,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KernelEntry => "kernel entered, nothing printed",
            Self::Kernel => "kernel running, init not seen to start",
            Self::Init => "init started",
        })
    }
}

/// An explanation for the user, of several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// How far the guest came.
    pub phase: Phase,
    /// The latest exit of vCPU 0 to the monitor.
    pub last_exit: String,
    /// The likely cause, as a sentence, where there is one.
    pub cause: Option<String>,
    /// The last lines of the console.
    pub console: Vec<String>,
}

/// What a kernel prints before it gives up, and what that means.
const CAUSES: [(&str, &str); 8] = [
    (
        "VFS: Unable to mount root fs",
        "the kernel found no root filesystem it can mount: give one with --rootfs or --initrd, and \
         check that the kernel has virtio-mmio, virtio-blk and the filesystem built in",
    ),
    (
        "VFS: Cannot open root device",
        "the device named by root= does not exist: the first disk is /dev/vda",
    ),
    (
        "No working init found",
        "the root filesystem has no init: name a program with --append init=PATH",
    ),
    (
        "Requested init ",
        "the program named by init= could not be started: is it there, and for this CPU?",
    ),
    ("Attempted to kill init!", "the guest's init ended or crashed; an init must not return"),
    (
        "Out of memory and no killable processes",
        "the guest ran out of memory: give it more with --memory",
    ),
    ("System is deadlocked on memory", "the guest ran out of memory: give it more with --memory"),
    (
        "Initramfs unpacking failed",
        "the kernel could not unpack the initrd: is its compression built in?",
    ),
];

impl Explanation {
    /// Explains `end`; `None` when the machine ended as a guest or a user wanted.
    ///
    /// A reset that follows a panic is one the kernel made on its own.
    pub fn of(end: &End, machine: &Machine) -> Option<Self> {
        let console = machine.console().last_lines(usize::MAX);
        let last_exit = machine.vcpus().first().map(|vcpu| vcpu.last_exit().to_string());
        let mut explanation = explain(end, console, last_exit.unwrap_or_default())?;
        if let End::Kvm { .. } = end {
            explanation.cause = host_cause().or(explanation.cause);
        }
        Some(explanation)
    }
}

/// A failure of KVM has its cause in the host, more often than not in one that emulates guests.
fn host_cause() -> Option<String> {
    let (what, fix) = doctor::kvm_mode().ok()?.explanation()?;
    Some(format!("{what}; {fix}"))
}

fn explain(end: &End, console: Vec<String>, last_exit: String) -> Option<Explanation> {
    let phase = phase(&console);
    let wanted = match end {
        End::PowerOff | End::Reset | End::UserQuit => true,
        End::Signal(_) => phase == Phase::Init,
        End::Panic | End::TripleFault | End::Halted | End::Kvm { .. } => false,
    };
    if wanted {
        return None;
    }
    let cause = cause(end, phase, &console);
    let skipped = console.len().saturating_sub(LINES);
    let console = console.into_iter().skip(skipped).collect();
    Some(Explanation { phase, last_exit, cause, console })
}

fn phase(console: &[String]) -> Phase {
    let init = |line: &String| line.contains("Run ") && line.contains(" as init process");
    match console {
        lines if lines.iter().any(init) => Phase::Init,
        lines if lines.iter().any(|line| !line.trim().is_empty()) => Phase::Kernel,
        _ => Phase::KernelEntry,
    }
}

fn cause(end: &End, phase: Phase, console: &[String]) -> Option<String> {
    let known = CAUSES.iter().find(|(sign, _)| console.iter().any(|line| line.contains(sign)));
    if let Some((_, cause)) = known {
        return Some((*cause).to_owned());
    }
    let cause = match (end, phase) {
        (End::Panic, _) => panic_message(console)?,
        (End::TripleFault, Phase::KernelEntry) => {
            "the kernel crashed before it could print: is it built for this CPU, and does it fit \
             into the memory?"
                .to_owned()
        }
        (End::Halted, _) => {
            "the guest stopped its CPUs without powering off: without ACPI a kernel has no way to"
                .to_owned()
        }
        (End::Signal(_), Phase::KernelEntry) => {
            "the kernel printed nothing: without console=ttyS0 on its command line (or hvc0, \
             with --console virtio) and the driver for that, it cannot"
                .to_owned()
        }
        _ => return None,
    };
    Some(cause)
}

fn panic_message(console: &[String]) -> Option<String> {
    const SIGN: &str = "Kernel panic - not syncing: ";
    console.iter().rev().find_map(|line| line.split_once(SIGN)).map(|(_, text)| text.to_owned())
}

/// Whether the kernel said on the console that it panicked: a kernel that then restarts looks
/// like one that reboots.
pub(super) fn panicked(machine: &Machine) -> bool {
    machine.console().last_lines(LINES * 4).iter().any(|l| l.contains("Kernel panic - not syncing"))
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cause) = &self.cause {
            writeln!(f, "  likely cause: {cause}")?;
        }
        writeln!(f, "  phase: {}", self.phase)?;
        writeln!(f, "  last exit: {}", self.last_exit)?;
        if self.console.is_empty() {
            return write!(f, "  console: nothing was printed");
        }
        write!(f, "  last console lines:")?;
        self.console.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn wanted_ends_are_not_explained() {
        for end in [End::PowerOff, End::Reset, End::UserQuit] {
            assert_eq!(explain(&end, lines("x"), String::new()), None);
        }
        let started = lines("[    0.3] Run /sbin/init as init process");
        assert_eq!(explain(&End::Signal(15), started, String::new()), None);
    }

    #[test]
    fn missing_root_filesystem_is_named_and_the_last_40_lines_kept() {
        let mut text: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
        text.push(
            "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)".into(),
        );
        let explanation = explain(&End::Panic, text, "access to port 0x505".into()).unwrap();
        assert_eq!(explanation.phase, Phase::Kernel);
        assert!(explanation.cause.as_ref().unwrap().contains("--rootfs"));
        assert_eq!(explanation.console.len(), 40);
        assert!(explanation.to_string().contains("last exit: access to port 0x505"));
    }

    #[test]
    fn panic_without_a_known_sign_is_quoted() {
        let text = lines("a\n[ 1.0] Kernel panic - not syncing: sysrq triggered crash\nb");
        let explanation = explain(&End::Panic, text, String::new()).unwrap();
        assert_eq!(explanation.cause.as_deref(), Some("sysrq triggered crash"));
    }

    #[test]
    fn silence_is_said() {
        let explanation = explain(&End::Signal(15), Vec::new(), "none".into()).unwrap();
        assert_eq!(explanation.phase, Phase::KernelEntry);
        assert!(explanation.to_string().contains("nothing was printed"));
    }
}
