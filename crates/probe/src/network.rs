//! What a stream costs: within this network, and to somebody outside of it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::measure::{fastest_of, nanos};
use crate::storage::rate;

/// Bytes of a stream.
const BYTES: usize = 4 << 20;
/// Bytes of a piece.
const PIECE: usize = 128 << 10;
/// Bytes there and back in a round.
const TRIPS: u32 = 500;
/// How long the other side may be silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the other side is asked to do, in the first byte.
const SINK: u8 = b's';
const ECHO: u8 = b'e';

/// MiB a second and nanoseconds there and back, over the loopback interface; null where there is none.
pub(crate) fn loopback() -> Value {
    let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) else { return Value::Null };
    let Ok(address) = listener.local_addr() else { return Value::Null };
    // It ends with this program.
    let server = thread::Builder::new().spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whose stream breaks sees it by itself.
            let _ = serve(stream);
        }
    });
    if server.is_err() { Value::Null } else { to(address, "") }
}

/// The same to somebody who serves at `address` those who have this token.
pub(crate) fn to(address: SocketAddr, token: &str) -> Value {
    let trips = round_trips(address, token).ok();
    // Where nobody is once, nobody is five times.
    let stream = trips.and_then(|_| fastest_of(|| send(address, token)));
    let mib = u64::try_from(BYTES >> 20).unwrap_or(0);
    json!({
        "stream": rate(stream, mib),
        "round_trip": trips.map(|trips| trips / u64::from(TRIPS)),
    })
}

/// Does what the first byte of a stream asks for: takes all and says so, or sends every byte back.
///
/// # Errors
/// The stream broke, or asks for something else.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let count = stream.read(&mut buffer)?;
        match (count, first) {
            (0, [SINK]) => return stream.write_all(&[1]),
            (0, _) => return Ok(()),
            (_, [ECHO]) => stream.write_all(buffer.get(..count).unwrap_or_default())?,
            (_, [SINK]) => {}
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn connect(address: SocketAddr, token: &str, what: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[token.as_bytes(), &[what]].concat())?;
    Ok(stream)
}

/// A stream until the other side has all of it, and the connection before.
fn send(address: SocketAddr, token: &str) -> io::Result<()> {
    let mut stream = connect(address, token, SINK)?;
    let piece = vec![0; PIECE];
    for _ in 0..BYTES / PIECE {
        stream.write_all(&piece)?;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])
}

fn round_trips(address: SocketAddr, token: &str) -> io::Result<u64> {
    let mut stream = connect(address, token, ECHO)?;
    let mut trip = || -> io::Result<()> {
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])
    };
    trip()?;
    let began = std::time::Instant::now();
    (0..TRIPS).try_for_each(|_| trip())?;
    Ok(nanos(began))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_a_rate_and_a_time() {
        let found = loopback();
        assert!(found["stream"].as_u64().unwrap() > 0, "{found}");
        assert!(found["round_trip"].as_u64().unwrap() > 100, "{found}");
    }

    #[test]
    fn nobody_there_is_no_number() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(to(address, "x"), json!({ "stream": null, "round_trip": null }));
    }

    #[test]
    fn stranger_who_asks_for_something_else_is_left() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut stranger = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stranger.write_all(b"GET /").unwrap();
        assert!(serve(listener.accept().unwrap().0).is_err());
    }
}
