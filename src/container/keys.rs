//! The keys that leave a container running.

use std::str::FromStr;

use super::nouns::NounError;

/// A sequence of bytes that is not passed on: `ctrl-p,ctrl-q`, `ctrl-x,d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    /// `ctrl-p,ctrl-q`.
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl FromStr for DetachKeys {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        let wrong = || NounError::new(text, "keys such as ctrl-p,ctrl-q");
        let key =
            |word: &str| match (word.as_bytes(), word.strip_prefix("ctrl-").map(str::as_bytes)) {
                (_, Some([letter @ b'a'..=b'z'])) => {
                    Some(letter.wrapping_sub(b'a').wrapping_add(1))
                }
                (_, Some(b"@")) => Some(0),
                (_, Some([sign @ b'['..=b'_'])) => Some(sign.wrapping_sub(b'@')),
                ([byte], _) if byte.is_ascii_graphic() => Some(*byte),
                _ => None,
            };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(Self).ok_or_else(wrong)
    }
}

/// Looks for the keys in what is typed.
#[derive(Debug)]
pub(super) struct Watch {
    keys: DetachKeys,
    /// How many of them were typed just now.
    matched: usize,
}

impl Watch {
    pub(super) fn new(keys: DetachKeys) -> Self {
        Self { keys, matched: 0 }
    }

    /// What of `typed` is passed on, and whether all keys were pressed: then nothing behind them is.
    /// Keys that may yet become the sequence are held back.
    pub(super) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = vec![];
        for &byte in typed {
            while self.matched > 0 && self.keys.0.get(self.matched) != Some(&byte) {
                self.give_up_one(&mut passed);
            }
            if self.keys.0.get(self.matched) == Some(&byte) {
                self.matched = self.matched.saturating_add(1);
                if self.matched == self.keys.0.len() {
                    return (passed, true);
                }
            } else {
                passed.push(byte);
            }
        }
        (passed, false)
    }

    /// The first of the held keys was meant; the rest may still begin the sequence.
    fn give_up_one(&mut self, passed: &mut Vec<u8>) {
        let held = self.keys.0.get(..self.matched).unwrap_or_default();
        let shorter = (1..=held.len())
            .find(|&skip| held.get(skip..).is_some_and(|rest| self.keys.0.starts_with(rest)));
        let skip = shorter.unwrap_or(held.len());
        passed.extend_from_slice(held.get(..skip).unwrap_or_default());
        self.matched = self.matched.saturating_sub(skip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str, parts: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut watch = Watch::new(keys.parse().expect("keys"));
        let mut all = vec![];
        for part in parts {
            let (passed, detached) = watch.filter(part);
            all.extend(passed);
            if detached {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn keys_detach_and_are_not_passed_on() {
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"ab\x10\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"ab\x10", b"\x11"]), (b"ab".to_vec(), true));
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(typed("a,a,b", &[b"aaab"]), (b"a".to_vec(), true));
    }

    #[test]
    fn other_keys_are_passed_on_in_order() {
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"\x10x\x11", b"y"]), (b"\x10x\x11y".to_vec(), false));
        assert_eq!(typed("a,b,a,c", &[b"ababac"]), (b"ab".to_vec(), true));
    }

    #[test]
    fn keys_have_dockers_names() {
        for bad in ["", "ctrl-", "ctrl-1", "ab", "ctrl-p,", "ü"] {
            assert!(bad.parse::<DetachKeys>().is_err(), "{bad}");
        }
        assert_eq!("ctrl-@,ctrl-],z".parse(), Ok(DetachKeys(vec![0, 0x1d, b'z'])));
    }
}
