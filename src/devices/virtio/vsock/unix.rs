//! The sockets of the host that the guest is connected to.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, connect as connect_socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::listener::new_socket;

/// Connects to the host program that serves `port`: at the path of the listener, an underscore and
/// the port's number. It never waits.
pub(super) fn connect(listener: &Path, port: u32) -> Result<OwnedFd, Errno> {
    let mut path = OsString::from(listener);
    path.push(format!("_{port}"));
    let socket = new_socket()?;
    connect_socket(&socket, &SocketAddrUnix::new(Path::new(&path))?)?;
    Ok(socket)
}

/// Lets this process have as many descriptors as the host allows, but no more than `wanted`
/// beyond the usual limit; tells how many those are.
pub(super) fn raise_descriptor_limit(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current else { return u64::MAX };
    let target = current.max(wanted);
    let target = limit.maximum.map_or(target, |most| target.min(most));
    if target <= current {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(target), maximum: limit.maximum }) {
        Ok(()) => target,
        Err(e) => {
            warn!("the limit of open files stays at {current}: {e}");
            current
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn port_is_the_socket_beside_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock");
        assert_eq!(connect(&path, 52).unwrap_err(), Errno::NOENT);
        let service = UnixListener::bind(dir.path().join("vsock_52")).unwrap();
        connect(&path, 52).unwrap();
        service.accept().unwrap();
        drop(service);
        assert_eq!(connect(&path, 52).unwrap_err(), Errno::CONNREFUSED);
    }
}
