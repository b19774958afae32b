//! What the host knows about a process: memory and processor time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Resident bytes of process `pid` that are no file's, those of its guest among them: pages of its program come
/// and go as the host likes.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    (kib("RssAnon:") + kib("RssShmem:")) * 1024
}

/// Resident bytes of process `pid`, without its mappings of `guest_bytes` and more: those are
/// the guest's memory.
pub fn resident_beside_guest(pid: u32, guest_bytes: u64) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let kib = |line: &str| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    let (mut size, mut total) = (0, 0);
    for line in maps.lines() {
        if line.starts_with("Size:") {
            size = kib(line) * 1024;
        } else if line.starts_with("Rss:") && size < guest_bytes {
            total += kib(line) * 1024;
        }
    }
    assert!(total > 0, "process {pid} has no memory");
    total
}

/// Processor time that the threads of process `pid` have used, by their names.
pub fn cpu_times(pid: u32) -> BTreeMap<String, Duration> {
    let mut times = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let path = task.unwrap().path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default().trim().to_owned();
        *times.entry(name).or_default() += cpu_time_of(&path);
    }
    times
}

fn cpu_time_of(task: &Path) -> Duration {
    let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Processor time that process `pid` has used.
pub fn cpu_time(pid: u32) -> Duration {
    cpu_times(pid).values().sum()
}

/// How many descriptors process `pid` has open.
pub fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Access mode of a descriptor that is open for reading alone.
pub const READ_ONLY: u32 = 0;

/// With which access modes process `pid` has the file `path` open.
pub fn open_modes(pid: u32, path: &Path) -> Vec<u32> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(Result::unwrap);
    let open = fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == path));
    open.map(|fd| {
        let info = format!("/proc/{pid}/fdinfo/{}", fd.file_name().display());
        let info = fs::read_to_string(info).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        u32::from_str_radix(flags.trim(), 8).unwrap() & 3
    })
    .collect()
}

/// How many threads process `pid` has.
pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}
