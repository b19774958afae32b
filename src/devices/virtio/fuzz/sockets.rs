//! Devices behind which there are sockets of the host, and programs that use them badly.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use arbitrary::{Result, Unstructured};
use rustix::net::{SocketAddrUnix, connect};

use super::{Host, attack};
use crate::devices::virtio::console::{Console, Endpoint, PortSocket};
use crate::devices::virtio::vsock::Vsock;
use crate::listener::new_socket;

/// The port of the host program that serves the guest.
const SERVED: u32 = 1;
/// Programs of the host at a time.
const PROGRAMS: usize = 8;

/// The socket device: programs come with first lines of any form, serve, send, read and go.
pub fn vsock(data: &[u8]) {
    let Some(scratch) = Scratch::new() else { return };
    let path = scratch.0.join("v");
    let service = UnixListener::bind(scratch.0.join(format!("v_{SERVED}")));
    let (Ok(device), Ok(service)) = (Vsock::open(3, &path), service) else { return };
    if service.set_nonblocking(true).is_ok() {
        attack(Box::new(device), programs(path, Some(service)), data);
    }
}

/// The console device with a named port, whose clients come, send, read and go.
pub fn console(data: &[u8]) {
    let Some(scratch) = Scratch::new() else { return };
    let path = scratch.0.join("p");
    let Ok(socket) = PortSocket::open(&path) else { return };
    let socket: Box<dyn Endpoint> = Box::new(socket);
    if let Ok(device) = Console::new(None, [("port".to_owned(), socket)]) {
        attack(Box::new(device), programs(path, None), data);
    }
}

/// A directory of one input, which goes with it.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vmm-fuzz-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).ok().map(|()| Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Programs that connect to `path`, or are connected to by way of `service`.
fn programs(path: PathBuf, service: Option<UnixListener>) -> Host {
    let mut programs = Vec::new();
    Box::new(move |input: &mut Unstructured<'_>| {
        if programs.len() < PROGRAMS {
            let accepted = service.as_ref().and_then(|service| service.accept().ok());
            programs.extend(accepted.and_then(|(stream, _)| unblocked(stream)));
        }
        if programs.len() < PROGRAMS && input.ratio(1, 3)? {
            programs.extend(connected(&path));
        }
        if programs.is_empty() {
            return Ok(());
        }
        let index = input.choose_index(programs.len())?;
        act(&mut programs, index, input)
    })
}

/// A connection to `path`, unless as many as may wait to be accepted do so already.
fn connected(path: &Path) -> Option<UnixStream> {
    let socket = new_socket().ok()?;
    connect(&socket, &SocketAddrUnix::new(path).ok()?).ok()?;
    Some(socket.into())
}

/// A connection whose reads and writes do not wait.
fn unblocked(stream: UnixStream) -> Option<UnixStream> {
    stream.set_nonblocking(true).ok().map(|()| stream)
}

fn act(programs: &mut Vec<UnixStream>, index: usize, input: &mut Unstructured<'_>) -> Result<()> {
    let mut stream = &programs[index];
    // What cannot be done now is not done.
    match input.int_in_range(0..=4)? {
        0 => {
            let line = format!("CONNECT {}\n", input.int_in_range(0..=4u32)?);
            let _ = stream.write(line.as_bytes());
        }
        1 => {
            let len = input.int_in_range(0..=40)?;
            let _ = stream.write(input.bytes(len)?);
        }
        2 => {
            let len = input.int_in_range(0..=200_000)?;
            let _ = stream.write(&vec![0x5a; len]);
        }
        3 => {
            let len = input.int_in_range(0..=200_000)?;
            let _ = stream.read(&mut vec![0; len]);
        }
        _ => drop(programs.swap_remove(index)),
    }
    Ok(())
}
