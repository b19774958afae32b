//! A guest whose second CPU rewrites what the devices are reading.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::thread::spawn;

use support::driver::{F_VERSION_1, RUNNING, place, reg};
use support::ring::{Desc, INDIRECT, NEXT, Ring, WRITE, chained};
use support::script::{Script, Width};
use support::second::{self, LOW};
use support::subject::{BUFFER, Everything, RING, SPARE, SUBJECTS, VSOCK};
use support::vmm::MEMORY;

/// Entries of the rings.
const SIZE: u16 = 256;

/// Q20: descriptors, and what is in the buffers, change between any two looks of any device. It works
/// on or needs a reset, and after one it works; nothing else happens.
#[test]
fn descriptors_that_another_cpu_rewrites_harm_their_device_alone() {
    const BATCHES: u64 = 400;
    for subject in SUBJECTS {
        let ring = Ring::at(LOW, 16);
        let flags = |flags: u16, next: u16| u32::from(flags) | u32::from(next) << 16;
        let mut writes = Vec::new();
        for (entry, address) in (0..4).zip([BUFFER, LOW, MEMORY - 8, 0xd000_0000]) {
            let desc = LOW + 16 * entry;
            // Sound, then one field after the other is not, and sound again.
            writes.extend([(desc, BUFFER as u32), (desc + 4, 0), (desc + 8, 16)]);
            writes.extend([(desc + 12, flags(NEXT, 1)), (desc + 12, flags(WRITE, 0))]);
            writes.extend([(desc, address as u32), (desc + 8, u32::MAX), (desc + 4, u32::MAX)]);
            writes.extend([(desc + 12, flags(INDIRECT, 0)), (desc + 12, flags(NEXT | WRITE, 3))]);
            writes.extend([(desc + 12, flags(0, 0)), (desc + 4, 0), (desc + 8, 44)]);
        }
        let mut script = Script::new();
        let alive = second::start(&mut script, &writes);
        script.repeat(BATCHES, |script| {
            script.fill(ring.avail, 256, 0);
            subject.start(script, 0, &ring);
            for kick in 1..=16 {
                script.write(Width::B2, ring.avail + 2, kick);
                subject.kick(script);
                subject.device.await_used(script, &ring, kick as u16);
            }
        });
        let status = subject.device.read(&mut script, reg::STATUS);
        let works = subject.works(&mut script);
        let end = Everything::new().vmm(&script.then_reset()).args(["--cpus", "2"]).run().expect(0);
        assert_eq!(alive.number(&end.stdout), 1, "the second CPU did not begin");
        assert_eq!(status.number(&end.stdout) & RUNNING, RUNNING, "{}", subject.name);
        works.expect(&end.stdout, "rewritten descriptors");
    }
}

const PORT: u32 = 52;
const REQUEST: u16 = 1;
const RW: u16 = 5;
/// A packet asks for a connection, and the others send on it.
const PACKETS: u16 = 8;
/// What the guest sends, and what lies behind it.
const DATA: u64 = 0x1111_1111_1111_1111;
const BEHIND: u64 = 0xeeee_eeee_eeee_eeee;

/// The header of a packet of the guest.
fn header(op: u16, len: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    [3u64, 2].iter().for_each(|cid| bytes.extend(cid.to_le_bytes()));
    [1025, PORT, len].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    [1, op].iter().for_each(|half| bytes.extend(half.to_le_bytes()));
    [0, 1u32 << 18, 0].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes
}

/// V3: another CPU rewrites length, type, operation and addresses in the header of packets. Whatever was
/// checked is what counts: the host gets the data of packets, and not a byte from behind them.
#[test]
fn headers_that_another_cpu_rewrites_count_as_they_were_at_one_moment() {
    const BATCHES: u16 = 400;
    let (sent, received) = (Ring::at(RING, SIZE), Ring::at(RING + 0x8000, SIZE));
    let mut script = Script::new();
    let (len, kind, source) = (LOW + 24, LOW + 28, LOW);
    let word = |kind: u16, op: u16| u32::from(kind) | u32::from(op) << 16;
    let sound = [(len, 8), (kind, word(1, RW)), (source, 3)];
    let lies =
        [(len, 1 << 24), (len, u32::MAX), (kind, word(2, RW)), (kind, word(1, 99)), (source, 2)];
    let writes: Vec<_> = lies.iter().flat_map(|lie| sound.iter().chain([lie]).copied()).collect();
    let alive = second::start(&mut script, &writes);
    script.copy(LOW, &header(RW, 8));
    script.copy(BUFFER, &[header(REQUEST, 0), vec![0; 8]].concat());
    script.fill(SPARE, 4096, BEHIND);
    script.write(Width::B8, SPARE, DATA);
    let mut table = vec![Desc::readable(BUFFER, 44)];
    table.extend(chained(&[Desc::readable(LOW, 44), Desc::readable(SPARE, 8)]));
    table[1].next = 2;
    let heads: Vec<u16> = (0..SIZE).map(|n| u16::from(n % PACKETS != 0)).collect();
    place(&mut script, &sent.contents().descriptors(0, &table).available(&heads));
    let buffers = vec![Desc::writable(BUFFER + 0x1000, 64); SIZE.into()];
    let all: Vec<u16> = (0..SIZE).collect();
    place(&mut script, &received.contents().descriptors(0, &buffers).available(&all));
    VSOCK.device.negotiate(&mut script, F_VERSION_1);
    VSOCK.device.set_queue(&mut script, 0, &received);
    VSOCK.device.set_queue(&mut script, 1, &sent);
    script.write(Width::B2, sent.avail + 2, 0);
    VSOCK.device.driver_ok(&mut script);
    for batch in 1..=BATCHES {
        // Every buffer that came back is given again.
        script.forward(Width::B2, received.used_index(), received.avail + 2, SIZE.into());
        VSOCK.device.kick(&mut script, 0);
        let index = batch.wrapping_mul(SIZE);
        script.write(Width::B2, sent.avail + 2, index.into());
        VSOCK.device.kick(&mut script, 1);
        VSOCK.device.await_used(&mut script, &sent, index);
    }
    let status = VSOCK.device.read(&mut script, reg::STATUS);
    let works = VSOCK.works(&mut script);

    let everything = Everything::new();
    let service = UnixListener::bind(format!("{}_{PORT}", everything.socket().display())).unwrap();
    spawn(move || serve(&service));
    let metrics = everything.socket().with_file_name("metrics");
    let vmm = everything.vmm(&script.then_reset()).args(["--cpus", "2"]);
    let end = vmm.arg("--metrics").arg(&metrics).run().expect(0);
    assert_eq!(alive.number(&end.stdout), 1, "the second CPU did not begin");
    assert_eq!(status.number(&end.stdout), RUNNING);
    works.expect(&end.stdout, "rewritten headers");
    let counters = fs::read_to_string(&metrics).unwrap();
    for counter in ["tx_bytes", "malformed", "unknown_types", "dropped_foreign", "resets"] {
        assert!(number(&counters, counter) > 0, "{counter}: {counters}");
    }
    assert!(number(&counters, "tx_packets") > u64::from(BATCHES) * 200, "{counters}");
}

/// Takes what the guest sends, which is nothing but its data.
fn serve(service: &UnixListener) {
    for stream in service.incoming() {
        let mut bytes = Vec::new();
        // Lost connections end in an error.
        let _ = stream.unwrap().read_to_end(&mut bytes);
        if bytes.iter().any(|byte| *byte != 0x11) {
            eprintln!("the host got {bytes:x?}");
            std::process::abort();
        }
    }
}

/// The counter `name` of the socket device in the last line of metrics.
fn number(metrics: &str, name: &str) -> u64 {
    let (_, vsock) = metrics.lines().last().unwrap().split_once("\"vsock\"").unwrap();
    let (_, rest) = vsock.split_once(&format!("\"{name}\":")).unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}
