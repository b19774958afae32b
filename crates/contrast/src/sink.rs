//! The other end of streams that leave an instance: takes everything and says so, or sends every byte back.
//!
//! It serves one stream after the other, as long as it lives, and nobody who does not know its token.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};

/// How long the other side may be silent.
const PATIENCE: Duration = Duration::from_secs(10);
const PIECE: usize = 128 << 10;
/// What the byte behind the token asks for, as the probe has it.
const TAKE: u8 = b's';
const RETURN: u8 = b'e';

/// A server. Dropping it ends it.
pub struct Sink {
    address: SocketAddr,
    token: String,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Serves at `address`, at a port that is free.
    ///
    /// # Errors
    /// It cannot be listened there.
    pub fn open(address: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let mut bytes = [0; 16];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let over = Arc::new(AtomicBool::new(false));
        let address = listener.local_addr()?;
        let (expected, ends) = (token.clone(), Arc::clone(&over));
        let work = move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                // Whose stream breaks sees it by itself.
                let _ = stream.and_then(|stream| serve(stream, expected.as_bytes()));
            }
        };
        let thread = Some(std::thread::Builder::new().spawn(work)?);
        Ok(Self { address, token, over, thread })
    }

    /// The probe's word for it.
    pub fn word(&self) -> String {
        format!("stream={},{}", self.address, self.token)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // It waits for a stream, and ends with this one.
        let woken = TcpStream::connect_timeout(&self.address, PATIENCE);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, token: &[u8]) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut first = vec![0; token.len() + 1];
    stream.read_exact(&mut first)?;
    let kind = first.strip_prefix(token).ok_or(io::ErrorKind::PermissionDenied)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let count = stream.read(&mut buffer)?;
        match (count, kind) {
            (0, [TAKE]) => return stream.write_all(&[1]),
            (0, _) => return stream.shutdown(Shutdown::Both),
            (_, [RETURN]) => stream.write_all(buffer.get(..count).unwrap_or_default())?,
            (_, [TAKE]) => {}
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn stream(sink: &Sink, token: &str, kind: u8) -> TcpStream {
        let mut stream = TcpStream::connect(sink.address).unwrap();
        stream.write_all(token.as_bytes()).unwrap();
        stream.write_all(&[kind]).unwrap();
        stream
    }

    #[test]
    fn stream_is_taken_or_returned_for_those_who_know_the_token() {
        let sink = Sink::open(Ipv4Addr::LOCALHOST.into()).unwrap();
        assert!(sink.word().starts_with("stream=127.0.0.1:"));
        let mut answer = [0; 3];
        let mut taken = stream(&sink, &sink.token, TAKE);
        taken.write_all(&[0; 300_000]).unwrap();
        taken.shutdown(Shutdown::Write).unwrap();
        assert_eq!(taken.read(&mut answer).unwrap(), 1);
        let mut returned = stream(&sink, &sink.token, RETURN);
        returned.write_all(b"abc").unwrap();
        returned.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"abc");
        drop(returned);
        let mut stranger = stream(&sink, &"0".repeat(32), RETURN);
        // Closed with something unread is a reset.
        assert!(matches!(stranger.read(&mut answer), Ok(0) | Err(_)));
        let address = sink.address;
        drop(sink);
        assert!(TcpStream::connect(address).is_err());
    }
}
