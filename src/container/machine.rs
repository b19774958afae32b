//! The machine of a container: files that its guest needs, and the monitor's command line.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::{SeekFrom as Hole, ioctl_ficlone, seek};
use rustix::io::Errno;

use vmm_image::client::find_program;
use vmm_image::cpio::{self, Attributes};

use super::paths::make_private;
use super::{Container, ContainerError, Lock, Network, Paths, Spec};
use crate::arch::CONTAINER_MACHINE;
use crate::config::MemorySize;

/// The layer that a container writes to.
pub(super) const WRITABLE: &str = "writable.ext4";
/// The socket by which the monitor connects host and guest.
pub(super) const VSOCK: &str = "vsock.sock";
/// The guest's address on it.
const CID: u32 = 3;

/// What the guest's kernel and the agent take for themselves, beside a part of all memory.
const GUEST_MEMORY: u64 = 48 << 20;
/// How long the archive of an agent is kept after its last use: two versions of this program may take turns.
const UNUSED: Duration = Duration::from_secs(24 * 60 * 60);
/// One in so many bytes of memory goes to the kernel's records of it.
const RECORDS: u64 = 50;
const MEMORY_STEP: u64 = 2 << 20;

/// Memory of the machine in bytes: what the container may use, and what its guest takes beside it.
pub fn guest_memory(container: u64) -> u64 {
    let own = GUEST_MEMORY.saturating_add(container / RECORDS);
    container.saturating_add(own).next_multiple_of(MEMORY_STEP)
}

/// The monitor's command line.
pub(super) fn monitor_arguments(container: &Container) -> Vec<OsString> {
    let spec = container.spec();
    let mut line = Line::default();
    line.flag("--kernel", &spec.sources.kernel);
    line.flag("--initrd", &spec.sources.initrd);
    if let Some(protocol) = CONTAINER_MACHINE.boot_protocol {
        line.flag("--boot-protocol", protocol);
    }
    line.flag("--console", "off");
    // The agent sets the addresses; the kernel would wait for the network first.
    // Nor is there a use for the interface that a built-in driver makes. Mounts and control groups wait for
    // grace periods, one after the other; with a processor or a few these are had at once.
    let own = ["ip=off", "dummy.numdummies=0", "rcupdate.rcu_expedited=1"];
    line.flag("--append", [&own, CONTAINER_MACHINE.kernel_parameters].concat().join(" "));
    line.flag("--cpus", spec.cpus.count().to_string());
    line.flag("--memory", MemorySize::from_bytes(guest_memory(spec.memory.0)).to_string());
    line.keys("--disk", &[("path", spec.sources.rootfs.as_os_str()), ("readonly", "on".as_ref())]);
    if spec.setup.writable_disk {
        line.keys("--disk", &[("path", container.file(WRITABLE).as_os_str())]);
    }
    let cid = CID.to_string();
    let socket = container.socket(VSOCK);
    line.keys("--vsock", &[("cid", cid.as_ref()), ("socket", socket.as_os_str())]);
    line.network(spec);
    line.0
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn flag(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.0.extend([name.into(), value.as_ref().to_owned()]);
    }

    /// A flag of `key=value,...`, in which a comma of a value is written twice.
    fn keys(&mut self, name: &str, pairs: &[(&str, &OsStr)]) {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        let mut text = vec![];
        for (key, value) in pairs {
            if !text.is_empty() {
                text.push(b',');
            }
            text.extend_from_slice(key.as_bytes());
            text.push(b'=');
            for &byte in value.as_bytes() {
                text.push(byte);
                if byte == b',' {
                    text.push(byte);
                }
            }
        }
        self.flag(name, OsString::from_vec(text));
    }

    fn network(&mut self, spec: &Spec) {
        let mut words = vec![match &spec.network {
            Network::None => return,
            Network::User => "user".to_owned(),
            Network::Tap(tap) => format!("tap={}", tap.tap.replace(',', ",,")),
        }];
        words.extend(spec.network.address().map(|address| format!("ip={address}")));
        words.extend(spec.network.gateway().map(|gateway| format!("gateway={gateway}")));
        words.extend(spec.publish.iter().map(|port| format!("publish={port}")));
        self.flag("--net", words.join(","));
    }
}

/// The initial RAM file system with the agent as its only file; made once for each agent.
///
/// # Errors
/// There is no agent, or the file cannot be made.
pub fn initrd(paths: &Paths) -> Result<PathBuf, ContainerError> {
    let agent = find_program("vmm-agent")?;
    let failed = |e| ContainerError::file(&agent, e);
    let mut file = File::open(&agent).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    let name = format!(
        "agent-{:x}-{:x}-{:x}-{:x}.cpio",
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime().wrapping_mul(1_000_000_000).wrapping_add(found.mtime_nsec())
    );
    let cache = paths.cache();
    let archive = make_once(&cache, &name, |out| {
        let mut content = vec![];
        file.read_to_end(&mut content)?;
        let program = Attributes { mode: 0o100_755, ..Attributes::default() };
        out.write_all(&cpio::entry(b"init", program, &content)?)?;
        out.write_all(&cpio::end()?)?;
        remove_archives(&cache, SystemTime::now() - UNUSED);
        Ok(())
    })?;
    // Its time says when it was used last. Where that cannot be noted it is only made anew one day.
    let _: io::Result<()> =
        File::open(&archive).and_then(|file| file.set_modified(SystemTime::now()));
    Ok(archive)
}

/// Removes the archives of agents that were not used since `last`: they are of programs that were replaced. A
/// machine that is about to read one has just used it.
fn remove_archives(cache: &Path, last: SystemTime) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_archive = name.to_str().is_some_and(|name| name.starts_with("agent-"));
        let used = entry.metadata().and_then(|found| found.modified());
        if is_archive && used.is_ok_and(|used| used < last) {
            // What stays is in nobody's way.
            let _: io::Result<()> = fs::remove_file(entry.path());
        }
    }
}

/// Makes the layer that a container writes to, from an empty file system that is made once for each
/// size.
///
/// # Errors
/// The files cannot be made.
pub(super) fn make_writable(paths: &Paths, container: &Container) -> Result<(), ContainerError> {
    let size = container.spec().storage.0;
    let empty = make_once(&paths.cache(), &format!("empty-{size}.ext4"), |file| {
        file.set_len(size)?;
        make_ext4(file)
    })?;
    let target = container.file(WRITABLE);
    copy_sparse(&empty, &target).map_err(|e| ContainerError::file(&target, e))
}

fn make_ext4(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // Without a journal, which would only keep consistent what is removed with its container.
    let output = Command::new("mke2fs")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["-q", "-F", "-t", "ext4", "-m", "0"])
        .args(["-O", "^has_journal,^resize_inode", "-E", "lazy_itable_init=1,nodiscard"])
        .arg(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
        .output()
        .map_err(|e| io::Error::other(format!("mke2fs, of the package e2fsprogs: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("mke2fs: {}", said.trim())))
}

/// Makes the file `name` of `directory` by `make`, unless it is there; never shows half of it.
fn make_once(
    directory: &Path,
    name: &str,
    make: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<PathBuf, ContainerError> {
    let path = directory.join(name);
    if path.exists() {
        return Ok(path);
    }
    make_private(directory)?;
    // One at a time: what a killed one has left is begun anew by the next.
    let _lock = Lock::wait(&directory.join("lock"))?;
    if path.exists() {
        return Ok(path);
    }
    let new = directory.join("new");
    let made = (|| {
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        make(&mut file)?;
        // What has the name is whole, also after a power cut.
        file.sync_all()?;
        fs::rename(&new, &path)
    })();
    if made.is_err() {
        // What is wrong is told already.
        let _: Result<_, _> = fs::remove_file(&new);
    }
    made.map(|()| path.clone()).map_err(|e| ContainerError::file(&path, e))
}

/// Copies a file without its holes; shares the data where the file system can.
fn copy_sparse(source: &Path, target: &Path) -> io::Result<()> {
    let mut from = File::open(source)?;
    let mut to = File::options().write(true).create_new(true).mode(0o600).open(target)?;
    if ioctl_ficlone(&to, &from).is_ok() {
        return Ok(());
    }
    to.set_len(from.metadata()?.len())?;
    let mut at = 0;
    loop {
        let start = match seek(&from, Hole::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        at = seek(&from, Hole::Hole(start))?;
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        io::copy(&mut (&from).take(at.saturating_sub(start)), &mut to)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Containers;
    use crate::container::testing::spec;

    fn arguments(change: impl FnOnce(&mut Spec)) -> String {
        let top = tempfile::tempdir().expect("temporary directory");
        let paths = Paths { data: top.path().join("d,"), runtime: top.path().join("r") };
        let mut spec = spec("one");
        change(&mut spec);
        let (container, _lock) =
            Containers::open(paths).expect("opened").create(spec).expect("made");
        let words = monitor_arguments(&container);
        let words: Vec<_> = words.iter().map(|word| word.to_str().expect("text")).collect();
        words.join(" ").replace(top.path().to_str().expect("text"), "")
    }

    #[test]
    fn machine_has_the_disks_and_the_network_of_its_container() {
        let line = arguments(|spec| spec.sources.rootfs = "/r,1".into());
        assert!(
            line.contains("--disk path=/r,,1,readonly=on --disk path=/d,,/containers/"),
            "{line}"
        );
        assert!(line.contains("--net user,ip=10.0.2.15/24,gateway=10.0.2.2"), "{line}");
        let line = arguments(|spec| {
            spec.setup.writable_disk = false;
            spec.network = "tap=tap,,0".parse().expect("network");
        });
        assert!(line.contains("readonly=on --vsock"), "{line}");
        assert!(line.ends_with("--net tap=tap,,0"), "{line}");
        let own = "tap=tap0,ip=172.16.0.2/24,gateway=172.16.0.1";
        let line = arguments(|spec| spec.network = own.parse().expect("network"));
        assert!(line.ends_with(&format!("--net {own}")), "{line}");
        assert!(!arguments(|spec| spec.network = Network::None).contains("--net"));
    }

    #[test]
    fn machine_has_more_memory_than_its_container() {
        for container in [6_u64 << 20, 128 << 20, 4 << 30] {
            let machine = guest_memory(container);
            assert!(machine >= container + GUEST_MEMORY && machine.is_multiple_of(MEMORY_STEP));
        }
    }

    #[test]
    fn archives_of_agents_are_removed_when_they_were_not_used_for_long() {
        let top = tempfile::tempdir().expect("temporary directory");
        let now = SystemTime::now();
        for (name, age) in
            [("agent-1.cpio", UNUSED * 2), ("agent-2.cpio", UNUSED / 2), ("other", UNUSED * 2)]
        {
            let file = File::create(top.path().join(name)).expect("made");
            file.set_modified(now - age).expect("aged");
        }
        remove_archives(top.path(), now - UNUSED);
        let mut left: Vec<_> = fs::read_dir(top.path())
            .expect("directory")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["agent-2.cpio", "other"]);
    }

    /// P1: what is made once was begun by somebody who was killed.
    #[test]
    fn part_of_what_is_made_once_is_begun_anew() {
        let top = tempfile::tempdir().expect("temporary directory");
        fs::write(top.path().join("new"), "a longer part").expect("left behind");
        let make = |file: &mut File| file.write_all(b"whole");
        let path = make_once(top.path(), "name", make).expect("made");
        assert_eq!(fs::read(&path).expect("read"), b"whole");
        make_once(top.path(), "name", |_| Err(io::ErrorKind::Other.into())).expect("made before");
        assert_eq!(fs::read_dir(top.path()).expect("directory").count(), 2);
    }

    #[test]
    fn empty_layer_is_made_once_and_copied_with_its_holes() {
        let top = tempfile::tempdir().expect("temporary directory");
        let paths = Paths { data: top.path().join("data"), runtime: top.path().join("run") };
        let containers = Containers::open(paths.clone()).expect("opened");
        let (container, _lock) = containers.create(spec("one")).expect("made");
        make_writable(&paths, &container).expect("made");
        let found = fs::metadata(container.file(WRITABLE)).expect("there");
        assert_eq!(found.len(), 10 << 30);
        assert!(found.blocks() * 512 < 4 << 20, "{} blocks", found.blocks());
        let checked =
            Command::new("/sbin/e2fsck").arg("-nf").arg(container.file(WRITABLE)).output();
        assert!(checked.expect("e2fsck").status.success());
        let mut cached: Vec<_> = fs::read_dir(paths.cache())
            .expect("cache")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        cached.sort();
        assert_eq!(cached, ["empty-10737418240.ext4", "lock"]);
    }
}
