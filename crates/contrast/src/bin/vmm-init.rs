//! `vmm-init`: the first process of a guest that is there to run one command, and nothing else.
//!
//! It is part of the comparison, and of this package, because it and [`vmm_contrast::machine`] have to agree about
//! everything; the agent, which containers have in its place, is told by connections that other monitors cannot make.
//!
//! The image's file system gets a layer in memory above it, for what is written, and what the kernel shows of itself.
//! The command has it as its root directory, nothing as its input and the serial port as its output. There are no
//! namespaces, no limits and no network: the machine is the wall. Where a kernel has no overlay file system, the image
//! is read-only but for `/tmp`.

// UNSAFETY: what the new process does before it becomes the command's program is a closure that runs after a fork.
#![expect(unsafe_code)]

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions, chdir, chroot, getpid, wait};
use rustix::stdio::stdout;
use rustix::system::{RebootCommand, reboot};
use rustix::termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr};
use vmm_contrast::console::{Step, mark};
use vmm_contrast::machine::order::{END, FILE, IMAGE, Order, RESET, TOKEN};

/// Where the image is mounted, what is written, and both together.
const LOWER: &str = "/lower";
const LAYER: &str = "/layer";
const ROOT: &str = "/whole";

/// Links in `/dev` that the kernel does not make.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// The status of a command that is not found, and of one that cannot be run, as a shell has them.
const NOT_FOUND: u8 = 127;
const NO_PROGRAM: u8 = 126;

fn main() -> ExitCode {
    if !getpid().is_init() {
        eprintln!("vmm-init is the first process of a guest");
        return ExitCode::from(2);
    }
    let token = env::var(TOKEN).unwrap_or_default();
    tell(&mark(&token, Step::Began));
    match run(&token) {
        Ok(status) => tell(&mark(&token, Step::Exit(status))),
        Err(error) => eprintln!("vmm-init: {error}"),
    }
    // What the port has not sent yet would be lost with the machine.
    let _ = tcdrain(stdout());
    let reset = env::var(END).is_ok_and(|how| how == RESET);
    let _ = reboot(if reset { RebootCommand::Restart } else { RebootCommand::PowerOff });
    // The kernel panics, which ends the machine as well.
    ExitCode::FAILURE
}

/// Writes to the console, which nobody can do anything about if it fails.
fn tell(mark: &str) {
    let _ = rustix::io::write(stdout(), mark.as_bytes());
}

/// Runs the command, and returns its status as a shell has it.
fn run(token: &str) -> Result<u8, String> {
    // The command's line breaks are to arrive as they are.
    if let Ok(mut modes) = tcgetattr(stdout()) {
        modes.make_raw();
        let _ = tcsetattr(stdout(), OptionalActions::Now, &modes);
    }
    let order =
        fs::read(Path::new("/").join(FILE)).and_then(|text| Ok(serde_json::from_slice(&text)?));
    let order: Order = order.to("read what to run")?;
    surround(&order)?;
    tell(&mark(token, Step::Ready));
    let child = match command(&order, mark(token, Step::Exec)).spawn() {
        Ok(child) => Pid::from_child(&child),
        Err(error) => {
            eprintln!("vmm-init: {}: {error}", order.args.first().map_or("", String::as_str));
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            return Ok(if is_missing { NOT_FOUND } else { NO_PROGRAM });
        }
    };
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => {
                let signal = status.terminating_signal().map(|signal| signal.saturating_add(128));
                let status = status.exit_status().or(signal).unwrap_or(255);
                return Ok(u8::try_from(status).unwrap_or(u8::MAX));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("wait for the command: {error}")),
        }
    }
}

/// Says what was tried when it failed.
trait Try<T> {
    fn to(self, what: &str) -> Result<T, String>;
}

impl<T, E: Into<io::Error>> Try<T> for Result<T, E> {
    fn to(self, what: &str) -> Result<T, String> {
        self.map_err(|error| format!("{what}: {}", error.into()))
    }
}

/// Makes all that the command sees, and goes there.
fn surround(order: &Order) -> Result<(), String> {
    let in_memory = Path::new("/").join(IMAGE);
    let root = if in_memory.is_dir() { &*in_memory } else { image()? };
    // Links of the image lead nowhere but into it from here on.
    chroot(root).and_then(|()| chdir("/")).to("enter the root file system")?;
    let plain = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    filesystem("proc", Path::new("/proc"), plain, None)?;
    filesystem("sysfs", Path::new("/sys"), plain, None)?;
    filesystem("devtmpfs", Path::new("/dev"), MountFlags::NOSUID, None)?;
    let terminals = "newinstance,ptmxmode=0666,mode=0620";
    filesystem("devpts", Path::new("/dev/pts"), MountFlags::NOSUID, Some(terminals))?;
    filesystem("tmpfs", Path::new("/dev/shm"), plain, Some("mode=1777"))?;
    for (name, target) in LINKS {
        symlink(target, Path::new("/dev").join(name)).to("make links in /dev")?;
    }
    // Entering it says why it cannot be made.
    let _ = fs::create_dir_all(&order.cwd);
    chdir(&*order.cwd).to("enter the working directory")
}

/// Mounts the disk, with a layer in memory if there can be one.
fn image() -> Result<&'static Path, String> {
    let none = MountFlags::empty();
    filesystem("devtmpfs", Path::new("/dev"), none, None)?;
    fs::create_dir(LOWER).to("make a directory for the image")?;
    mount("/dev/vda", LOWER, "erofs", MountFlags::RDONLY, None).to("mount the image, /dev/vda")?;
    filesystem("tmpfs", Path::new(LAYER), none, Some("mode=755"))?;
    for name in ["upper", "work"] {
        fs::create_dir(Path::new(LAYER).join(name)).to("prepare the layer in memory")?;
    }
    fs::create_dir(ROOT).to("make a directory for the root")?;
    let options = c"lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work";
    match mount("overlay", ROOT, "overlay", none, options) {
        Ok(()) => Ok(Path::new(ROOT)),
        Err(Errno::NODEV) => {
            let lower = Path::new(LOWER);
            filesystem("tmpfs", &lower.join("tmp"), none, Some("mode=1777"))?;
            Ok(lower)
        }
        Err(error) => Err(error).to("mount the layer in memory"),
    }
}

fn filesystem(
    kind: &str,
    target: &Path,
    flags: MountFlags,
    options: Option<&str>,
) -> Result<(), String> {
    let what = format!("mount {}", target.display());
    // One that cannot be made, or is there, is told by the mount.
    let _ = fs::create_dir(target);
    let options = options.map(std::ffi::CString::new).transpose().to(&what)?;
    mount(kind, target, kind, flags, options.as_deref()).to(&what)
}

/// The command, which tells right before it becomes its program.
fn command(order: &Order, exec: String) -> Command {
    let mut words = order.args.iter();
    let mut command = Command::new(words.next().map_or("", String::as_str));
    command.args(words).env_clear().stdin(Stdio::null()).uid(order.uid).gid(order.gid);
    command.envs(order.env.iter().filter_map(|variable| variable.split_once('=')));
    let tell = move || {
        tell(&exec);
        Ok(())
    };
    // SAFETY: between fork and exec it makes one system call on what was made before; it allocates nothing and takes
    // no lock.
    unsafe { command.pre_exec(tell) };
    command
}
