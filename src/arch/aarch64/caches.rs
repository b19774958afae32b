//! The caches of the host's first processor, as far as its kernel tells, for the guest to be told the same.

use std::fs;
use std::path::Path;

/// More caches than any processor has.
const MAX_CACHES: usize = 8;

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::arch) enum Kind {
    Data,
    Instruction,
    Unified,
}

/// One cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::arch) struct Cache {
    pub(super) level: u32,
    pub(super) kind: Kind,
    /// Sizes in bytes.
    pub(super) size: u32,
    pub(super) line_size: u32,
    pub(super) sets: u32,
    /// Whether several processors have it in common.
    pub(super) shared: bool,
}

/// The caches that Linux describes below `dir` (Documentation/ABI, sysfs-devices-system-cpu), nearest first; those that
/// are described in part are left out, and so is what lies behind them.
pub(in crate::arch) fn read(dir: &Path) -> Vec<Cache> {
    let caches = (0..MAX_CACHES).map_while(|index| cache(&dir.join(format!("index{index}"))));
    let mut caches: Vec<_> = caches.collect();
    caches.sort_by_key(|cache| cache.level);
    caches
}

fn cache(dir: &Path) -> Option<Cache> {
    let text = |name: &str| fs::read_to_string(dir.join(name)).ok();
    let number = |name: &str| text(name)?.trim().parse().ok().filter(|number| *number > 0);
    let kind = match text("type")?.trim() {
        "Data" => Kind::Data,
        "Instruction" => Kind::Instruction,
        "Unified" => Kind::Unified,
        _ => return None,
    };
    Some(Cache {
        level: number("level")?,
        kind,
        size: kib(text("size")?.trim())?,
        line_size: number("coherency_line_size")?,
        sets: number("number_of_sets")?,
        shared: text("shared_cpu_list")?.trim().contains([',', '-']),
    })
}

/// The bytes of a size such as `32K`.
fn kib(text: &str) -> Option<u32> {
    text.strip_suffix('K')?.parse::<u32>().ok()?.checked_mul(1024).filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(dir: &Path, index: usize, files: [(&str, &str); 6]) {
        let dir = dir.join(format!("index{index}"));
        fs::create_dir(&dir).unwrap();
        for (name, content) in files {
            fs::write(dir.join(name), format!("{content}\n")).unwrap();
        }
    }

    fn files<'a>(level: &'a str, kind: &'a str, size: &'a str) -> [(&'a str, &'a str); 6] {
        [
            ("level", level),
            ("type", kind),
            ("size", size),
            ("coherency_line_size", "64"),
            ("number_of_sets", "256"),
            ("shared_cpu_list", if level == "2" { "0-3" } else { "0" }),
        ]
    }

    #[test]
    fn caches_of_the_host_are_read_nearest_first() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), []);
        describe(dir.path(), 0, files("2", "Unified", "1024K"));
        describe(dir.path(), 1, files("1", "Instruction", "48K"));
        let caches = read(dir.path());
        assert_eq!(caches.len(), 2);
        let first = Cache {
            level: 1,
            kind: Kind::Instruction,
            size: 48 << 10,
            line_size: 64,
            sets: 256,
            shared: false,
        };
        assert_eq!(caches[0], first);
        assert_eq!((caches[1].size, caches[1].shared), (1 << 20, true));
    }

    #[test]
    fn cache_described_in_part_is_left_out() {
        for (level, kind, size) in
            [("x", "Data", "32K"), ("1", "Trace", "32K"), ("1", "Data", ""), ("1", "Data", "0K")]
        {
            let dir = tempfile::tempdir().unwrap();
            describe(dir.path(), 0, files(level, kind, size));
            assert_eq!(read(dir.path()), [], "{level} {kind} {size}");
        }
        let dir = tempfile::tempdir().unwrap();
        describe(dir.path(), 0, files("1", "Data", "4194304K"));
        assert_eq!(read(dir.path()), []);
    }
}
