//! What a fuzzer reads as configuration: files of both forms, and flags.

use super::{Disk, Host, Limit, MemorySize, Net, PartialConfig, load};

/// Reads `data` as a file of each form, and its lines as the values of flags; what can be read is
/// resolved, validated and asked for what the machine is built from.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let files = [load::parse_toml(text).ok(), load::parse_json(text).ok()];
    for partial in files.into_iter().flatten().chain([flags(text)]) {
        check(partial);
    }
}

fn flags(text: &str) -> PartialConfig {
    let mut partial = PartialConfig { kernel: Some("vmlinux".into()), ..PartialConfig::default() };
    for line in text.lines().take(64) {
        partial.disk.extend(line.parse::<Disk>());
        partial.net.extend(line.parse::<Net>());
        partial.limit.extend(line.parse::<Limit>());
        partial.memory = line.parse::<MemorySize>().ok().or(partial.memory);
    }
    partial
}

fn check(partial: PartialConfig) {
    let host = Host { memory: MemorySize::from_mib(4096) };
    if let Ok(config) = partial.resolve()
        && config.validate(&host).is_ok()
    {
        assert!(config.device_names().len() <= super::MAX_VIRTIO_DEVICES);
        assert!(serde_json::to_string(&config).is_ok(), "a valid configuration can be written");
    }
}

#[cfg(test)]
pub(crate) mod corpus {
    //! The inputs that fuzzing has found worth keeping: `fuzz/corpus/NAME.hex`, one to a line.

    use std::path::Path;

    /// The inputs of the fuzz target `name`.
    pub(crate) fn read(name: &str) -> Vec<Vec<u8>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let text = std::fs::read_to_string(directory.join(name).with_extension("hex")).unwrap();
        text.lines().map(bytes).collect()
    }

    fn bytes(line: &str) -> Vec<u8> {
        let digits = line.as_bytes().chunks(2);
        digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_is_survived() {
        let inputs = corpus::read("config");
        assert!(!inputs.is_empty());
        inputs.iter().for_each(|input| config(input));
    }
}
