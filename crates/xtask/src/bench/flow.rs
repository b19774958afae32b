//! What is measured of streams between a guest and its host: both ends, which the same program plays.

use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use vmm_contrast::stats::Summary;

use super::guest::{DONE, MARK};
use super::run::{Run, ms};
use super::socket::{Address, Listener, Stream};

/// How long each takes.
const SPAN: Duration = Duration::from_millis(500);
/// Bytes written at a time, and read at most.
const MESSAGE: usize = 128 << 10;
/// What a call says: that another follows, or none.
const MORE: u8 = 0;
const LAST: u8 = 1;

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// The guest sends on so many streams at a time: MiB a second.
    ToHost(usize),
    /// The host does.
    ToGuest(usize),
    /// The host sends a byte and gets it back, again and again: milliseconds, the median.
    Echo,
    /// The guest connects, sends a byte, gets one back and sees the end, one after the other: how many
    /// a second.
    CallsOfGuest,
    /// The host does.
    CallsOfHost,
}

/// An end: where it is called, and whom it calls.
#[derive(Debug)]
pub(super) struct End {
    pub(super) here: Option<Listener>,
    pub(super) there: Option<Address>,
}

impl End {
    fn accept(&self) -> Result<Stream> {
        self.here.as_ref().context("nobody listens at this end")?.accept()
    }

    fn connect(&self) -> Result<Stream> {
        self.there.as_ref().context("this end knows no other")?.connect()
    }
}

/// Plays the guest's part of `flows`, at its `end`.
///
/// # Errors
/// A stream broke.
pub(super) fn at_guest(flows: &[Flow], end: &End) -> Result<()> {
    for flow in flows {
        match *flow {
            Flow::ToHost(streams) => {
                each(connect(end, streams)?, |mut stream| send(&mut stream)).map(drop)
            }
            Flow::ToGuest(streams) => each(connect(end, streams)?, |mut stream| {
                let bytes = receive(&mut stream)?;
                stream.write_all(&bytes.to_le_bytes()).context("tell the host")?;
                Ok(bytes)
            })
            .map(drop),
            Flow::Echo => echo(end.connect()?),
            Flow::CallsOfGuest => call(end).map(drop),
            Flow::CallsOfHost => answer(end).map(drop),
        }
        .with_context(|| format!("{flow:?}"))?;
    }
    Ok(())
}

/// Plays the host's part of `flows` at its `end`, while the guest in `run` plays its own; what each
/// came to, in their order.
///
/// # Errors
/// A stream broke, or the guest says that it failed.
pub(super) fn at_host(run: &mut Run, flows: &'static [Flow], end: End) -> Result<Vec<f64>> {
    let host =
        thread::spawn(move || flows.iter().map(|&flow| measure(flow, &end)).collect::<Result<_>>());
    let (last, _) = run.wait_for(MARK)?;
    ensure!(last == DONE, "the guest reported: {last}");
    host.join().map_err(|_| anyhow!("the host's end died"))?
}

/// The host's part of one measurement. It takes the time: the guest's clock has nothing to say.
fn measure(flow: Flow, end: &End) -> Result<f64> {
    let accept = |count| (0..count).map(|_| end.accept()).collect::<Result<Vec<_>>>();
    match flow {
        Flow::ToHost(streams) => {
            let streams = accept(streams)?;
            let start = Instant::now();
            let bytes = each(streams, |mut stream| receive(&mut stream))?;
            Ok(rate(bytes, start))
        }
        Flow::ToGuest(streams) => {
            let streams = accept(streams)?;
            let start = Instant::now();
            let bytes = each(streams, send_and_ask)?;
            Ok(rate(bytes, start))
        }
        Flow::Echo => ping(end.accept()?),
        Flow::CallsOfGuest => answer(end),
        Flow::CallsOfHost => call(end),
    }
    .with_context(|| format!("{flow:?}"))
}

fn connect(end: &End, streams: usize) -> Result<Vec<Stream>> {
    (0..streams).map(|_| end.connect()).collect()
}

/// Does `work` on all streams at once; the sum of what it returns.
fn each(streams: Vec<Stream>, work: impl Fn(Stream) -> Result<u64> + Sync) -> Result<u64> {
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> =
            streams.into_iter().map(|stream| scope.spawn(move || work(stream))).collect();
        let ended = workers.into_iter().map(|worker| worker.join());
        ended.map(|result| result.map_err(|_| anyhow!("a worker died"))?).sum()
    })
}

/// MiB a second.
fn rate(bytes: u64, start: Instant) -> f64 {
    bytes as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64()
}

/// Sends zeros for [`SPAN`] and ends the stream; the bytes sent.
fn send(stream: &mut Stream) -> Result<u64> {
    let message = vec![0; MESSAGE];
    let (start, mut bytes) = (Instant::now(), 0);
    while start.elapsed() < SPAN {
        stream.write_all(&message).context("send")?;
        bytes += message.len() as u64;
    }
    stream.end()?;
    Ok(bytes)
}

/// Sends, and returns what the other end says to have received.
fn send_and_ask(mut stream: Stream) -> Result<u64> {
    let sent = send(&mut stream)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count).context("wait for what the guest received")?;
    let received = u64::from_le_bytes(count);
    ensure!(received == sent, "of {sent} bytes {received} arrived");
    Ok(received)
}

/// Receives to the end of the stream; how many bytes there were.
fn receive(stream: &mut Stream) -> Result<u64> {
    let mut buffer = vec![0; MESSAGE];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes += count as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("receive"),
        }
    }
}

/// Times bytes there and back for [`SPAN`]; the median in milliseconds.
fn ping(mut stream: Stream) -> Result<f64> {
    let (start, mut times) = (Instant::now(), vec![]);
    let mut byte = [0];
    while start.elapsed() < SPAN {
        let sent = Instant::now();
        stream.write_all(&byte).context("send a byte")?;
        stream.read_exact(&mut byte).context("wait for the byte")?;
        times.push(ms(sent.elapsed()));
    }
    Ok(Summary::of(&times).context("no byte came back")?.p50)
}

/// Sends every byte back until the stream ends.
fn echo(mut stream: Stream) -> Result<()> {
    let mut byte = [0];
    while stream.read(&mut byte).context("wait for a byte")? > 0 {
        stream.write_all(&byte).context("send the byte back")?;
    }
    Ok(())
}

/// Calls the other end for [`SPAN`]; calls a second.
fn call(end: &End) -> Result<f64> {
    let (start, mut count, mut last) = (Instant::now(), 0_u32, false);
    while !last {
        last = start.elapsed() >= SPAN;
        let mut stream = end.connect()?;
        let mut byte = [if last { LAST } else { MORE }];
        stream.write_all(&byte).context("send a byte")?;
        stream.read_exact(&mut byte).context("wait for the answer")?;
        ensure!(stream.read(&mut byte).context("wait for the end")? == 0, "more than one byte");
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// Answers the other end's calls until it says that it was the last one; calls a second.
fn answer(end: &End) -> Result<f64> {
    let (mut start, mut count, mut byte) = (None, 0_u32, [MORE]);
    while byte != [LAST] {
        let mut stream = end.accept()?;
        start.get_or_insert_with(Instant::now);
        stream.read_exact(&mut byte).context("wait for a byte")?;
        stream.write_all(&byte).context("answer")?;
        count += 1;
    }
    Ok(f64::from(count) / start.map_or(0.0, |start| start.elapsed().as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Flow; 6] = [
        Flow::ToHost(1),
        Flow::ToHost(4),
        Flow::ToGuest(4),
        Flow::Echo,
        Flow::CallsOfGuest,
        Flow::CallsOfHost,
    ];

    #[test]
    fn ends_play_every_part_and_the_host_finds_something() {
        let directory = tempfile::tempdir().unwrap();
        let [host, guest] =
            ["host", "guest"].map(|name| Address::Unix(directory.path().join(name)));
        let at_host = End { here: Some(host.listen().unwrap()), there: Some(guest.clone()) };
        let at_guest = End { here: Some(guest.listen().unwrap()), there: Some(host) };
        let played = thread::spawn(move || super::at_guest(&ALL, &at_guest));
        for flow in ALL {
            assert!(measure(flow, &at_host).unwrap() > 0.0, "{flow:?}");
        }
        played.join().unwrap().unwrap();
    }

    #[test]
    fn end_that_goes_away_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Unix(directory.path().join("host"));
        let end = End { here: Some(address.listen().unwrap()), there: None };
        drop(address.connect().unwrap());
        assert!(measure(Flow::Echo, &end).is_err());
        assert!(end.connect().is_err());
    }
}
