//! Reading a configuration file.

use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::{ConfigError, FileError, PartialConfig, open_regular};

/// Largest configuration file in bytes.
pub const MAX_FILE_LEN: u64 = 1 << 20;

/// Reads a `.toml` or `.json` file. Relative paths in it start at the file's own directory.
///
/// # Errors
/// When the file cannot be read, is larger than [`MAX_FILE_LEN`], or says something that is not
/// understood; the error then names the line and column.
pub fn load(path: &Path) -> Result<PartialConfig, ConfigError> {
    let parse = match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => parse_toml,
        Some("json") => parse_json,
        _ => return Err(ConfigError::Extension(path.to_owned())),
    };
    let text = read(path)?;
    let mut config = parse(&text).map_err(|fault| fault.of(path))?;
    if let Some(directory) = path.parent() {
        config.rebase(directory);
    }
    Ok(config)
}

/// Reads a TOML file about something else than a machine.
///
/// # Errors
/// As [`load`].
pub fn load_toml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    understand(&read(path)?).map_err(|fault| fault.of(path))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let file = open_regular(path)?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file of the largest size from a larger one.
    file.take(MAX_FILE_LEN.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|source| FileError::Open { path: path.to_owned(), source })?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_FILE_LEN) {
        return Err(ConfigError::FileTooLarge(path.to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..valid).unwrap_or_default();
        let (line, column) = position(&String::from_utf8_lossy(before), valid);
        let message = "invalid UTF-8".to_owned();
        ConfigError::Syntax { path: path.to_owned(), line, column, message }
    })
}

/// What is wrong in a text and where, counted from 1.
pub(super) struct Fault {
    line: usize,
    column: usize,
    message: String,
}

impl Fault {
    fn of(self, path: &Path) -> ConfigError {
        let Self { line, column, message } = self;
        ConfigError::Syntax { path: path.to_owned(), line, column, message }
    }
}

pub(super) fn parse_toml(text: &str) -> Result<PartialConfig, Fault> {
    understand(text)
}

fn understand<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    toml::from_str(text).map_err(|error| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        Fault { line, column, message: reworded(error.message()) }
    })
}

pub(super) fn parse_json(text: &str) -> Result<PartialConfig, Fault> {
    // The parser would also take an array as the keys' values in order.
    if text.trim_start().starts_with('[') {
        let message = "expected an object of keys and values".to_owned();
        return Err(Fault { line: 1, column: 1, message });
    }
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let message = error.to_string();
        let suffix = format!(" at line {line} column {column}");
        let message = reworded(message.strip_suffix(&suffix).unwrap_or(&message));
        Fault { line: line.max(1), column: column.max(1), message }
    })
}

/// The line and column of a byte offset, counted from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    let line = before.iter().filter(|byte| **byte == b'\n').count();
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count();
    (line.saturating_add(1), column.saturating_add(1))
}

/// The parsers' sentences in the words of a file instead of those of a program.
fn reworded(message: &str) -> String {
    const WORDS: [(&str, &str); 7] = [
        ("unknown field", "unknown key"),
        ("missing field", "missing key"),
        ("duplicate field", "duplicate key"),
        ("unknown variant", "unknown value"),
        ("expected u64", "expected a whole number"),
        ("expected u16", "expected a whole number up to 65535"),
        ("expected path string", "expected a path in quotes"),
    ];
    WORDS.iter().fold(message.to_owned(), |text, (from, to)| text.replacen(from, to, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(name: &str, text: impl AsRef<[u8]>) -> Result<PartialConfig, ConfigError> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("write");
        load(&path)
    }

    fn fault(name: &str, text: impl AsRef<[u8]>) -> (usize, usize, String) {
        match load_text(name, text).expect_err("refused") {
            ConfigError::Syntax { line, column, message, .. } => (line, column, message),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn both_forms_of_file_say_the_same() {
        let toml = "cpus = 2\nmemory = '1G'\nacpi = false\nboot-protocol = 'pvh'\n\
                    [[disk]]\npath = '/a'\nreadonly = true\n[[net]]\ntap = 'tap0'\n\
                    [balloon]\nsize = '64M'\nstatistics = '1s'\n";
        let json = r#"{"cpus": 2, "memory": "1G", "acpi": false, "boot-protocol": "pvh",
                       "disk": [{"path": "/a", "readonly": true}], "net": [{"tap": "tap0"}],
                       "balloon": {"size": "64M", "statistics": "1s"}}"#;
        let toml = load_text("vm.toml", toml).expect("valid");
        assert_eq!(toml, load_text("vm.json", json).expect("valid"));
        assert_eq!((toml.cpus, toml.disk.len(), toml.net.len()), (Some(2), 1, 1));
        assert_eq!(toml.balloon, Some("size=64M,statistics=1s".parse().expect("valid")));
    }

    #[test]
    fn features_of_cpus_are_named_as_on_the_command_line() {
        let config = load_text("vm.toml", "cpu-features = ['pmu', 'pauth', 'sve']").expect("valid");
        let named: Vec<_> = config.cpu_features.iter().map(ToString::to_string).collect();
        assert_eq!(named, ["pmu", "pauth", "sve"]);
        let (line, _, message) = fault("vm.toml", "cpu-features = ['sme']");
        assert!(line == 1 && message.contains("sme"), "{message}");
    }

    #[test]
    fn relative_paths_start_at_the_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("vm.toml");
        std::fs::write(&path, "kernel = 'vmlinux'").expect("write");
        assert_eq!(load(&path).expect("valid").kernel, Some(dir.path().join("vmlinux")));
    }

    #[test]
    fn unknown_key_names_the_place_and_the_known_keys() {
        let (line, column, message) = fault("vm.toml", "cpus = 1\n\n  memori = '1G'\n");
        assert_eq!((line, column), (3, 3));
        assert!(message.starts_with("unknown key `memori`"), "{message}");
        assert!(message.contains("`memory`"), "{message}");

        let (line, _, message) = fault("vm.json", "{\n\"cpus\": 1,\n\"memori\": 1}");
        assert_eq!(line, 3);
        assert!(message.starts_with("unknown key `memori`"), "{message}");
    }

    #[test]
    fn unknown_key_of_a_disk_names_the_place() {
        let (line, _, message) = fault("vm.toml", "[[disk]]\npath = 'a'\nread-only = true\n");
        assert_eq!(line, 3);
        assert!(message.starts_with("unknown key `read-only`"), "{message}");
    }

    /// K8: what a hostile file may hold; each is one line with a place in the file.
    #[test]
    fn hostile_contents_are_refused_in_one_line() {
        let nested_json = format!("{{\"disk\": {}", "[".repeat(10_000));
        let nested_toml = format!("disk = {}", "[".repeat(10_000));
        let nested_table = format!("{} = 1", vec!["a"; 10_000].join("."));
        for (name, text) in [
            ("vm.json", nested_json.as_bytes()),
            ("vm.toml", nested_toml.as_bytes()),
            ("vm.toml", nested_table.as_bytes()),
            ("vm.json", b"{\"cpus\": 1, \"cpus\": 2}"),
            ("vm.toml", b"cpus = 1\ncpus = 2"),
            ("vm.json", b"{\"cpus\": 1e400}"),
            ("vm.toml", b"cpus = 1e400"),
            ("vm.json", b"{\"cpus\": 18446744073709551616}"),
            ("vm.toml", b"cpus = 18446744073709551616"),
            ("vm.json", b"{\"cpus\": -1}"),
            ("vm.toml", b"cpus = -1"),
            ("vm.json", b"{\"cpus\": \"\xff\"}"),
            ("vm.toml", b"# \xc3\x28"),
            ("vm.json", b""),
            ("vm.json", b"[]"),
            ("vm.json", b"{} {}"),
            ("vm.toml", b"cpus"),
            ("vm.toml", b"memory = 268435456"),
            ("vm.toml", b"memory = '256'"),
            ("vm.toml", b"[[net]]\nmac = '01:00:00:00:00:00'"),
            ("vm.toml", b"[[net]]\ntap = 'tap0'\nmtu = 65536"),
            ("vm.toml", b"[[disk]]\nreadonly = true"),
            ("vm.toml", b"acpi = 'on'"),
            ("vm.toml", b"console = 'tty'"),
            ("vm.toml", b"[[port]]\nname = 'a'"),
            ("vm.toml", b"\"a\\nb\" = 1"),
        ] {
            let (line, column, message) = fault(name, text);
            let shown = String::from_utf8_lossy(text.get(..40).unwrap_or(text));
            assert!(line >= 1 && column >= 1, "{shown}");
            assert!(message.len() < 400, "{shown}: {message}");
        }
    }

    #[test]
    fn invalid_utf8_names_its_line_and_column() {
        let (line, column, message) = fault("vm.toml", b"cpus = 1\n# \xff");
        assert_eq!((line, column, message.as_str()), (2, 3, "invalid UTF-8"));
    }

    #[test]
    fn size_cap_is_exact() {
        let cap = usize::try_from(MAX_FILE_LEN).expect("fits");
        assert!(load_text("vm.toml", " ".repeat(cap)).is_ok());
        let error = load_text("vm.toml", " ".repeat(cap + 1)).expect_err("too large");
        assert!(matches!(error, ConfigError::FileTooLarge(_)));
    }

    #[test]
    fn other_extension_is_refused_before_the_file_is_opened() {
        let error = load(Path::new("/no/such/vm.yaml")).expect_err("extension");
        assert!(matches!(error, ConfigError::Extension(_)));
    }
}
