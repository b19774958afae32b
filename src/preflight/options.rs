//! The configuration that a kernel built with `CONFIG_IKCONFIG` carries in its read-only data: a
//! gzip stream between the marks `IKCFG_ST` and `IKCFG_ED` (Linux, `kernel/configs.c`).

use std::io::{BufReader, Read};

use flate2::bufread::GzDecoder;
use memchr::memmem;

use super::PreflightError;
use super::image::Image;
use super::kernel::Kernel;

const MARK: &[u8] = b"IKCFG_ST";

/// Read-only data of a distribution's kernel is some MiB; a hostile file must not cost a noticeable time.
const MAX_SCANNED: u64 = 16 << 20;

/// Bytes looked through at a time: few enough to stay in the processor's cache.
const STEP: usize = 32 << 10;

/// An unpacked configuration is some hundreds of KiB.
const MAX_UNPACKED: u64 = 4 << 20;

/// How a kernel was built: its configuration, every line of which follows a line break.
pub(super) struct Options(Vec<u8>);

/// What a kernel has of one option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    BuiltIn,
    Module,
    Absent,
}

impl Setting {
    fn of(value: &[u8]) -> Self {
        match value {
            [b'y', ..] => Self::BuiltIn,
            [b'm', ..] => Self::Module,
            _ => Self::Absent,
        }
    }
}

impl Options {
    /// The setting of `CONFIG_{name}`.
    pub(super) fn get(&self, name: &str) -> Setting {
        self.value(name).map_or(Setting::Absent, Setting::of)
    }

    /// Those of `names` that are not built in, and what the kernel has of them, all found in one pass.
    pub(super) fn not_built_in<'a>(&self, names: &[&'a str]) -> Vec<(&'a str, Setting)> {
        let mut found: Vec<_> = names.iter().map(|name| (*name, Setting::Absent)).collect();
        for line in self.0.split(|byte| *byte == b'\n') {
            let Some(rest) = line.strip_prefix(b"CONFIG_") else { continue };
            let mut halves = rest.splitn(2, |byte| *byte == b'=');
            let (Some(name), Some(value)) = (halves.next(), halves.next()) else { continue };
            let meant = found.iter_mut().find(|(wanted, _)| wanted.as_bytes() == name);
            if let Some((_, setting)) = meant {
                *setting = Setting::of(value);
            }
        }
        found.retain(|(_, setting)| *setting != Setting::BuiltIn);
        found
    }

    /// Whether `CONFIG_{name}` is a text that is not empty.
    pub(super) fn has_text(&self, name: &str) -> bool {
        matches!(self.value(name), Some([b'"', next, ..]) if *next != b'"')
    }

    /// What follows `CONFIG_{name}=`.
    fn value(&self, name: &str) -> Option<&[u8]> {
        let key = format!("\nCONFIG_{name}=");
        let at = memmem::find(&self.0, key.as_bytes())?;
        self.0.get(at.checked_add(key.len())?..)
    }
}

/// Finds and unpacks the configuration; `None` where the kernel carries none that can be read.
pub(super) fn find(image: &Image, kernel: &Kernel) -> Result<Option<Options>, PreflightError> {
    let Kernel::Plain { read_only_data } = kernel else { return Ok(None) };
    let mut budget = MAX_SCANNED;
    for &(offset, len) in read_only_data {
        let len = len.min(budget);
        budget = budget.saturating_sub(len);
        if let Some(mark) = scan(image, offset, len)? {
            return unpack(image, mark);
        }
    }
    Ok(None)
}

/// Where in the file the first mark of a range is.
fn scan(image: &Image, start: u64, len: u64) -> Result<Option<u64>, PreflightError> {
    let finder = memmem::Finder::new(MARK);
    // Steps overlap by the length of the mark, so that one on their border is seen.
    let step = usize::try_from(len).unwrap_or(STEP).min(STEP);
    let mut buffer = vec![0; step.saturating_add(MARK.len())];
    let mut done = 0;
    while done < len {
        let at = start.saturating_add(done);
        let filled = image.read_into(at, &mut buffer)?;
        let found = buffer.get(..filled).and_then(|bytes| finder.find(bytes));
        if let Some(found) = found {
            let mark = done.saturating_add(u64::try_from(found).unwrap_or(u64::MAX));
            return Ok((mark < len).then(|| start.saturating_add(mark)));
        }
        if filled < buffer.len() {
            return Ok(None);
        }
        done = done.saturating_add(u64::try_from(STEP).unwrap_or(u64::MAX));
    }
    Ok(None)
}

fn unpack(image: &Image, mark: u64) -> Result<Option<Options>, PreflightError> {
    let mut packed = Packed {
        image,
        at: mark.saturating_add(u64::try_from(MARK.len()).unwrap_or(0)),
        error: None,
    };
    let mut text = vec![b'\n'];
    let reader = BufReader::with_capacity(STEP, &mut packed);
    let unpacked = GzDecoder::new(reader).take(MAX_UNPACKED).read_to_end(&mut text);
    if let Some(error) = packed.error {
        return Err(error);
    }
    // What follows the mark may be anything; a configuration cut off by the cap would lie.
    let whole = unpacked.is_ok_and(|len| u64::try_from(len).is_ok_and(|len| len < MAX_UNPACKED));
    let options = whole && memmem::find(&text, b"\nCONFIG_").is_some();
    Ok(options.then_some(Options(text)))
}

/// The rest of a file as a stream.
struct Packed<'a> {
    image: &'a Image,
    at: u64,
    error: Option<PreflightError>,
}

impl Read for Packed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.image.read_into(self.at, buffer).map_err(|error| {
            self.error = Some(error);
            std::io::Error::other("the file cannot be read")
        })?;
        self.at = self.at.saturating_add(u64::try_from(count).unwrap_or(0));
        Ok(count)
    }
}

#[cfg(test)]
impl From<&str> for Options {
    fn from(text: &str) -> Self {
        Self(format!("\n{text}").into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_is_read_by_its_whole_name() {
        let text = "CONFIG_VIRTIO=y\nCONFIG_EXT4_FS=m\n# CONFIG_NET is not set\n";
        let options = Options::from(text);
        assert_eq!(options.get("VIRTIO"), Setting::BuiltIn);
        assert_eq!(options.get("EXT4_FS"), Setting::Module);
        assert_eq!(options.get("NET"), Setting::Absent);
        assert_eq!(options.get("VIRT"), Setting::Absent);
        assert_eq!(options.get("RTIO"), Setting::Absent);
        let options = Options::from("CONFIG_A=\"\"\nCONFIG_B=\"x\"\nCONFIG_C=y\n");
        assert!(!options.has_text("A") && options.has_text("B") && !options.has_text("C"));
    }
}
