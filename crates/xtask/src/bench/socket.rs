//! Where the two ends of a measured stream meet: TCP, Unix sockets and AF_VSOCK behind one face.

// UNSAFETY: no safe interface knows the addresses of AF_VSOCK.
#![expect(unsafe_code)]

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, accept_with, bind,
    connect, listen, recv, send, shutdown, socket_with,
};

/// The host, in AF_VSOCK, and an address that stands for one's own.
pub(super) const HOST_CID: u32 = 2;
pub(super) const OWN_CID: u32 = u32::MAX;

const BACKLOG: i32 = 64;
/// The longest answer to `CONNECT`.
const ANSWER_LEN: usize = 32;

/// Where a stream leads to.
#[derive(Clone, Debug)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// As the kernel has it.
    Vsock(Vm),
    /// As our monitor has it, for programs of the host: its socket, and a port. Who listens is called
    /// by the guest, who connects calls it.
    Monitor {
        socket: PathBuf,
        port: u32,
    },
}

/// `struct sockaddr_vm` (linux/vm_sockets.h).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Vm {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

// SAFETY: the pointer is to the structure the kernel expects of this family, readable for its length.
unsafe impl SocketAddrArg for Vm {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f((&raw const *self).cast(), size_of::<Self>() as SocketAddrLen)
    }
}

/// A stream.
#[derive(Debug)]
pub(super) struct Stream(OwnedFd);

/// Takes streams.
#[derive(Debug)]
pub(super) struct Listener(OwnedFd);

impl Address {
    /// An address of AF_VSOCK.
    pub(super) fn vsock(cid: u32, port: u32) -> Self {
        let family = AddressFamily::VSOCK.as_raw();
        Self::Vsock(Vm { family, reserved: 0, port, cid, flags: 0, zero: [0; 3] })
    }

    /// Connects to it.
    ///
    /// # Errors
    /// Nobody listens there.
    pub(super) fn connect(&self) -> Result<Stream> {
        let stream = match self {
            Self::Tcp(address) => TcpStream::connect(address).map(OwnedFd::from),
            Self::Unix(path) => UnixStream::connect(path).map(OwnedFd::from),
            Self::Vsock(address) => {
                let socket = vsock()?;
                connect(&socket, address).map(|()| socket).map_err(io::Error::from)
            }
            Self::Monitor { socket, port } => {
                let stream = UnixStream::connect(socket).map(OwnedFd::from);
                return through_monitor(stream.map(Stream), *port);
            }
        };
        Ok(Stream(stream.with_context(|| format!("connect to {self:?}"))?))
    }

    /// Listens at it.
    ///
    /// # Errors
    /// It is in use, or another machine's.
    pub(super) fn listen(&self) -> Result<Listener> {
        let listener = match self {
            Self::Tcp(address) => TcpListener::bind(address).map(OwnedFd::from),
            Self::Unix(path) => listen_at(path.clone()),
            Self::Vsock(address) => {
                let socket = vsock()?;
                let listening = bind(&socket, address).and_then(|()| listen(&socket, BACKLOG));
                listening.map(|()| socket).map_err(io::Error::from)
            }
            Self::Monitor { socket, port } => {
                listen_at(format!("{}_{port}", socket.display()).into())
            }
        };
        Ok(Listener(listener.with_context(|| format!("listen at {self:?}"))?))
    }
}

/// Listens at `path`, where the run before this one may have left its socket.
fn listen_at(path: PathBuf) -> io::Result<OwnedFd> {
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path).map(OwnedFd::from),
    }
}

/// Asks the monitor at the other end of `stream` for `port` of its guest.
fn through_monitor(stream: io::Result<Stream>, port: u32) -> Result<Stream> {
    let mut stream = stream.context("connect to the monitor's socket")?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).context("name the port")?;
    let mut answer = vec![];
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("wait for the guest to accept")?;
        answer.extend(byte);
        ensure!(answer.len() < ANSWER_LEN, "the monitor answered {answer:?}");
    }
    ensure!(answer.starts_with(b"OK "), "the monitor answered {answer:?}");
    Ok(stream)
}

fn vsock() -> io::Result<OwnedFd> {
    let (family, flags) = (AddressFamily::VSOCK, SocketFlags::CLOEXEC);
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

impl Listener {
    /// The next stream.
    ///
    /// # Errors
    /// The system has no room for it.
    pub(super) fn accept(&self) -> Result<Stream> {
        Ok(Stream(accept_with(&self.0, SocketFlags::CLOEXEC).context("accept")?))
    }
}

impl Stream {
    /// Ends what is sent; the other way stays open.
    ///
    /// # Errors
    /// The other side is gone.
    pub(super) fn end(&self) -> Result<()> {
        shutdown(&self.0, Shutdown::Write).context("end the stream")
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&self.0, bytes, RecvFlags::empty())?.1)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Sends something each way between the two ends.
    fn talk(mut one: Stream, mut other: Stream) {
        let mut heard = String::new();
        one.write_all(b"there").unwrap();
        one.end().unwrap();
        other.read_to_string(&mut heard).unwrap();
        other.write_all(b" and back").unwrap();
        drop(other);
        one.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "there and back");
    }

    #[test]
    fn ends_meet_and_what_a_run_left_behind_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        let path = Address::Unix(directory.path().join("socket"));
        for _ in 0..2 {
            let listener = path.listen().unwrap();
            talk(path.connect().unwrap(), listener.accept().unwrap());
        }
        assert!(Address::Unix(directory.path().join("other")).connect().is_err());
    }

    #[test]
    fn port_is_asked_of_the_monitor_and_the_answer_is_read_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let monitor = Address::Unix(socket.clone()).listen().unwrap();
        let host = thread::spawn(move || Address::Monitor { socket, port: 1025 }.connect());
        let mut other = monitor.accept().unwrap();
        let mut asked = [0; 13];
        other.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"CONNECT 1025\n");
        other.write_all(b"OK 1073741824\n").unwrap();
        talk(host.join().unwrap().unwrap(), other);
    }

    #[test]
    fn guest_calls_the_socket_that_ends_in_the_port() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let guest = Address::Unix(directory.path().join("socket_7"));
        let listener = Address::Monitor { socket, port: 7 }.listen().unwrap();
        talk(guest.connect().unwrap(), listener.accept().unwrap());
    }

    #[test]
    fn address_of_a_virtual_machine_is_as_the_kernel_has_it() {
        let Address::Vsock(address) = Address::vsock(3, 9) else { panic!("another kind") };
        assert_eq!(size_of_val(&address), 16);
        assert_eq!((address.family, address.port, address.cid), (40, 9, 3));
    }
}
