//! A named port between the guest and the host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::key_value::from_key_values;

/// A stream of bytes between `/dev/virtio-ports/NAME` of the guest and a unix socket of the host:
/// `--port name=,socket=` or a `[[port]]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Port {
    /// What the guest finds it by (virtio 1.3 section 5.3.6.2), at most [`Port::MAX_NAME_LEN`]
    /// bytes.
    pub name: String,
    /// Path of the socket, which is made for the life of the machine.
    pub socket: PathBuf,
}

impl Port {
    /// Longest name in bytes.
    pub const MAX_NAME_LEN: usize = 64;

    /// Longest path of a unix socket in bytes (`sun_path` of unix(7) less the NUL).
    pub const MAX_SOCKET_LEN: usize = 107;

    /// Most ports of one machine.
    pub const MAX: usize = 16;

    /// Whether `name` can be the name of a file in the guest without being changed: 1 to
    /// [`Port::MAX_NAME_LEN`] letters, digits, `.`, `_` and `-`, the first of them no dot.
    pub fn is_valid_name(name: &str) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        (1..=Self::MAX_NAME_LEN).contains(&name.len())
            && !name.starts_with('.')
            && name.bytes().all(plain)
    }
}

from_key_values!(Port);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_form_reads_every_key() {
        let port: Port = "name=org.vmm.agent-0,socket=/run/a,,b".parse().expect("valid");
        assert_eq!(port.name, "org.vmm.agent-0");
        assert_eq!(port.socket, PathBuf::from("/run/a,b"));
        let error = "name=a".parse::<Port>().expect_err("no socket").to_string();
        assert_eq!(error, "missing key `socket`");
    }

    #[test]
    fn names_are_plain_file_names() {
        assert!(Port::is_valid_name(&"a".repeat(64)));
        for bad in ["", ".", "..", ".a", "a/b", "a b", "a\n", "é", &"a".repeat(65)] {
            assert!(!Port::is_valid_name(bad), "{bad:?}");
        }
    }
}
