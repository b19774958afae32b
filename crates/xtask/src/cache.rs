//! The build cache: directories named by the hash of everything that went into them.
//!
//! An entry appears complete or not at all: it is built beside its final place under an exclusive
//! lock and renamed. What a killed build leaves behind is removed by the next build of that entry.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock, syncfs};
use sha2::{Digest, Sha256};

/// Entries unused for this long are removed when a sibling is built.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// The same for entries that are large, soon rebuilt, and replaced with every build of ours.
const SHORT_LIVED: Duration = Duration::from_secs(1800);

/// The inputs of an entry. Order matters; lengths are hashed, so inputs cannot run together.
#[derive(Clone, Default)]
pub(crate) struct Key(Sha256);

impl Key {
    /// A key with no inputs yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds one named input.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// The name of the entry: the first 128 bits of the hash, in hexadecimal.
    pub(crate) fn name(&self) -> String {
        let digest = self.0.clone().finalize();
        digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The cache directory of this project for the calling user.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$XDG_CACHE_HOME/vmm`, or `~/.cache/vmm` (XDG base directory specification).
    ///
    /// # Errors
    /// Neither variable names an absolute directory.
    pub(crate) fn of_user() -> Result<Self> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let base = absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .context("no place for the build cache: set HOME or XDG_CACHE_HOME")?;
        Ok(Self { root: base.join("vmm") })
    }

    /// A cache in `root`, which is created when needed.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The directory of the entry `kind`/`key`; `build` fills it when it does not exist yet.
    ///
    /// Parallel callers wait for one another: `build` runs once.
    ///
    /// # Errors
    /// The cache cannot be written, or `build` fails; then no entry appears.
    pub(crate) fn entry(
        &self,
        kind: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        self.entry_used_within(UNUSED, kind, key, build)
    }

    /// As [`Cache::entry`], of a kind whose entries are not kept for long.
    ///
    /// # Errors
    /// As [`Cache::entry`].
    pub(crate) fn short_lived_entry(
        &self,
        kind: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        self.entry_used_within(SHORT_LIVED, kind, key, build)
    }

    fn entry_used_within(
        &self,
        unused: Duration,
        kind: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let family = self.root.join(kind);
        let entry = family.join(key.name());
        if is_hit(&entry) {
            return Ok(entry);
        }
        fs::create_dir_all(&family).with_context(|| format!("create {}", family.display()))?;
        let _lock = lock(&family.join(format!("{}.lock", key.name())))?;
        if is_hit(&entry) {
            return Ok(entry);
        }
        let partial = family.join(format!("{}.partial", key.name()));
        let partial = Partial::create(partial)?;
        build(&partial.0).with_context(|| format!("build the cache entry {}", entry.display()))?;
        let directory = File::open(&partial.0)?;
        syncfs(&directory).with_context(|| format!("sync {}", partial.0.display()))?;
        fs::rename(&partial.0, &entry).with_context(|| format!("create {}", entry.display()))?;
        remove_unused(&family, &entry, unused)?;
        Ok(entry)
    }

    /// Holds the lock `name` as long as the file is open; waits for whoever has it.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub(crate) fn lock(&self, name: &str) -> Result<File> {
        fs::create_dir_all(&self.root)
            .with_context(|| format!("create {}", self.root.display()))?;
        lock(&self.root.join(format!("{name}.lock")))
    }

    /// Opens an unnamed file in the cache's file system: it vanishes with its last descriptor.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub(crate) fn unnamed_file(&self) -> Result<File> {
        use rustix::fs::{Mode, OFlags, open};
        fs::create_dir_all(&self.root)
            .with_context(|| format!("create {}", self.root.display()))?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = open(&self.root, flags, Mode::RUSR | Mode::WUSR)
            .with_context(|| format!("create an unnamed file in {}", self.root.display()))?;
        Ok(File::from(file))
    }
}

/// A directory under construction; removed when construction fails.
struct Partial(PathBuf);

impl Partial {
    /// The caller holds the entry's lock, so whatever is at `path` was left by a killed build.
    fn create(path: PathBuf) -> Result<Self> {
        remove_tree(&path)?;
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already when it was renamed. A leftover costs space only; the next build removes it.
        let _ = remove_tree(&self.0);
    }
}

/// Whether `entry` exists; a hit refreshes its time of last use.
fn is_hit(entry: &Path) -> bool {
    let Ok(directory) = File::open(entry) else { return false };
    // An entry of another user may be read-only to us: then its age is theirs to keep.
    let _ = directory.set_modified(SystemTime::now());
    true
}

fn lock(path: &Path) -> Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("open the lock {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        eprintln!(
            "cache: waiting for another command that works on {}",
            path.with_extension("").display()
        );
        flock(&file, FlockOperation::LockExclusive)
            .with_context(|| format!("lock {}", path.display()))?;
    }
    Ok(file)
}

fn remove_unused(family: &Path, keep: &Path, unused: Duration) -> Result<()> {
    for item in fs::read_dir(family).with_context(|| format!("list {}", family.display()))? {
        let item = item?;
        let path = item.path();
        let metadata = item.metadata()?;
        let age = metadata.modified()?.elapsed().unwrap_or_default();
        if path != keep && metadata.is_dir() && path.extension().is_none() && age > unused {
            remove_tree(&path)?;
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn key() -> Key {
        Key::new().with("recipe", "one")
    }

    #[test]
    fn inputs_that_would_run_together_have_distinct_names() {
        let a = Key::new().with("ab", "c").name();
        let b = Key::new().with("a", "bc").name();
        assert_ne!(a, b);
        assert_eq!(a.len(), 32);
        assert_eq!(a, Key::new().with("ab", "c").name());
    }

    #[test]
    fn second_request_is_a_hit() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let build = |path: &Path| Ok(fs::write(path.join("file"), "content")?);
        let first = cache.entry("kind", &key(), build).unwrap();
        let second = cache.entry("kind", &key(), |_| anyhow::bail!("built twice")).unwrap();
        assert_eq!(first, second);
        assert_eq!(fs::read(second.join("file")).unwrap(), b"content");
    }

    #[test]
    fn failed_build_leaves_no_entry_and_no_partial_directory() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let fail = |path: &Path| {
            fs::write(path.join("half"), "x")?;
            anyhow::bail!("no")
        };
        assert!(cache.entry("kind", &key(), fail).is_err());
        let left: Vec<_> = fs::read_dir(directory.path().join("kind"))
            .unwrap()
            .map(|item| item.unwrap())
            .filter(|item| item.file_type().unwrap().is_dir())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn leftovers_of_a_killed_build_are_not_seen_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let stale = directory.path().join("kind").join(format!("{}.partial", key().name()));
        fs::create_dir_all(&stale).unwrap();
        fs::write(stale.join("half"), "x").unwrap();
        let entry = cache.entry("kind", &key(), |_| Ok(())).unwrap();
        assert_eq!(fs::read_dir(entry).unwrap().count(), 0);
        assert!(!stale.exists());
    }

    #[test]
    fn short_lived_entries_leave_when_a_sibling_comes_and_the_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let entries = ["short", "long"].map(|kind| {
            let entry = cache.entry(kind, &key(), |_| Ok(())).unwrap();
            let before = SystemTime::now() - SHORT_LIVED - Duration::from_secs(60);
            File::open(&entry).unwrap().set_modified(before).unwrap();
            entry
        });
        let sibling = Key::new().with("recipe", "two");
        cache.short_lived_entry("short", &sibling, |_| Ok(())).unwrap();
        cache.entry("long", &sibling, |_| Ok(())).unwrap();
        assert_eq!(entries.map(|entry| entry.exists()), [false, true]);
    }

    #[test]
    fn parallel_requests_build_once() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let builds = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let build = |_: &Path| {
                        builds.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(20));
                        Ok(())
                    };
                    cache.entry("kind", &key(), build).unwrap();
                });
            }
        });
        assert_eq!(builds.load(Ordering::Relaxed), 1);
    }
}
