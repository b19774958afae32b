//! What would lead out of a container, or change its host, tried so far that the kernel has decided.
//!
//! None of it is carried through: devices are opened and neither read nor written, calls get what the kernel
//! refuses after it has looked at rights, and what does happen ends with the process it happens to.

use rustix::fs::OFlags;
use serde_json::{Map, Value, json};

use crate::calls::read;
use crate::facts::can_open;
use crate::raw::{self, Call};

/// How a way out is tried.
enum Way {
    /// A file is opened.
    Open(&'static str, OFlags),
    /// A call is made.
    Call(libc::c_long, [usize; 6]),
}

/// A way out.
struct Escape {
    name: &'static str,
    /// What it would be good for.
    leads_to: &'static str,
    way: Way,
}

const fn open(
    name: &'static str,
    leads_to: &'static str,
    path: &'static str,
    flags: OFlags,
) -> Escape {
    Escape { name, leads_to, way: Way::Open(path, flags) }
}

/// Longer than a host name may be: who may set one gets EINVAL.
const TOO_LONG: usize = 65;
/// More segments than kexec takes.
const SEGMENTS: usize = 17;
/// How long the kernel's log may be, which is told to those alone who may read it.
const LOG_SIZE: usize = 10;
const PTRACE_SEIZE: usize = 0x4206;
const NEW_USER_AND_NETWORK: usize = 0x1000_0000 | 0x4000_0000;
const AF_INET: usize = 2;
const AF_PACKET: usize = 17;
const AF_VSOCK: usize = 40;
const SOCK_STREAM: usize = 1;
const SOCK_RAW: usize = 3;
const ICMP: usize = 1;
const AT_FDCWD: usize = usize::MAX - 99;

/// `struct perf_event_attr` of version 0: a clock of a processor (type 1, software; configuration 0).
static CLOCK: [u32; 16] = [1, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// `struct file_handle`: eight bytes of type 1 that name nothing.
static HANDLE: [u32; 4] = [8, 1, 0, 0];
/// `union bpf_attr`: a map of type 2, an array, with keys and values of four bytes, and one of them.
static MAP: [u32; 16] = [2, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
static NO_MODULE: [u8; 8] = [0; 8];

/// All ways out with what came of them.
pub(crate) fn all() -> Value {
    let each = files().into_iter().chain(calls());
    let answers: Map<String, Value> =
        each.map(|escape| (escape.name.to_owned(), tried(&escape))).collect();
    Value::Object(answers)
}

fn tried(escape: &Escape) -> Value {
    let (how, verdict, answer) = match escape.way {
        Way::Open(path, flags) => {
            let write = flags.contains(OFlags::WRONLY);
            let how = format!("opened {path} for {}", if write { "writing" } else { "reading" });
            let answer = can_open(path, flags);
            let verdict = match &*answer {
                "yes" => "possible",
                "ENOENT" | "ENXIO" | "ENODEV" => "absent",
                _ => "refused",
            };
            (how, verdict, answer)
        }
        Way::Call(number, arguments) => {
            let call = Call { number, arguments };
            let answer = raw::ask(&[call]).first().map(|answer| read(*answer));
            let (verdict, answer) = answer.unwrap_or(("untried", String::new()));
            let verdict = match (verdict, &*answer) {
                // The kernel has no such family of sockets, or a filter says so in its place.
                ("reachable", "EAFNOSUPPORT") => "absent",
                ("reachable", _) => "possible",
                (verdict, _) => verdict,
            };
            (format!("called {}", name(number)), verdict, answer)
        }
    };
    json!({ "leads_to": escape.leads_to, "how": how, "verdict": verdict, "answer": answer })
}

fn name(number: libc::c_long) -> String {
    let number = usize::try_from(number).ok().and_then(syscalls::Sysno::new);
    number.map_or_else(String::new, |call| call.name().to_owned())
}

fn files() -> Vec<Escape> {
    let (read, write) = (OFlags::RDONLY, OFlags::WRONLY);
    vec![
        open("physical memory", "all memory of the machine", "/dev/mem", read),
        open("kernel memory", "all memory of the kernel", "/proc/kcore", read),
        open("kernel messages", "addresses and what others do", "/dev/kmsg", read),
        open("virtio disk", "the machine's disk past its file system", "/dev/vda", read),
        open("scsi disk", "the machine's disk past its file system", "/dev/sda", read),
        open("kvm", "virtual machines of one's own", "/dev/kvm", read),
        open(
            "system requests",
            "a restart, a crash, the end of all processes",
            "/proc/sysrq-trigger",
            write,
        ),
        open(
            "core pattern",
            "a program run by the kernel as root",
            "/proc/sys/kernel/core_pattern",
            write,
        ),
        open(
            "module loader",
            "a program run by the kernel as root",
            "/proc/sys/kernel/modprobe",
            write,
        ),
        open(
            "uevent helper",
            "a program run by the kernel as root",
            "/sys/kernel/uevent_helper",
            write,
        ),
        open(
            "control groups",
            "other limits than those given",
            "/sys/fs/cgroup/cgroup.procs",
            write,
        ),
        open("power state", "a machine that sleeps", "/sys/power/state", write),
    ]
}

fn call(
    name: &'static str,
    leads_to: &'static str,
    number: libc::c_long,
    arguments: &[usize],
) -> Escape {
    let mut all = [0; 6];
    all.iter_mut().zip(arguments).for_each(|(place, value)| *place = *value);
    Escape { name, leads_to, way: Way::Call(number, all) }
}

fn text(text: &'static std::ffi::CStr) -> usize {
    text.as_ptr().addr()
}

fn calls() -> Vec<Escape> {
    let mut all = beyond_namespaces();
    all.extend(into_the_kernel());
    all
}

/// Calls that reach what namespaces keep apart.
fn beyond_namespaces() -> Vec<Escape> {
    let (root, unknown) = (text(c"/"), text(c"no-such-kind"));
    vec![
        call(
            "mount",
            "file systems of one's own",
            libc::SYS_mount,
            &[unknown, root, unknown, 0, 0],
        ),
        call(
            "user namespace",
            "all rights in a network of one's own: more kernel to attack",
            libc::SYS_unshare,
            &[NEW_USER_AND_NETWORK],
        ),
        call(
            "trace process 1",
            "its rights, if it is the host's",
            libc::SYS_ptrace,
            &[PTRACE_SEIZE, 1],
        ),
        call("raw packets", "forged packets", libc::SYS_socket, &[AF_INET, SOCK_RAW, ICMP]),
        call(
            "link packets",
            "all packets of an interface",
            libc::SYS_socket,
            &[AF_PACKET, SOCK_RAW, 0],
        ),
        call(
            "vsock",
            "the hypervisor of the machine",
            libc::SYS_socket,
            &[AF_VSOCK, SOCK_STREAM, 0],
        ),
        call(
            "key rings",
            "keys, which have no namespace",
            libc::SYS_keyctl,
            &[0, usize::MAX - 2, 0],
        ),
        call("bpf", "programs in the kernel", libc::SYS_bpf, &[0, MAP.as_ptr().addr(), 64]),
    ]
}

/// Calls that change the kernel, or the machine.
fn into_the_kernel() -> Vec<Escape> {
    vec![
        call(
            "performance counters",
            "what others do",
            libc::SYS_perf_event_open,
            &[CLOCK.as_ptr().addr(), usize::MAX, 0, usize::MAX, 0],
        ),
        call("kexec", "another kernel", libc::SYS_kexec_load, &[0, SEGMENTS, 0, 0]),
        call(
            "kernel module",
            "code in the kernel",
            libc::SYS_init_module,
            &[NO_MODULE.as_ptr().addr(), NO_MODULE.len(), text(c"")],
        ),
        call(
            "file handles",
            "files past all mounts",
            libc::SYS_open_by_handle_at,
            &[AT_FDCWD, HANDLE.as_ptr().addr(), 0],
        ),
        call(
            "host name",
            "the name of the machine",
            libc::SYS_sethostname,
            &[text(c"/"), TOO_LONG],
        ),
        call("kernel log", "addresses and what others do", libc::SYS_syslog, &[LOG_SIZE, 0, 0]),
        call("clock", "the time of the machine", libc::SYS_settimeofday, &[0, 0]),
        call("restart", "the end of the machine", libc::SYS_reboot, &[0, 0, 0, 0]),
        call("asynchronous calls", "calls past a filter", libc::SYS_io_uring_setup, &[0, 0]),
        call(
            "page faults",
            "a kernel that waits where it is weak",
            libc::SYS_userfaultfd,
            &[usize::MAX],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_out_has_a_verdict_and_a_name_of_its_own() {
        let answers = all();
        let answers = answers.as_object().unwrap();
        assert_eq!(answers.len(), files().len() + calls().len());
        for (name, answer) in answers {
            let verdict = answer["verdict"].as_str().unwrap();
            assert!(["possible", "refused", "absent"].contains(&verdict), "{name}: {answer}");
            assert!(answer["how"].as_str().unwrap().len() > 8, "{name}: {answer}");
        }
        assert_eq!(answers["raw packets"]["how"], "called socket");
    }

    #[test]
    fn nothing_happens_to_those_who_may_do_it() {
        let before = rustix::system::uname().nodename().to_owned();
        all();
        assert_eq!(rustix::system::uname().nodename(), &*before);
    }
}
