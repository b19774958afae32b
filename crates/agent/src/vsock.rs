//! Stream sockets between guest and host.

// UNSAFETY: no safe interface knows the addresses of AF_VSOCK.
#![expect(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, listen, socket_with};

/// The host's number as the guest sees it.
const HOST: u32 = 2;
/// Connections that wait to be accepted, at most.
const BACKLOG: i32 = 128;

/// Connects to `port` of the host; blocks until it answers.
pub(crate) fn connect(port: u32) -> io::Result<OwnedFd> {
    let fd = socket(SocketFlags::CLOEXEC)?;
    let address = address(HOST, port);
    // SAFETY: connect reads an address of the length given.
    let result = unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length()) };
    if result == 0 { Ok(fd) } else { Err(io::Error::last_os_error()) }
}

/// Listens on `port` of the guest, without blocking.
pub(crate) fn listen_on(port: u32) -> io::Result<OwnedFd> {
    let fd = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let address = address(libc::VMADDR_CID_ANY, port);
    // SAFETY: bind reads an address of the length given.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// The next connection, without blocking; `None` when it is not of the host.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut peer = address(0, 0);
    let mut len = length();
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: accept4 writes an address of the length given, and returns a descriptor of its own.
    let fd = unsafe {
        let fd = libc::accept4(listener.as_raw_fd(), (&raw mut peer).cast(), &raw mut len, flags);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    Ok((peer.svm_cid == HOST).then_some(fd))
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?)
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).unwrap_or_default();
    (address.svm_cid, address.svm_port) = (cid, port);
    address
}

fn length() -> libc::socklen_t {
    libc::socklen_t::try_from(mem::size_of::<libc::sockaddr_vm>()).unwrap_or_default()
}
