//! What containers are called.

use std::fmt;
use std::str::FromStr;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Digits of an identifier.
const DIGITS: usize = 64;
/// Digits that people see and type.
const SHORT: usize = 12;
/// Longest name; it becomes the container's host name, which has 64 bytes at most.
const MAX_NAME: usize = 63;

/// A name or an identifier that cannot be.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Not what a name is made of.
    #[error(
        "container name {0:?} is not one: letters, digits, _ . and -, two to 63 of them, the first a letter or a digit"
    )]
    Name(String),
    /// Not an identifier.
    #[error("{0:?} is no container identifier of 64 hexadecimal digits")]
    Id(String),
}

/// An identifier of 256 random bits, written in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

impl Id {
    /// An identifier that nothing else has.
    ///
    /// # Errors
    /// The kernel has no random numbers.
    pub fn random() -> std::io::Result<Self> {
        use fmt::Write as _;
        let mut bytes = [0; DIGITS / 2];
        let filled = getrandom(&mut bytes, GetRandomFlags::empty())?;
        if filled < bytes.len() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let mut digits = String::with_capacity(DIGITS);
        for byte in bytes {
            // Writing to a string does not fail.
            let _ = write!(digits, "{byte:02x}");
        }
        Ok(Self(digits))
    }

    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits.
    pub fn short(&self) -> &str {
        self.0.get(..SHORT).unwrap_or(&self.0)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl TryFrom<String> for Id {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == DIGITS && text.bytes().all(digit) {
            Ok(Self(text))
        } else {
            Err(NameError::Id(text))
        }
    }
}

/// A name that a user gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl From<&Id> for Name {
    fn from(id: &Id) -> Self {
        Self(id.short().to_owned())
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        let good = (2..=MAX_NAME).contains(&text.len())
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && text.bytes().all(inner);
        if good { Ok(Self(text)) } else { Err(NameError::Name(text)) }
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.to_owned().try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_random_and_written_in_hexadecimal() {
        let (one, two) = (Id::random().expect("random"), Id::random().expect("random"));
        assert_ne!(one, two);
        assert_eq!(Id::try_from(one.as_str().to_owned()), Ok(one.clone()));
        assert_eq!(one.short().len(), 12);
        for bad in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"a".repeat(65), "../x"] {
            assert!(Id::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    /// A9.
    #[test]
    fn names_that_are_paths_or_flags_are_refused() {
        for bad in ["", "a", "../x", "-rf", ".x", "a/b", "a\0b", "ü1", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        for good in ["ab", "web-1", "A.b_c", &"a".repeat(63)] {
            assert_eq!(good.parse::<Name>().map(String::from).as_deref(), Ok(good));
        }
    }
}
