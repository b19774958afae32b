//! The `key=value,key=value` form of a flag, read into the same structs as the configuration file.

use std::fmt::Display;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use thiserror::Error;

/// Why a `key=value,...` text was refused; reads as the end of a sentence about the flag.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct KeyValueError(String);

/// Reads `key=value,...` into `T`, whose fields are the known keys.
///
/// A comma inside a value is written twice. Switches are `on` and `off` (or `true` and `false`).
/// The key of a list is given once for each of its elements.
///
/// # Errors
/// An element that is not `key=value`, a key given twice, unknown or missing, and a value of the
/// wrong form are refused by name.
pub fn parse_key_values<T: DeserializeOwned>(text: &str) -> Result<T, KeyValueError> {
    let mut values: Vec<Value> = Vec::new();
    for element in split_elements(text) {
        let Some((key, text)) = element.split_once('=') else {
            return Err(KeyValueError(format!(
                "`{element}` is not key=value (a comma inside a value is written twice)"
            )));
        };
        let text = text.to_owned();
        match values.iter_mut().find(|value| value.key == key) {
            Some(value) => value.more.push(text),
            None => values.push(Value { key: key.to_owned(), text, more: Vec::new() }),
        }
    }
    let pairs = values.into_iter().map(|value| (value.key.clone(), value));
    T::deserialize(MapDeserializer::new(pairs))
}

/// Has a flag's value read into each noun as [`parse_key_values`] does.
macro_rules! from_key_values {
    ($noun:ty) => {
        impl std::str::FromStr for $noun {
            type Err = $crate::config::KeyValueError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::config::parse_key_values(text)
            }
        }
    };
}
pub(super) use from_key_values;

/// Reads `on` or `off` (or `true` or `false`).
///
/// # Errors
/// Anything else is refused.
pub fn parse_switch(text: &str) -> Result<bool, KeyValueError> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(KeyValueError(format!("`{text}` is neither `on` nor `off`"))),
    }
}

/// Splits at single commas; a doubled comma becomes one comma of the element.
fn split_elements(text: &str) -> Vec<String> {
    let mut elements = Vec::new();
    let mut element = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != ',' {
            element.push(c);
        } else if chars.next_if_eq(&',').is_some() {
            element.push(',');
        } else {
            elements.push(std::mem::take(&mut element));
        }
    }
    elements.push(element);
    elements
}

/// The text after `key=`, read as whatever type the field has.
struct Value {
    key: String,
    text: String,
    /// The texts after the same key, given again.
    more: Vec<String>,
}

impl Value {
    /// The text of a key that is no list's.
    fn text(&self) -> Result<&str, KeyValueError> {
        match self.more.is_empty() {
            true => Ok(&self.text),
            false => Err(KeyValueError(format!("key `{}` is given twice", self.key))),
        }
    }

    fn parse_number<T: std::str::FromStr>(&self) -> Result<T, KeyValueError> {
        let refuse =
            |_| KeyValueError(format!("`{}` is not a number that `{}` takes", self.text, self.key));
        self.text()?.parse().map_err(refuse)
    }

    /// Says which key a reason is about, unless it does already.
    fn naming_key<T>(key: &str, result: Result<T, KeyValueError>) -> Result<T, KeyValueError> {
        let prefix = format!("{key}: ");
        result.map_err(|KeyValueError(reason)| match reason.starts_with(&prefix) {
            true => KeyValueError(reason),
            false => KeyValueError(prefix + &reason),
        })
    }
}

impl IntoDeserializer<'_, KeyValueError> for Value {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> de::Deserializer<'de> for Value {
    type Error = KeyValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyValueError> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyValueError> {
        visitor.visit_bool(Self::naming_key(&self.key, self.text().and_then(parse_switch))?)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyValueError> {
        visitor.visit_u16(self.parse_number()?)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyValueError> {
        visitor.visit_u32(self.parse_number()?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyValueError> {
        visitor.visit_u64(self.parse_number()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyValueError> {
        let key = self.key.clone();
        self.text()?;
        Self::naming_key(&key, visitor.visit_some(self))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyValueError> {
        let Self { key, text, more } = self;
        let texts = std::iter::once(text).chain(more);
        let values = texts.map(|text| Self { key: key.clone(), text, more: Vec::new() });
        Self::naming_key(&key, visitor.visit_seq(SeqDeserializer::new(values)))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, KeyValueError> {
        Self::naming_key(&self.key, visitor.visit_enum(self.text()?.into_deserializer()))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, KeyValueError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct map struct identifier ignored_any
    }
}

impl de::Error for KeyValueError {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let known: Vec<_> = expected.iter().map(|name| format!("`{name}`")).collect();
        Self(format!("unknown key `{field}`, expected one of {}", known.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self(format!("missing key `{field}`"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self(format!("key `{field}` is given twice"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Disk, Net};

    fn disk_error(text: &str) -> String {
        text.parse::<Disk>().expect_err(text).to_string()
    }

    #[test]
    fn elements_that_are_not_pairs_are_named() {
        for (text, named) in [("", "``"), ("disk.img", "`disk.img`"), ("path=a,", "``")] {
            let error = disk_error(text);
            assert!(error.contains(named) && error.contains("not key=value"), "{error}");
        }
    }

    #[test]
    fn key_given_twice_is_refused() {
        assert_eq!(disk_error("path=a,path=b"), "key `path` is given twice");
    }

    #[test]
    fn switch_that_is_neither_on_nor_off_is_refused_with_its_key() {
        let error = disk_error("path=a,readonly=maybe");
        assert_eq!(error, "readonly: `maybe` is neither `on` nor `off`");
    }

    #[test]
    fn number_beyond_its_field_is_refused_with_its_key() {
        for mtu in ["65536", "-1", "1.5", "", "18446744073709551616"] {
            let error = format!("tap=t,mtu={mtu}").parse::<Net>().expect_err(mtu);
            assert!(error.to_string().contains("mtu"), "{error}");
        }
    }

    #[test]
    fn value_may_contain_an_equals_sign() {
        let disk: Disk = "path=a=b".parse().expect("valid");
        assert_eq!(disk.path, std::path::Path::new("a=b"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "(path=|tap=|mac=|mtu=|,|=|\\PC){0,30}") {
            let _ = text.parse::<Disk>();
            let _ = text.parse::<Net>();
        }

        #[test]
        fn any_path_survives_with_its_commas_doubled(path in "\\PC{1,40}") {
            let text = format!("readonly=on,path={}", path.replace(',', ",,"));
            let disk: Disk = text.parse().expect("escaped");
            prop_assert_eq!(disk.path, std::path::PathBuf::from(path));
        }
    }
}
