//! What an instance takes of its host's memory, and what for.
//!
//! The proportional set sizes of all its processes (proc(5), /proc/PID/smaps) are split without a rest: each mapping
//! is guest memory, or its pages are its process's own, or they are shared with others, who pay their part. What the
//! kernel holds for it is known where it has a control group of its own.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use crate::figures::Kind;
use crate::instance::Running;
use crate::launch::Failure;
use crate::processes::{Role, place, role};

/// Writable mappings of a monitor without a file are guest memory from this size on, in KiB.
const GUEST: u64 = 32 << 10;
/// Bytes of a list of mappings that are read: more than any process here has.
const MOST: u64 = 64 << 20;
const MIB: f64 = 1024.0 * 1024.0;

/// Proportional set sizes in KiB; together they are the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Split {
    /// Guest memory that was touched.
    pub guest: u64,
    /// Pages of nobody but the monitor: its data, and its code as far as nobody else runs it.
    pub monitor: u64,
    /// The same of what stays beside the monitor or the command.
    pub runtime: u64,
    /// The same of the command.
    pub command: u64,
    /// The instance's part of what others use too: code, libraries.
    pub shared: u64,
    /// All of it.
    pub total: u64,
    /// Whether there is a virtual machine.
    pub has_machine: bool,
}

impl Split {
    /// What these processes take that were made to run `words`.
    ///
    /// # Errors
    /// They cannot be looked at. One that has ended meanwhile takes nothing.
    pub fn of(processes: impl Iterator<Item = Pid>, words: &[String]) -> io::Result<Self> {
        let mut split = Self::default();
        for pid in processes {
            let role = role(pid, words);
            let mut text = String::new();
            let read = File::open(place(pid, "smaps"))
                .and_then(|file| file.take(MOST).read_to_string(&mut text));
            match read {
                Err(error) if !has_ended(&error) => return Err(error),
                _ => split.add(&text, role),
            }
        }
        Ok(split)
    }

    /// Adds a process with these mappings.
    fn add(&mut self, smaps: &str, role: Role) {
        self.has_machine |= role == Role::Monitor;
        let mut mapping = Mapping::default();
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { continue };
            match name.strip_suffix(':') {
                Some(name) => mapping.field(name, words.next()),
                None => {
                    self.put(&std::mem::take(&mut mapping), role);
                    mapping.is_memory = is_memory(words);
                }
            }
        }
        self.put(&mapping, role);
    }

    fn put(&mut self, mapping: &Mapping, role: Role) {
        let Mapping { is_memory, size, pss, private } = *mapping;
        self.total += pss;
        if role == Role::Monitor && is_memory && size >= GUEST {
            self.guest += pss;
            return;
        }
        let own = private.min(pss);
        self.shared += pss - own;
        *match role {
            Role::Command => &mut self.command,
            Role::Monitor => &mut self.monitor,
            Role::Runtime => &mut self.runtime,
        } += own;
    }
}

fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// A mapping; sizes in KiB.
#[derive(Debug, Default)]
struct Mapping {
    /// Writable, and of no file.
    is_memory: bool,
    size: u64,
    pss: u64,
    private: u64,
}

impl Mapping {
    fn field(&mut self, name: &str, value: Option<&str>) {
        let place = match name {
            "Size" => &mut self.size,
            "Pss" => &mut self.pss,
            "Private_Clean" | "Private_Dirty" => &mut self.private,
            _ => return,
        };
        *place += value.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    }
}

/// Whether a mapping is memory that can be written to, from the words behind its addresses: rights, offset, device,
/// inode, name.
fn is_memory<'a>(mut words: impl Iterator<Item = &'a str>) -> bool {
    let writable = words.next().is_some_and(|rights| rights.contains('w'));
    let name = words.nth(3).unwrap_or_default();
    writable && (name.is_empty() || name.starts_with("/memfd:") || name.starts_with("[anon"))
}

/// Bytes that the kernel counts for a control group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Charged {
    /// Page cache, of files that its processes were the first to use.
    pub cache: Option<u64>,
    /// The kernel's own: objects, stacks, page tables.
    pub kernel: Option<u64>,
}

impl Charged {
    /// What is counted for the control groups of these processes that this process is not in; `None` where they
    /// have none that counts memory.
    pub fn of(processes: impl Iterator<Item = Pid>) -> Option<Self> {
        let own = group("/proc/self/cgroup".as_ref());
        let mut groups: Vec<PathBuf> = vec![];
        for pid in processes {
            let group = group(&place(pid, "cgroup")).filter(|group| Some(group) != own.as_ref());
            groups.extend(group.filter(|group| !groups.contains(group)));
        }
        let counted: Vec<_> = groups.iter().filter_map(|group| Self::read(group)).collect();
        let add = |a: Option<u64>, b: Option<u64>| Some(a? + b?);
        let all = counted.into_iter();
        all.reduce(|a, b| Self { cache: add(a.cache, b.cache), kernel: add(a.kernel, b.kernel) })
    }

    fn read(group: &Path) -> Option<Self> {
        let stat = fs::read_to_string(group.join("memory.stat")).ok()?;
        let old = fs::read_to_string(group.join("memory.kmem.usage_in_bytes"));
        Some(Self::parse(&stat, old.ok().as_deref()))
    }

    /// From memory.stat of either version of control groups; `old` is what version 1 says about the kernel.
    fn parse(stat: &str, old: Option<&str>) -> Self {
        let field = |name: &str| {
            let mut pairs = stat.lines().filter_map(|line| line.split_once(' '));
            pairs.find(|(own, _)| *own == name)?.1.trim().parse::<u64>().ok()
        };
        let parts =
            || Some(field("slab")? + field("kernel_stack")? + field("pagetables").unwrap_or(0));
        let kernel = field("kernel").or_else(parts);
        let kernel = kernel.or_else(|| old?.trim().parse().ok());
        Self { cache: field("file").or_else(|| field("cache")), kernel }
    }
}

/// The directory of the control group that counts a process's memory.
fn group(list: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(list).ok()?;
    let find = |wanted: &dyn Fn(&str) -> bool| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            (wanted(controllers) && !path.contains("..")).then(|| path.trim_start_matches('/'))
        })
    };
    let has = |controllers: &str| controllers.split(',').any(|one| one == "memory");
    let old = find(&has).map(|path| Path::new("/sys/fs/cgroup/memory").join(path));
    let new = || find(&str::is_empty).map(|path| Path::new("/sys/fs/cgroup").join(path));
    old.or_else(new).filter(|group| group.join("memory.stat").exists())
}

/// The figures of one instance, in the order of [`look`].
pub const KINDS: [Kind; 9] = [
    kind("memory of all its processes (PSS)", ""),
    kind("of that: guest memory touched", "there is no virtual machine"),
    kind("of that: monitor, its own", "there is no virtual machine"),
    kind("of that: keeper or runtime, its own", "nothing stays beside it"),
    kind("of that: command, its own", "the command is within the guest's memory"),
    kind("of that: its part of what is shared", ""),
    kind("page cache charged", "it has no control group of its own that counts memory"),
    kind("kernel memory charged", "it has no control group of its own that counts memory"),
    kind("host memory gone (MemAvailable)", "this kernel does not tell"),
];

const fn kind(name: &'static str, absent: &'static str) -> Kind {
    Kind { name, unit: "MiB", absent }
}

/// What `running` takes, which was made to run `words` when the host had `before` bytes available.
///
/// # Errors
/// It cannot be looked at, or has ended.
pub fn look(
    running: &Running<'_>,
    words: &[String],
    before: Option<u64>,
) -> Result<Vec<Option<f64>>, Failure> {
    let after = available();
    let split = Split::of(running.processes(), words).map_err(Failure::Measure)?;
    if split.total == 0 {
        return Err(Failure::Gone);
    }
    let charged = Charged::of(running.processes());
    let gone = before.zip(after).map(|(before, after)| mib(before) - mib(after));
    let of_machine = |kib| split.has_machine.then_some(kib);
    let parts = [
        Some(split.total),
        of_machine(split.guest),
        of_machine(split.monitor),
        Some(split.runtime).filter(|runtime| *runtime > 0),
        (!split.has_machine).then_some(split.command),
        Some(split.shared),
    ];
    let charged = [charged.and_then(|c| c.cache), charged.and_then(|c| c.kernel)];
    let parts = parts.into_iter().map(|kib| kib.map(mib_of_kib));
    Ok(parts.chain(charged.into_iter().map(|bytes| bytes.map(mib))).chain([gone]).collect())
}

/// Bytes that programs could still get on this host (proc(5), MemAvailable).
pub fn available() -> Option<u64> {
    meminfo("MemAvailable:")
}

/// A field of /proc/meminfo, in bytes.
pub(crate) fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// MiB of so many KiB.
pub(crate) fn mib_of_kib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// MiB of so many bytes.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00400000-00600000 r-xp 00000000 00:01 1 /usr/bin/vmm
Size:               2048 kB
Pss:                 700 kB
Pss_Dirty:             0 kB
Private_Clean:       100 kB
Private_Dirty:         8 kB
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Size:             131072 kB
Pss:               30000 kB
Private_Clean:         0 kB
Private_Dirty:     30000 kB
7f1000000000-7f1008000000 rw-s 00000000 00:01 9 /dev/shm/file
Size:             131072 kB
Pss:                 400 kB
Private_Dirty:       400 kB
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]
Size:                132 kB
Pss:                  12 kB
Private_Dirty:        12 kB
VmFlags: rd wr mr
";

    fn sum(split: &Split) -> u64 {
        split.guest + split.monitor + split.runtime + split.command + split.shared
    }

    #[test]
    fn parts_of_a_monitor_and_its_keeper_are_the_whole() {
        let mut split = Split::default();
        split.add(MAPS, Role::Monitor);
        let expected = Split {
            guest: 30_000,
            monitor: 108 + 400 + 12,
            shared: 592,
            total: 31_112,
            has_machine: true,
            ..Split::default()
        };
        assert_eq!(split, expected);
        split.add(MAPS, Role::Runtime);
        assert_eq!((split.runtime, split.guest), (30_520, 30_000));
        assert_eq!(sum(&split), split.total);
    }

    #[test]
    fn large_memory_of_a_command_is_no_guests() {
        let mut split = Split::default();
        split.add(MAPS, Role::Command);
        assert_eq!((split.command, split.guest, split.has_machine), (30_520, 0, false));
        assert_eq!(sum(&split), split.total);
    }

    #[test]
    fn mappings_of_this_process_are_what_the_kernel_adds_up() {
        let own = rustix::process::getpid();
        let held = vec![1_u8; 8 << 20];
        let split = Split::of([own].into_iter(), &[]).unwrap();
        std::hint::black_box(&held);
        assert_eq!(sum(&split), split.total);
        assert!(split.runtime > 8 << 10, "{split:?}");
        let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        let pss: u64 = pss.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        // Each mapping is rounded down, and other tests go on.
        assert!(split.total.abs_diff(pss) < 4 << 10, "{split:?} {pss}");
    }

    #[test]
    fn nonsense_is_nothing() {
        let mut split = Split::default();
        for text in [
            "",
            "Pss:",
            "Pss: x kB\nPss: -1 kB\n",
            "\u{0}\n7f-80 rw-p\nSize: 99999999999999999999 kB",
        ] {
            split.add(text, Role::Monitor);
        }
        assert_eq!(split, Split { has_machine: true, ..Split::default() });
    }

    #[test]
    fn control_groups_of_both_versions_are_understood() {
        let new = "anon 1\nfile 4096\nkernel 8192\nkernel_stack 1\nslab 2\n";
        assert_eq!(Charged::parse(new, None), Charged { cache: Some(4096), kernel: Some(8192) });
        let older = "file 4096\nkernel_stack 10\npagetables 5\nslab 20\n";
        assert_eq!(Charged::parse(older, None).kernel, Some(35));
        let first = Charged::parse("cache 7\nrss 9\n", Some("11\n"));
        assert_eq!(first, Charged { cache: Some(7), kernel: Some(11) });
        assert_eq!(Charged::parse("", None), Charged::default());
    }

    #[test]
    fn this_host_has_memory() {
        assert!(available().unwrap() > 1 << 20);
        assert!(meminfo("MemTotal:").unwrap() >= available().unwrap());
    }
}
