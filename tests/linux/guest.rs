//! A guest under test: built like a command line, run to its end, then looked at.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Where the emulated host offers kernels and root filesystems.
const ARTIFACTS: &str = "/srv/vmm";

/// Longer than any guest here lives.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The path of an artifact of the emulated host.
pub fn artifact(path: &str) -> PathBuf {
    Path::new(ARTIFACTS).join(path)
}

/// The kernel of ours of this flavour, in the form that its architecture boots.
pub fn kernel(flavour: &str) -> PathBuf {
    let form = if std::env::consts::ARCH == "aarch64" { "Image" } else { "vmlinux" };
    artifact(&format!("kernels/{flavour}/{form}"))
}

/// The minimal kernel, packed as its architecture boots it.
pub fn packed_kernel() -> PathBuf {
    if std::env::consts::ARCH != "aarch64" {
        return artifact("kernels/minimal/bzImage");
    }
    let packed = Command::new("gzip").arg("-1c").arg(kernel("minimal")).output().expect("gzip");
    let path = PathBuf::from("/tmp/Image.gz");
    // Several tests may do so at once: none of them sees half a file.
    let file = tempfile::NamedTempFile::new_in("/tmp").expect("temporary file");
    fs::write(file.path(), packed.stdout).expect("write");
    file.persist(&path).expect("rename");
    path
}

/// A guest with a root filesystem of its own and a script to run.
pub struct Guest {
    args: Vec<String>,
    append: Vec<String>,
    files: TempDir,
}

/// How a guest ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status of the monitor; `None` when a signal killed it.
    pub status: Option<i32>,
    /// What the guest printed.
    pub console: String,
    /// What the monitor said.
    pub stderr: String,
}

impl Guest {
    /// A guest with this kernel and nothing else.
    pub fn bare(kernel: &Path) -> Self {
        let files = tempfile::tempdir().expect("temporary directory");
        let guest = Self { args: Vec::new(), append: Vec::new(), files };
        // What a kernel prints costs more than what it does.
        guest.append("quiet").arg("--kernel").arg(kernel.to_str().expect("UTF-8"))
    }

    /// A guest with this kernel and a copy of the BusyBox root filesystem.
    pub fn new(kernel: &Path) -> Self {
        let guest = Self::bare(kernel);
        let rootfs = guest.file("rootfs.ext4");
        copy_sparse(&artifact("rootfs/busybox.ext4"), &rootfs);
        guest.arg("--rootfs").arg(rootfs.to_str().expect("UTF-8"))
    }

    /// The usual guest: our minimal kernel.
    pub fn minimal() -> Self {
        Self::new(&kernel("minimal"))
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments, separated by spaces.
    pub fn args(mut self, args: &str) -> Self {
        self.args.extend(args.split(' ').map(str::to_owned));
        self
    }

    /// Adds words to the kernel's command line.
    pub fn append(mut self, words: &str) -> Self {
        self.append.push(words.to_owned());
        self
    }

    /// A path in the guest's temporary directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// A new sparse image of `len` bytes; returns its path.
    pub fn image(&self, name: &str, len: u64) -> PathBuf {
        let path = self.file(name);
        fs::File::create(&path).and_then(|file| file.set_len(len)).expect("image");
        path
    }

    /// Boots, runs `script` in the guest's shell, and waits for the end.
    pub fn run(self, script: &str) -> Ended {
        let words = run_words(script);
        self.append(&words).boot()
    }

    /// Runs `script` and demands that it succeeds and the guest powers off; returns what it printed.
    pub fn succeed(self, script: &str) -> String {
        let ended = self.run(&format!("set -e\n{script}"));
        assert_eq!(ended.status, Some(0), "{ended:#?}");
        assert!(ended.console.contains("vmm.run: exit status 0"), "{ended:#?}");
        ended.console
    }

    /// Boots and waits for the end.
    pub fn boot(self) -> Ended {
        let child = self.start();
        wait(child)
    }

    /// Boots and lets the guest run. The files live as long as `self`.
    pub fn start(&self) -> Child {
        self.spawn(Stdio::null())
    }

    /// As [`Self::start`], with a pipe to type into.
    pub fn start_with_input(&self) -> Child {
        self.spawn(Stdio::piped())
    }

    fn spawn(&self, input: Stdio) -> Child {
        let mut command = self.command(&[]);
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("vmm is on the PATH")
    }

    /// The command line, run by `wrapper`: a program and its arguments.
    pub fn command(&self, wrapper: &[&str]) -> Command {
        let mut line = wrapper.iter().copied().chain(["vmm"]);
        let mut command = Command::new(line.next().expect("a program"));
        command.args(line).args(&self.args);
        if !self.append.is_empty() {
            command.arg("--append").arg(self.append.join(" "));
        }
        command
    }
}

/// The words of the kernel's command line that have the guest run `script` and power off.
pub fn run_words(script: &str) -> String {
    format!("vmm.sh={}", base64(script.as_bytes()))
}

/// Waits for the end of a guest that was started.
pub fn wait(child: Child) -> Ended {
    let id = child.id();
    let deadline = Instant::now() + TIMEOUT;
    let waiter = std::thread::spawn(move || child.wait_with_output());
    while !waiter.is_finished() {
        if Instant::now() > deadline {
            signal(id, "TERM");
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = waiter.join().expect("waiter").expect("output");
    Ended::from(output)
}

/// Reads what the guest prints until `text` came.
pub fn wait_for(child: &mut Child, text: &str) {
    read_until(child.stdout.as_mut().expect("piped"), text);
}

/// Reads until `text` came; returns everything up to there.
pub fn read_until(output: &mut impl Read, text: &str) -> String {
    let mut seen = Vec::new();
    let mut chunk = [0; 512];
    while !String::from_utf8_lossy(&seen).contains(text) {
        let count = output.read(&mut chunk).unwrap_or(0);
        assert!(count > 0, "ended before {text}: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&seen).replace('\r', "")
}

/// Sends a signal to a process.
pub fn signal(id: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &id.to_string()]).status();
    assert!(status.expect("kill").success());
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            console: String::from_utf8_lossy(&output.stdout).replace('\r', ""),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Copies an image without filling its holes.
pub fn copy_sparse(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("--sparse=always").arg(from).arg(to).status();
    assert!(status.expect("cp").success());
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().enumerate().fold(0u32, |w, (i, b)| w | u32::from(*b) << (16 - 8 * i));
        for index in 0..4 {
            let symbol = ALPHABET[(word >> (18 - 6 * index) & 63) as usize];
            text.push(if index <= chunk.len() { symbol.into() } else { '=' });
        }
    }
    text
}

#[test]
fn base64_is_what_the_guest_decodes() {
    assert_eq!(base64(b"a"), "YQ==");
    assert_eq!(base64(b"set -e\n"), "c2V0IC1lCg==");
    assert_eq!(base64(b"abc"), "YWJj");
}
