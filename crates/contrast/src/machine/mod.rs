//! A machine that runs a workload and ends: the same guest for every monitor.
//!
//! Its kernel is our `minimal` one. Its first process is `vmm-init`, alone in an initial RAM file system with
//! [`order::Order`], what it is to run. The image is a disk, with a layer in memory for what is written. What the guest
//! does it tells on its serial port ([`crate::console`]).
//!
//! Nothing here starts or times anything: [`Monitor::command`] is what there is to start.

mod archive;
mod monitor;
pub mod order;

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use vmm_image::client::{ClientError, find_kernel, find_program};

use crate::console::Console;
use crate::workload::Workload;
use archive::Archive;
use order::{END, Order, RESET, TOKEN};

pub use monitor::Monitor;

/// Memory of the machine if nothing is said: as much as the containers beside it may use.
pub const MEMORY_MIB: u64 = 512;
/// The kernel's flavour.
const FLAVOUR: &str = "minimal";
/// The first process of the guest.
const INIT: &str = "vmm-init";
/// What every guest is told: where to print, that only failures are worth printing, and to restart after a panic,
/// which ends the machine.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1";
/// One in so many bytes of memory is for an image in the initial RAM file system: it is there twice for a while.
const SHARE: u64 = 4;
/// MiB that memory comes in with our own monitor.
const STEP_MIB: u64 = 2;

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// Nothing boots.
    #[error(
        "there is no {FLAVOUR} kernel: build one by `cargo xtask kernel {FLAVOUR}`, or name one with --kernel"
    )]
    NoKernel,
    /// A program of ours is missing.
    #[error(transparent)]
    Program(#[from] ClientError),
    /// The initial RAM file system cannot be made.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image would not leave enough memory.
    #[error(
        "the unpacked image has more than {0} MiB, which is too much for an initial RAM file system"
    )]
    Large(u64),
}

/// Where the guest finds the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On its first disk.
    Disk,
    /// In the initial RAM file system: for monitors whose disks the kernel has no driver for.
    Memory,
}

/// A guest that runs a workload, prepared for any monitor.
#[derive(Debug)]
pub struct Guest {
    /// An ELF kernel with a PVH note.
    kernel: PathBuf,
    initrd: PathBuf,
    /// The image, where it is a disk.
    disk: Option<PathBuf>,
    /// MiB of memory.
    memory: u64,
    /// Where files of a run may be.
    directory: PathBuf,
    /// What tokens come from.
    secret: RandomState,
}

impl Guest {
    /// Makes a guest, with its files in `directory`.
    ///
    /// # Errors
    /// See [`GuestError`].
    pub fn prepare(
        workload: &Workload,
        place: Place,
        directory: &Path,
    ) -> Result<Self, GuestError> {
        let kernel = workload.kernel.clone().or_else(|| find_kernel(FLAVOUR));
        let kernel = kernel.ok_or(GuestError::NoKernel)?;
        let init = find_program(INIT)?;
        let initrd = directory.join("initrd.cpio");
        let memory = workload.memory.map_or(MEMORY_MIB, |bytes| bytes.div_ceil(1 << 20));
        let memory = memory.next_multiple_of(STEP_MIB);
        let disk = (place == Place::Disk).then(|| workload.disk.clone());
        let image = (place == Place::Memory).then_some(&*workload.rootfs);
        let failed = |source| GuestError::File { path: initrd.clone(), source };
        if let Some(image) = image
            && archive::size(image).map_err(failed)? > (memory / SHARE).saturating_mul(1 << 20)
        {
            return Err(GuestError::Large(memory / SHARE));
        }
        fs::create_dir_all(directory).map_err(failed)?;
        let order = Order::of(workload);
        write_initrd(&initrd, &init, &order, image).map_err(failed)?;
        let (directory, secret) = (directory.to_owned(), RandomState::new());
        Ok(Self { kernel, initrd, disk, memory, directory, secret })
    }

    /// What the run of this name is known by to its guest: another in each process of this program.
    fn token(&self, name: &str) -> String {
        format!("{:016x}", self.secret.hash_one(name))
    }

    /// The console of the run of this name.
    pub fn console(&self, name: &str) -> Console {
        Console::new(&self.token(name))
    }

    /// The kernel's command line for the run of this name. The guest ends by a reset if it is told so, otherwise
    /// by a power-off.
    fn command_line(&self, name: &str, reset: bool) -> String {
        let mut line = format!("{CMDLINE} {TOKEN}={}", self.token(name));
        if reset {
            line.push_str(&format!(" {END}={RESET}"));
        }
        line
    }

    /// What was made before any run.
    pub fn prepared(&self) -> Vec<String> {
        let image = match &self.disk {
            Some(disk) => format!("the disk is the image in the store, {}", disk.display()),
            None => "the whole image is in the initial RAM file system".to_owned(),
        };
        vec![
            format!("the kernel is {}", self.kernel.display()),
            format!("the initial RAM file system has {INIT} and what it is to run"),
            image,
        ]
    }
}

/// Writes the initial RAM file system.
fn write_initrd(path: &Path, init: &Path, order: &Order, image: Option<&Path>) -> io::Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(path)?));
    archive.file("init", 0o755, &fs::read(init)?)?;
    archive.file(order::FILE, 0o600, &serde_json::to_vec(order)?)?;
    if let Some(image) = image {
        archive.tree(order::IMAGE, image)?;
    }
    archive.end()?.flush()
}

#[cfg(test)]
impl Guest {
    /// A guest whose files are not there.
    pub(crate) fn without_files() -> Self {
        let (disk, secret) = (Some("/d,1".into()), RandomState::new());
        let [kernel, initrd, directory] = ["/k", "/i", "/nosuch"].map(PathBuf::from);
        Self { kernel, initrd, disk, memory: MEMORY_MIB, directory, secret }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_another_for_each_run_and_the_same_on_console_and_command_line() {
        let guest = Guest::without_files();
        assert_ne!(guest.token("one"), guest.token("two"));
        assert_ne!(guest.token("one"), Guest::without_files().token("one"));
        let line = guest.command_line("one", false);
        assert!(line.ends_with(&format!("VMM_TOKEN={}", guest.token("one"))), "{line}");
        assert!(guest.command_line("one", true).ends_with(" VMM_END=reset"));
        let mut console = guest.console("one");
        let mark = crate::console::mark(&guest.token("one"), crate::console::Step::Exit(0));
        console.hear(mark.as_bytes(), crate::clock::Moment::now());
        assert_eq!(console.heard().status(), Some(0));
    }

    #[test]
    fn initial_file_system_has_the_program_the_order_and_the_image() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        fs::create_dir_all(at("root/dir")).unwrap();
        fs::write(at("root/dir/file"), "contents").unwrap();
        std::os::unix::fs::symlink("dir/file", at("root/link")).unwrap();
        fs::hard_link(at("root/dir/file"), at("root/name")).unwrap();
        fs::write(at("program"), "ELF").unwrap();
        let order = Order::of(&crate::testing::workload());
        write_initrd(&at("out"), &at("program"), &order, Some(&at("root"))).unwrap();
        let archive = fs::read(at("out")).unwrap();
        let text = String::from_utf8_lossy(&archive);
        let names =
            ["init", "order", "image", "image/dir", "image/dir/file", "image/link", "image/name"];
        let places: Vec<_> = names.map(|name| text.find(&format!("{name}\0")).unwrap()).into();
        assert!(places.is_sorted(), "{places:?}");
        assert!(text.contains("dir/file\0"));
        assert_eq!(text.matches("contents").count(), 1, "a file with two names is there twice");
        assert!(text.contains("TRAILER!!!"));
        assert_eq!(archive.len() % 4, 0);
        assert_eq!(archive::size(&at("root")).unwrap(), 8 + "dir/file".len() as u64);
    }
}
