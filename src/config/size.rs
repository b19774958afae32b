//! Sizes with units.

use std::fmt;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// An amount of memory in bytes, written with a binary unit: `256M`, `2G`, `512MiB`.
///
/// The unit is required: other monitors read a bare number as bytes or as MiB, and guessing wrong
/// is a factor of a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct MemorySize(u64);

impl MemorySize {
    /// A size given in bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size given in MiB, for constants: it saturates at the largest size.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(MIB))
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, letter) in [(TIB, "T"), (GIB, "G"), (MIB, "M"), (KIB, "K")] {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{}{letter}", self.0 / unit);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl From<MemorySize> for String {
    fn from(size: MemorySize) -> Self {
        size.to_string()
    }
}

impl<'de> Deserialize<'de> for MemorySize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = MemorySize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size with its unit in quotes, such as \"256M\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MemorySize, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl FromStr for MemorySize {
    type Err = MemorySizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(digits_end);
        if digits.is_empty() {
            return Err(MemorySizeError::Form);
        }
        let factor = match unit.to_ascii_lowercase().as_str() {
            "" => return Err(MemorySizeError::NoUnit(digits.to_owned())),
            "b" => 1,
            "k" | "kib" => KIB,
            "m" | "mib" => MIB,
            "g" | "gib" => GIB,
            "t" | "tib" => TIB,
            _ => return Err(MemorySizeError::Form),
        };
        let number: u64 = digits.parse().map_err(|_| MemorySizeError::TooLarge)?;
        number.checked_mul(factor).map(Self).ok_or(MemorySizeError::TooLarge)
    }
}

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MemorySizeError {
    /// Not digits followed by a unit.
    #[error("a size is a whole number and a unit (K, M, G or T), such as 256M")]
    Form,
    /// A number alone.
    #[error("a size needs a unit: did you mean {0}M?")]
    NoUnit(String),
    /// More than 64 bits can count.
    #[error("the size does not fit in 64 bits")]
    TooLarge,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_in_every_form() {
        for (text, bytes) in [
            ("256M", 256 << 20),
            ("256m", 256 << 20),
            ("512MiB", 512 << 20),
            ("2G", 2 << 30),
            ("1TiB", 1 << 40),
            ("4K", 4096),
            ("0M", 0),
            ("17B", 17),
        ] {
            assert_eq!(text.parse(), Ok(MemorySize::from_bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn sizes_without_unit_with_sign_fraction_or_overflow_are_refused() {
        for (text, error) in [
            ("256", MemorySizeError::NoUnit("256".to_owned())),
            ("", MemorySizeError::Form),
            ("M", MemorySizeError::Form),
            ("-1M", MemorySizeError::Form),
            ("+1M", MemorySizeError::Form),
            ("1.5G", MemorySizeError::Form),
            ("1 G", MemorySizeError::Form),
            ("256MB", MemorySizeError::Form),
            ("1E", MemorySizeError::Form),
            ("17592186044416M", MemorySizeError::TooLarge),
            ("99999999999999999999M", MemorySizeError::TooLarge),
        ] {
            assert_eq!(text.parse::<MemorySize>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in ".{0,40}") {
            let _ = text.parse::<MemorySize>();
        }

        #[test]
        fn display_reads_back_as_the_same_size(bytes: u64) {
            let size = MemorySize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
