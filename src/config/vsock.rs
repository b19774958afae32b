//! A socket device, by which programs of the guest and of the host reach each other.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::key_value::from_key_values;

/// A socket device: `--vsock cid=,socket=` or the `vsock` table of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Vsock {
    /// The guest's address (CID), [`Vsock::MIN_CID`] to [`Vsock::MAX_CID`].
    pub cid: u32,
    /// Unix socket that host programs connect to; created for the life of the machine. The guest's
    /// connections to port P of the host go to the socket with `_P` after this path.
    pub socket: PathBuf,
}

impl Vsock {
    /// The least address a guest can have: those below are reserved (virtio 1.3 section 5.10.4).
    pub const MIN_CID: u32 = 3;

    /// The largest: the one above stands for any.
    pub const MAX_CID: u32 = u32::MAX - 1;

    /// Longest path in bytes: what the address of a Unix socket holds, less its NUL and the longest
    /// port, `_4294967295`.
    pub const MAX_SOCKET_LEN: usize = 108 - 1 - 11;

    /// Whether `path` and what is made of it for every port can name a Unix socket.
    pub fn is_valid_socket(path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        // A path that ends with a slash would put the ports' sockets into that directory.
        (1..=Self::MAX_SOCKET_LEN).contains(&bytes.len())
            && !bytes.contains(&0)
            && !bytes.ends_with(b"/")
    }
}

from_key_values!(Vsock);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_form_reads_every_key() {
        let vsock: Vsock = "cid=3,socket=/run/vm.vsock".parse().expect("valid");
        assert_eq!(vsock, Vsock { cid: 3, socket: "/run/vm.vsock".into() });
    }

    #[test]
    fn missing_and_impossible_values_are_named() {
        let error = |text: &str| text.parse::<Vsock>().expect_err(text).to_string();
        assert_eq!(error("cid=3"), "missing key `socket`");
        assert_eq!(error("socket=a"), "missing key `cid`");
        assert!(error("cid=4294967296,socket=a").contains("`4294967296`"));
        assert!(error("cid=-1,socket=a").contains("`-1`"));
    }

    #[test]
    fn every_port_of_a_valid_path_fits_the_address_of_a_socket() {
        let longest = "x".repeat(Vsock::MAX_SOCKET_LEN);
        assert!(Vsock::is_valid_socket(Path::new(&longest)));
        let address =
            std::os::unix::net::SocketAddr::from_pathname(format!("{longest}_{}", u32::MAX));
        assert!(address.is_ok());
        for bad in ["", "a\0b", "/run/", &format!("{longest}x")] {
            assert!(!Vsock::is_valid_socket(Path::new(bad)), "{bad:?}");
        }
    }
}
