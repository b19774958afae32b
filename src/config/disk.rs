//! A disk of the guest.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::key_value::from_key_values;

/// How a disk moves data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// One request after the other, by preadv(2) and pwritev(2).
    Sync,
    /// Many at a time, by io_uring(7).
    IoUring,
}

/// A disk backed by a raw image file: `--disk path=,overlay=,...` or a `[[disk]]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Disk {
    /// The image: a regular file, read as raw sectors whatever it contains.
    pub path: PathBuf,
    /// Whether the guest may only read; the file is then opened without write access.
    #[serde(default)]
    pub readonly: bool,
    /// What the guest reads as the disk's serial number (virtio 1.3 section 5.2.6), at most
    /// [`Disk::MAX_ID_LEN`] printable ASCII bytes. Derived from the position when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How data is moved; see [`Disk::engine`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// Whether data goes past the host's page cache (O_DIRECT).
    #[serde(default)]
    pub direct: bool,
    /// File that takes what the guest writes; the image is its base then, and never written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<PathBuf>,
    /// Number of queues, 1 to [`Disk::MAX_QUEUES`].
    #[serde(default = "one")]
    pub queues: u16,
}

fn one() -> u16 {
    1
}

impl Disk {
    /// A disk backed by the image at `path`; everything else as it is by default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            readonly: false,
            id: None,
            engine: None,
            direct: false,
            overlay: None,
            queues: 1,
        }
    }

    /// How data is moved: as asked for; otherwise one request after the other from the page cache,
    /// which answers at once, and many at a time from storage, which does not.
    pub fn engine(&self) -> Engine {
        let default = if self.direct { Engine::IoUring } else { Engine::Sync };
        self.engine.unwrap_or(default)
    }

    /// Most queues of a disk.
    pub const MAX_QUEUES: u16 = 8;

    /// Length of the reply to `VIRTIO_BLK_T_GET_ID` in bytes (virtio 1.3 section 5.2.6).
    pub const MAX_ID_LEN: usize = 20;

    /// Whether the guest can be shown `id` as a serial number: 1 to [`Disk::MAX_ID_LEN`] printable
    /// ASCII bytes without a space.
    pub fn is_valid_id(id: &str) -> bool {
        (1..=Self::MAX_ID_LEN).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

from_key_values!(Disk);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_form_reads_every_key() {
        let text = "path=/a b.img,readonly=on,id=data,engine=io_uring,direct=on,queues=4";
        let disk: Disk = text.parse().expect("valid");
        let expected = Disk {
            path: "/a b.img".into(),
            readonly: true,
            id: Some("data".to_owned()),
            engine: Some(Engine::IoUring),
            direct: true,
            overlay: None,
            queues: 4,
        };
        assert_eq!(disk, expected);
    }

    #[test]
    fn doubled_comma_stands_for_a_comma_in_the_path() {
        let disk: Disk = "path=a,,b.img,readonly=off".parse().expect("valid");
        assert_eq!(disk.path, PathBuf::from("a,b.img"));
        assert!(!disk.readonly);
    }

    #[test]
    fn missing_path_is_named() {
        let error = "readonly=on".parse::<Disk>().expect_err("path is required");
        assert_eq!(error.to_string(), "missing key `path`");
    }

    #[test]
    fn unknown_key_lists_the_known_ones() {
        let error = "path=a,cache=on".parse::<Disk>().expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "unknown key `cache`, expected one of `path`, `readonly`, `id`, `engine`, `direct`, `overlay`, `queues`"
        );
    }

    #[test]
    fn unknown_engine_is_refused_with_the_known_ones() {
        let error = "path=a,engine=uring".parse::<Disk>().expect_err("unknown").to_string();
        assert!(error.contains("uring") && error.contains("io_uring"), "{error}");
        assert!(error.contains("sync"), "{error}");
    }

    #[test]
    fn engine_follows_the_page_cache_unless_named() {
        let engine = |text: &str| text.parse::<Disk>().expect("valid").engine();
        assert_eq!(engine("path=a"), Engine::Sync);
        assert_eq!(engine("path=a,direct=on"), Engine::IoUring);
        assert_eq!(engine("path=a,engine=io_uring"), Engine::IoUring);
        assert_eq!(engine("path=a,direct=on,engine=sync"), Engine::Sync);
    }

    #[test]
    fn id_bounds_are_one_and_twenty_bytes() {
        assert!(Disk::is_valid_id("a"));
        assert!(Disk::is_valid_id(&"a".repeat(20)));
        for bad in ["", "a b", "a\n", "é", &"a".repeat(21)] {
            assert!(!Disk::is_valid_id(bad), "{bad:?}");
        }
    }
}
