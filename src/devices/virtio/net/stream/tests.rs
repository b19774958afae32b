use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use super::*;
use crate::devices::virtio::net::{Backend, Net, feature};
use crate::devices::virtio::testing::{DATA, Driver, HIGH_START, WRITE};

const RX: usize = 0;
const TX: usize = 1;

fn pair() -> (Stream, UnixStream) {
    let (own, peer) = UnixStream::pair().unwrap();
    own.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    (Stream::new(own.into()).unwrap(), peer)
}

fn bytes(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], frame].concat()
}

fn receive(stream: &mut Stream) -> Result<Vec<u8>, Errno> {
    let mut room = vec![0xaa; 70_000];
    let (first, second) = room.split_at_mut(17);
    let len = stream.receive(&mut [IoSliceMut::new(first), IoSliceMut::new(second)])?;
    assert!(room[len..].iter().all(|byte| *byte == 0xaa));
    room.truncate(len);
    Ok(room)
}

fn send(stream: &mut Stream, frame: &[u8]) -> Result<(), Errno> {
    let (first, second) = frame.split_at(frame.len() / 3);
    let header = [0x55; HEADER_LEN];
    stream.send(&[&header, first, second].map(IoSlice::new))
}

/// All that the peer can read now.
fn drain(peer: &mut UnixStream) -> Vec<u8> {
    let mut got = Vec::new();
    let _ = peer.read_to_end(&mut got);
    got
}

#[test]
fn frames_come_whole_behind_a_header_of_zeros_however_the_stream_is_cut() {
    for step in [1, 3, 5, 64, 100_000] {
        let (mut stream, mut peer) = pair();
        let frames = [14, 15, 60, 1514, 65_535].map(bytes);
        let sent: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
        let mut got = Vec::new();
        for chunk in sent.chunks(step) {
            peer.write_all(chunk).unwrap();
            loop {
                match receive(&mut stream) {
                    Ok(frame) => got.push(frame),
                    Err(e) => break assert_eq!(e, Errno::AGAIN),
                }
            }
        }
        let expected = frames.map(|frame| [&[0; HEADER_LEN], &frame[..]].concat());
        assert_eq!(got, expected, "{step}");
    }
}

/// A frame longer than the room for it is cut off, as from any host network.
#[test]
fn frame_without_room_is_cut_off_and_the_next_one_whole() {
    let (mut stream, mut peer) = pair();
    peer.write_all(&[framed(&bytes(100)), framed(&bytes(20))].concat()).unwrap();
    let mut room = [0; 50];
    assert_eq!(stream.receive(&mut [IoSliceMut::new(&mut room)]), Ok(50));
    assert_eq!(room[HEADER_LEN..], bytes(100)[..38]);
    assert_eq!(receive(&mut stream).unwrap().len(), HEADER_LEN + 20);
}

/// Lengths that no frame has end the network, for good.
#[test]
fn impossible_lengths_from_the_peer_end_the_network_and_nothing_else() {
    for len in [0u32, 13, 65_590, 1 << 20, u32::MAX] {
        let (mut stream, mut peer) = pair();
        peer.write_all(&framed(&bytes(60))).unwrap();
        peer.write_all(&len.to_be_bytes()).unwrap();
        peer.write_all(&bytes(1000)).unwrap();
        assert!(receive(&mut stream).is_ok());
        for _ in 0..3 {
            assert_eq!(receive(&mut stream), Err(Errno::PROTO), "{len}");
        }
    }
}

#[test]
fn peer_that_ends_ends_the_network_behind_its_last_frame() {
    let (mut stream, mut peer) = pair();
    peer.write_all(&framed(&bytes(60))).unwrap();
    peer.write_all(&framed(&bytes(60))[..30]).unwrap();
    drop(peer);
    assert!(receive(&mut stream).is_ok());
    assert_eq!(receive(&mut stream), Err(Errno::CONNRESET));
    assert_eq!(receive(&mut stream), Err(Errno::CONNRESET));
    assert_eq!(send(&mut stream, &bytes(60)), Err(Errno::PIPE));
    assert!(!stream.congested());
}

#[test]
fn sent_frames_go_without_their_header() {
    let (mut stream, mut peer) = pair();
    for len in [14, 60, 65_535] {
        send(&mut stream, &bytes(len)).unwrap();
        assert_eq!(drain(&mut peer), framed(&bytes(len)));
    }
    assert_eq!(send(&mut stream, &bytes(65_536)), Err(Errno::MSGSIZE));
    assert!(drain(&mut peer).is_empty());
}

/// A peer that does not read gets every frame that was taken whole, once it reads: of one frame the
/// end is kept, and no further one is taken.
#[test]
fn peer_that_reads_late_gets_whole_frames_and_nothing_grows() {
    for len in [60, 1514, 65_535] {
        let (mut stream, mut peer) = pair();
        let frame = bytes(len);
        let mut taken = 0;
        while !stream.congested() {
            send(&mut stream, &frame).unwrap();
            taken += 1;
            assert!(taken < 100_000);
        }
        for _ in 0..10 {
            assert_eq!(send(&mut stream, &frame), Err(Errno::AGAIN));
        }
        let kept = rustix::fs::fstat(&stream.spill).unwrap().st_size;
        assert!(kept <= 65_539, "{kept}");
        let mut got = Vec::new();
        while got.len() < taken * (PREFIX + len) {
            let more = drain(&mut peer);
            assert!(!more.is_empty() || stream.congested() || !stream.spilled.is_empty());
            got.extend(more);
            stream.congested();
        }
        assert!(got == framed(&frame).repeat(taken));
        send(&mut stream, &frame).unwrap();
        assert_eq!(drain(&mut peer), framed(&frame));
    }
}

#[test]
fn peer_that_goes_while_a_frame_waits_costs_that_frame() {
    let (mut stream, peer) = pair();
    while !stream.congested() {
        send(&mut stream, &bytes(1514)).unwrap();
    }
    drop(peer);
    assert!(!stream.congested());
    assert_eq!(send(&mut stream, &bytes(60)), Err(Errno::PIPE));
}

impl Backend for Stream {
    fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
    fn features(&self) -> u64 {
        0
    }
    fn set_offloads(&mut self, _features: u64) -> Result<(), Errno> {
        Ok(())
    }
    fn receive(&mut self, frame: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        Stream::receive(self, frame)
    }
    fn congested(&mut self) -> bool {
        Stream::congested(self)
    }
    fn send(&mut self, frame: &[IoSlice<'_>]) -> Result<(), Errno> {
        Stream::send(self, frame)
    }
}

fn machine() -> (Driver, UnixStream) {
    let (stream, peer) = pair();
    let mut driver = Driver::new(Box::new(Net::new(stream, [2; 6], None)));
    driver.set_queue_size(128);
    driver.start(feature::MAC | feature::MRG_RXBUF);
    (driver, peer)
}

/// The device holds back what the peer has no room for, waits without spinning, and loses nothing.
#[test]
fn guest_that_sends_faster_than_the_peer_reads_waits_and_loses_nothing() {
    let (mut driver, mut peer) = machine();
    let frame = bytes(9000);
    driver.poke(HIGH_START, &[0; HEADER_LEN]);
    driver.poke(HIGH_START + 12, &frame);
    let mut got = Vec::new();
    let mut returned = 0;
    for round in 0..3 {
        for _ in 0..100 {
            driver.chain(TX, &[(HIGH_START, 9012, 0)]);
        }
        driver.kick(TX);
        let now = driver.used(TX).len();
        assert!(now < 100, "the socket holds less than {round}");
        assert_eq!(driver.run_backend(), 0, "nothing is ready before the peer reads");
        returned += now;
        while returned < (round + 1) * 100 {
            got.extend(drain(&mut peer));
            assert!(driver.run_backend() > 0);
            returned += driver.used(TX).len();
        }
    }
    got.extend(drain(&mut peer));
    while driver.run_backend() > 0 {
        got.extend(drain(&mut peer));
    }
    got.extend(drain(&mut peer));
    assert!(got == framed(&frame).repeat(300), "{} bytes", got.len());
}

#[test]
fn frames_of_the_peer_reach_the_guest_in_order_also_when_it_has_few_buffers() {
    let (mut driver, mut peer) = machine();
    let mut sent = 0;
    while peer.write(&framed(&bytes(1514))).is_ok_and(|len| len == 1518) {
        sent += 1;
    }
    let mut received = 0;
    while received < sent {
        for n in 0..8 {
            driver.chain(RX, &[(DATA + n * 2048, 2048, WRITE)]);
        }
        driver.kick(RX);
        driver.run_backend();
        for (n, (_, len)) in driver.used(RX).into_iter().enumerate() {
            assert_eq!(len, 1526);
            let at = DATA + u64::try_from(n).unwrap() * 2048;
            assert_eq!(driver.peek(at, 1526)[HEADER_LEN..], bytes(1514));
            received += 1;
        }
    }
    assert_eq!(received, sent);
}

/// N7 for this host network: the device lives on without it.
#[test]
fn peer_that_dies_leaves_the_device_alive_and_quiet() {
    let (mut driver, peer) = machine();
    driver.chain(RX, &[(DATA, 2048, WRITE)]);
    driver.kick(RX);
    drop(peer);
    driver.run_backend();
    assert_eq!(driver.run_backend(), 0);
    driver.poke(HIGH_START, &[0; 72]);
    for _ in 0..100 {
        driver.chain(TX, &[(HIGH_START, 72, 0)]);
        driver.kick(TX);
        assert_eq!(driver.used(TX).len(), 1);
        assert_eq!(driver.run_backend(), 0);
    }
    assert!(!driver.needs_reset());
    driver.start(feature::MAC);
    driver.chain(RX, &[(DATA, 2048, WRITE)]);
    driver.kick(RX);
    driver.run_backend();
    assert!(!driver.needs_reset());
}
