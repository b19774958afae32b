//! Guest kernels: built from Debian's source by the recipes in `guest-kernels/`, kept in the cache.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::arch::Arch;
use crate::packages;

/// Debian packages that building a kernel needs, whatever for.
const PACKAGES: &[&str] = &[
    "linux-source-6.12",
    "gcc",
    "make",
    "flex",
    "bison",
    "bc",
    "libelf-dev",
    "libssl-dev",
    "xz-utils",
    "lz4",
    "patch",
];

const SOURCE_PACKAGE: &str = "linux-source-6.12";
const TICK: Duration = Duration::from_millis(250);

/// A built guest kernel in the cache.
#[derive(Debug)]
pub(crate) struct KernelBuild {
    dir: PathBuf,
    arch: Arch,
}

impl KernelBuild {
    /// What is started of it: on x86_64 an uncompressed ELF64 image with its symbol table and the PVH
    /// note, on aarch64 an Image.
    pub(crate) fn image(&self) -> PathBuf {
        self.dir.join(image_name(self.arch))
    }

    /// All its files with their names: the image, for x86_64 also one with the Linux/x86 boot header, and
    /// the configuration.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        files(self.arch).iter().map(|name| (*name, self.dir.join(name)))
    }
}

fn files(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::X86_64 => &["vmlinux", "bzImage", "config"],
        Arch::Aarch64 => &["Image", "config"],
    }
}

/// The name of the file that is started.
pub(crate) fn image_name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "vmlinux",
        Arch::Aarch64 => "Image",
    }
}

fn compiler(arch: Arch) -> String {
    if arch.is_native() { "gcc".to_owned() } else { format!("{arch}-linux-gnu-gcc") }
}

/// Debian packages that building a kernel for `arch` needs.
pub(crate) fn packages_for(arch: Arch) -> Vec<&'static str> {
    let compiler: &[&str] = match arch {
        _ if arch.is_native() => &[],
        Arch::X86_64 => &["gcc-x86-64-linux-gnu"],
        Arch::Aarch64 => &["gcc-aarch64-linux-gnu"],
    };
    [PACKAGES, compiler].concat()
}

/// `cargo xtask kernel`: builds guest kernels and prints their files: vmlinux, bzImage, config; for aarch64 Image, config.
#[derive(Debug, clap::Args)]
pub(crate) struct KernelArgs {
    /// Flavours to build, as named in guest-kernels/ (`minimal`, `container`).
    #[arg(required = true)]
    flavours: Vec<String>,
    /// Architecture of the guest.
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
}

/// Runs `cargo xtask kernel`.
pub(crate) fn run(args: &KernelArgs) -> Result<()> {
    for flavour in &args.flavours {
        for (_, file) in ensure(flavour, args.arch)?.files() {
            println!("{}", file.display());
        }
    }
    Ok(())
}

/// Returns the kernel of `flavour`, building it when the cache has none of this recipe.
///
/// Two callers at once build it once.
pub(crate) fn ensure(flavour: &str, arch: Arch) -> Result<KernelBuild> {
    packages::ensure(&packages_for(arch))?;
    let recipe = Recipe::read(&recipes_dir(), flavour, arch)?;
    let store = cache_dir()?;
    let dir = store.join(format!("{flavour}-{arch}-{}", recipe.key()));
    if !dir.is_dir() {
        build_locked(&recipe, &store, &dir)
            .with_context(|| format!("build guest kernel {flavour}-{arch}"))?;
    }
    Ok(KernelBuild { dir, arch })
}

/// Version of the kernel source package and of the compiler: with the same, the same bytes come out.
pub(crate) fn toolchain(arch: Arch) -> Result<[String; 2]> {
    let source = output_of("dpkg-query", &["-W", "-f", "${Version}", SOURCE_PACKAGE])
        .with_context(|| format!("is the Debian package {SOURCE_PACKAGE} installed?"))?;
    let compiler = output_of(&compiler(arch), &["--version"])?;
    let compiler = compiler.lines().next().unwrap_or_default();
    Ok([source.trim().to_owned(), compiler.to_owned()])
}

/// Everything a kernel image is made from.
struct Recipe {
    flavour: String,
    arch: Arch,
    script: PathBuf,
    /// Name and content of each input, in a fixed order.
    inputs: Vec<(String, Vec<u8>)>,
}

impl Recipe {
    fn read(dir: &Path, flavour: &str, arch: Arch) -> Result<Self> {
        let script = dir.join("build.sh");
        let mut files = vec![script.clone()];
        for flavour in ["minimal", flavour] {
            for name in [format!("{flavour}.config"), format!("{flavour}-{arch}.config")] {
                let fragment = dir.join(name);
                ensure!(
                    fragment.is_file(),
                    "no guest kernel {flavour} for {arch}: {} does not exist",
                    fragment.display()
                );
                if !files.contains(&fragment) {
                    files.push(fragment);
                }
            }
        }
        files.extend(patches(&dir.join("patches"))?);

        let mut inputs = Vec::new();
        for file in files {
            let content = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            inputs.push((name.into_owned(), content));
        }
        let [source, compiler] = toolchain(arch)?;
        inputs.push(("source".to_owned(), source.into_bytes()));
        inputs.push(("compiler".to_owned(), compiler.into_bytes()));
        Ok(Self { flavour: flavour.to_owned(), arch, script, inputs })
    }

    /// Twelve hexadecimal digits that change when any input does.
    fn key(&self) -> String {
        let mut hash = Sha256::new();
        for (name, content) in &self.inputs {
            for part in [name.as_bytes(), content] {
                hash.update(part.len().to_le_bytes());
                hash.update(part);
            }
        }
        hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

fn patches(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "patch") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn build_locked(recipe: &Recipe, store: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(store).with_context(|| format!("create {}", store.display()))?;
    let lock = store.join("lock");
    let lock = File::create(&lock).with_context(|| format!("open {}", lock.display()))?;
    lock.lock().context("wait for another kernel build")?;
    if dir.is_dir() {
        return Ok(());
    }

    // Under the lock, whatever is here was left by a build that was killed.
    let scratch = store.join("building");
    remove_dir(&scratch)?;
    let out = scratch.join("out");
    fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    compile(recipe, &scratch, &out, &lock)?;
    let now = Recipe::read(&recipes_dir(), &recipe.flavour, recipe.arch)?;
    ensure!(now.key() == recipe.key(), "the recipe was edited while it was built; build again");
    for file in files(recipe.arch) {
        ensure!(out.join(file).is_file(), "the build left no {file}");
    }
    fs::rename(&out, dir).with_context(|| format!("move the build to {}", dir.display()))?;
    remove_dir(&scratch)
}

/// Runs the build script. It inherits the lock, so that a build which outlives us still excludes others.
fn compile(recipe: &Recipe, scratch: &Path, out: &Path, lock: &File) -> Result<()> {
    let log_path = scratch.join("log");
    let log = File::create(&log_path).with_context(|| format!("create {}", log_path.display()))?;
    // What else runs meanwhile is shorter, and may be timed.
    let mut child = Command::new("nice")
        .args(["-n", "19"])
        .arg(&recipe.script)
        .args([&recipe.flavour, &recipe.arch.to_string()])
        .arg(out)
        .env("WORK", scratch.join("work"))
        .stdin(Stdio::from(lock.try_clone()?))
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .spawn()
        .with_context(|| format!("run {}", recipe.script.display()))?;

    let mut progress = Progress::start(&format!("{}-{}", recipe.flavour, recipe.arch));
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        progress.show(&log_path);
        std::thread::sleep(TICK);
    };
    progress.end();
    if status.success() {
        return Ok(());
    }
    let log = fs::read_to_string(&log_path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
    let packages = packages_for(recipe.arch).join(" ");
    bail!(
        "the build script failed ({status}; it needs the packages {packages}):\n{}",
        tail.join("\n")
    )
}

/// One line on standard error: rewritten on a terminal, printed at start and end elsewhere.
struct Progress {
    name: String,
    start: Instant,
    terminal: bool,
}

impl Progress {
    fn start(name: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        if !terminal {
            eprintln!("guest kernel {name}: building (some minutes, once)");
        }
        Self { name: name.to_owned(), start: Instant::now(), terminal }
    }

    fn show(&mut self, log: &Path) {
        if !self.terminal {
            return;
        }
        let log = fs::read_to_string(log).unwrap_or_default();
        let step: String = log.lines().last().unwrap_or_default().chars().take(50).collect();
        let seconds = self.start.elapsed().as_secs();
        eprint!("\r\x1b[Kguest kernel {}: {step}, {seconds} s", self.name);
        // A lost progress line harms nobody.
        let _ = std::io::stderr().flush();
    }

    fn end(&self) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let seconds = self.start.elapsed().as_secs();
        eprintln!("{clear}guest kernel {}: {seconds} s", self.name);
    }
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn output_of(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {program}"))?;
    ensure!(output.status.success(), "{program} failed: {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("output of {program}"))
}

/// `guest-kernels/` of the source tree that this program was built from.
pub(crate) fn recipes_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-kernels")
}

/// `$XDG_CACHE_HOME/vmm/kernels`, by default under `~/.cache`.
fn cache_dir() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    let base = match set("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(&set("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("vmm/kernels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(inputs: &[(&str, &[u8])]) -> Recipe {
        Recipe {
            flavour: "minimal".to_owned(),
            arch: Arch::X86_64,
            script: PathBuf::new(),
            inputs: inputs
                .iter()
                .map(|(name, content)| ((*name).to_owned(), content.to_vec()))
                .collect(),
        }
    }

    #[test]
    fn key_changes_with_any_input() {
        let base = recipe(&[("a", b"one"), ("b", b"two")]).key();
        assert_eq!(base.len(), 12);
        assert_ne!(base, recipe(&[("a", b"one"), ("b", b"tw")]).key());
        assert_ne!(base, recipe(&[("a", b"one"), ("c", b"two")]).key());
    }

    #[test]
    fn key_tells_where_one_input_ends_and_the_next_begins() {
        let first = recipe(&[("a", b"onetwo"), ("b", b"")]).key();
        assert_ne!(first, recipe(&[("a", b"one"), ("b", b"two")]).key());
    }

    #[test]
    fn unknown_flavour_is_named_in_the_error() {
        let error = Recipe::read(&recipes_dir(), "no-such", Arch::X86_64).err();
        assert!(error.is_some_and(|error| error.to_string().contains("no-such")));
    }
}
