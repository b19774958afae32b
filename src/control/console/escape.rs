//! The escape key of the console: Ctrl-a, as in QEMU.

const CTRL_A: u8 = 0x01;

/// What a typed byte means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Goes to the guest.
    Byte(u8),
    /// Only begins an escape, or is an unknown one.
    Nothing,
    /// Ctrl-a x: leave.
    Quit,
}

/// Finds escapes in what the user types.
#[derive(Debug, Default)]
pub(super) struct Escape {
    begun: bool,
}

impl Escape {
    /// Interprets the next byte. Ctrl-a twice sends one to the guest.
    pub(super) fn key(&mut self, byte: u8) -> Key {
        match (std::mem::take(&mut self.begun), byte) {
            (false, CTRL_A) => {
                self.begun = true;
                Key::Nothing
            }
            (false, byte) | (true, byte @ CTRL_A) => Key::Byte(byte),
            (true, b'x' | b'X') => Key::Quit,
            (true, _) => Key::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(typed: &[u8]) -> Vec<Key> {
        let mut escape = Escape::default();
        typed.iter().map(|byte| escape.key(*byte)).filter(|key| *key != Key::Nothing).collect()
    }

    #[test]
    fn ctrl_a_x_quits() {
        assert_eq!(keys(b"a\x01x"), [Key::Byte(b'a'), Key::Quit]);
    }

    #[test]
    fn ctrl_a_twice_sends_one_and_ends_the_escape() {
        assert_eq!(keys(b"\x01\x01x"), [Key::Byte(1), Key::Byte(b'x')]);
    }

    #[test]
    fn unknown_escapes_are_swallowed() {
        assert_eq!(keys(b"\x01qx"), [Key::Byte(b'x')]);
    }
}
