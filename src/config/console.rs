//! Where the guest's console leads.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What the guest's console is connected to: `--console` or `console` of the file.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Console {
    /// The serial port to standard input and output; Ctrl-a x leaves.
    #[default]
    Serial,
    /// The virtio console to standard input and output; Ctrl-a x leaves.
    Virtio,
    /// The serial port to a pseudo-terminal of its own.
    Pty,
    /// The output of the serial port to the end of a file; there is no input.
    File(PathBuf),
    /// The serial port to nothing: its output is only kept for the report of a failed boot.
    Off,
}

/// Why a text is no console.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is none of `serial`, `virtio`, `pty`, `file=PATH` and `off`")]
pub struct ConsoleError(String);

impl FromStr for Console {
    type Err = ConsoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "serial" => Ok(Self::Serial),
            "virtio" => Ok(Self::Virtio),
            "pty" => Ok(Self::Pty),
            "off" => Ok(Self::Off),
            _ => match text.strip_prefix("file=") {
                Some(path) => Ok(Self::File(path.into())),
                None => Err(ConsoleError(text.to_owned())),
            },
        }
    }
}

impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial => f.write_str("serial"),
            Self::Virtio => f.write_str("virtio"),
            Self::Pty => f.write_str("pty"),
            Self::File(path) => write!(f, "file={}", path.display()),
            Self::Off => f.write_str("off"),
        }
    }
}

impl From<Console> for String {
    fn from(console: Console) -> Self {
        console.to_string()
    }
}

impl TryFrom<String> for Console {
    type Error = ConsoleError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_console_survives_display_and_parse() {
        for text in ["serial", "virtio", "pty", "off", "file=/a b,c=d"] {
            let console: Console = text.parse().expect(text);
            assert_eq!(console.to_string(), text);
        }
        assert_eq!("file=".parse(), Ok(Console::File(PathBuf::new())));
    }

    #[test]
    fn what_is_no_console_is_named_with_what_would_be() {
        for text in ["", "tty", "Serial", "file", "file:/x", "pty=3"] {
            let error = text.parse::<Console>().expect_err(text).to_string();
            assert!(error.contains(&format!("`{text}`")) && error.contains("`pty`"), "{error}");
        }
    }
}
