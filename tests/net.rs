//! The network device: frames that are none, and interfaces that go away. Every machine is in a
//! network namespace of its own.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::fs;
use std::process::{Child, Command, Stdio};

use support::driver::{Outcome, place, reg};
use support::ring::{Desc, Ring, chained};
use support::script::{Script, Width};
use support::subject::{BUFFER, Everything, NET, RING, RNG, SPARE};
use support::vmm::Running;

const HEADER: u64 = BUFFER;
const FRAME: u64 = SPARE;

const F_CSUM: u64 = 1 << 0;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const OFFLOADS: u64 = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;

fn ring() -> Ring {
    Ring::at(RING, 64)
}

/// struct virtio_net_hdr (virtio 1.3, section 5.1.6).
#[derive(Clone, Copy, Debug, Default)]
struct Header {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
    num_buffers: u16,
}

impl Header {
    fn bytes(self) -> Vec<u8> {
        let words =
            [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset, self.num_buffers];
        let words = words.iter().flat_map(|word| word.to_le_bytes());
        [self.flags, self.gso_type].into_iter().chain(words).collect()
    }
}

/// Sends one chain of `parts` behind the header.
fn send(script: &mut Script, features: u64, header: Header, parts: &[Desc]) -> Outcome {
    script.copy(HEADER, &header.bytes());
    place(script, &ring().contents().descriptors(0, &chained(parts)).available(&[0]));
    NET.start(script, features, &ring());
    NET.kick(script);
    NET.device.settle(script, &ring(), 1)
}

/// Sends a frame of `len` bytes.
fn send_frame(script: &mut Script, features: u64, header: Header, len: u32) -> Outcome {
    let parts = [Desc::readable(HEADER, 12), Desc::readable(FRAME, len)];
    send(script, features, header, &parts)
}

/// How many frames the host has got of the machine.
fn frames_at_the_host(machine: &Running) -> u64 {
    let interfaces = fs::read_to_string(format!("/proc/{}/net/dev", machine.pid())).unwrap();
    let line = interfaces.lines().find_map(|line| line.trim().strip_prefix("vmm0:"));
    line.unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs `build`, and returns its outcomes as states with the number of frames the host got.
fn sent_by(build: impl FnOnce(&mut Script) -> Vec<Outcome>) -> (Vec<u64>, Vec<u16>, u64) {
    let mut script = Script::new();
    // An Ethernet frame from the guest to nobody.
    script.fill(FRAME, 0x2_0000, 0);
    script.copy(FRAME, &[0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    let outcomes = build(&mut script);
    script.pause();
    let sent = script.results() - 1;
    let everything = Everything::new();
    let mut machine = everything.vmm(&script.then_reset()).spawn();
    machine.wait_for_output(sent);
    let frames = frames_at_the_host(&machine);
    machine.type_in(b"\n");
    let end = machine.finish().expect(0);
    let states: Vec<_> = outcomes.iter().map(|outcome| outcome.state(&end.stdout)).collect();
    let status = states.iter().map(|state| state.status).collect();
    (status, states.iter().map(|state| state.used_index).collect(), frames)
}

/// The device served every chain, and the host got `frames` of them.
#[track_caller]
fn expect_frames(frames: u64, build: impl FnOnce(&mut Script) -> Vec<Outcome>) {
    let (status, used, got) = sent_by(build);
    assert!(status.iter().all(|status| *status == support::driver::RUNNING), "{status:x?}");
    assert!(used.iter().all(|used| *used == 1), "{used:?}");
    assert_eq!(got, frames);
}

/// What is sent well arrives, so that the absence of frames means something in other tests.
#[test]
fn good_frames_arrive_at_the_host() {
    expect_frames(6, |script| {
        let checksum =
            Header { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..Header::default() };
        let segments = Header { gso_type: GSO_TCPV4, hdr_len: 54, gso_size: 1000, ..checksum };
        vec![
            send_frame(script, 0, Header::default(), 60),
            send_frame(script, 0, Header::default(), 14),
            // Only a received frame has a number of buffers.
            send_frame(script, 0, Header { num_buffers: u16::MAX, ..Header::default() }, 60),
            send_frame(script, OFFLOADS, checksum, 60),
            send_frame(script, OFFLOADS, Header { hdr_len: 0, ..checksum }, 60),
            send_frame(script, OFFLOADS, segments, 4000),
        ]
    });
}

/// N1: nothing, less than a header, a header alone, and frames of less than an Ethernet header.
#[test]
fn frames_that_are_too_short_are_dropped() {
    expect_frames(0, |script| {
        let mut outcomes: Vec<Outcome> = [11, 12]
            .map(|len| send(script, 0, Header::default(), &[Desc::readable(HEADER, len)]))
            .into();
        for len in [1, 13] {
            outcomes.push(send_frame(script, 0, Header::default(), len));
        }
        outcomes
    });
}

/// N1: more than the largest frame, up to 1 GiB.
#[test]
fn frames_that_are_too_long_are_dropped() {
    expect_frames(0, |script| {
        let mut outcomes: Vec<Outcome> = [65_590, 65_591, 0x10_0000]
            .map(|len| send_frame(script, 0, Header::default(), len))
            .into();
        let mut parts = vec![Desc::readable(FRAME, 17 << 20); 63];
        parts.insert(0, Desc::readable(HEADER, 12));
        outcomes.push(send(script, 0, Header::default(), &parts));
        outcomes
    });
}

/// N1: a chain without anything, or one the device would have to write to.
#[test]
fn chains_that_hold_no_frame_break_nothing_else() {
    let (status, _, frames) = sent_by(|script| {
        let mut outcomes = vec![send(script, 0, Header::default(), &[Desc::readable(HEADER, 0)])];
        outcomes.push(send(script, 0, Header::default(), &[Desc::writable(HEADER, 72)]));
        let mixed = [Desc::readable(HEADER, 12), Desc::writable(FRAME, 60)];
        outcomes.push(send(script, 0, Header::default(), &mixed));
        outcomes.push(send_frame(script, 0, Header::default(), 60));
        outcomes
    });
    assert_eq!(frames, 1);
    assert_eq!(status.last(), Some(&support::driver::RUNNING));
}

/// N2.
#[test]
fn frames_with_an_impossible_header_are_dropped() {
    let checksum =
        Header { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..Header::default() };
    let segments = Header { gso_type: GSO_TCPV4, hdr_len: 54, gso_size: 1000, ..checksum };
    let impossible = [
        Header { csum_start: 60, ..checksum },
        Header { csum_start: u16::MAX, csum_offset: u16::MAX, ..checksum },
        Header { csum_start: 50, csum_offset: 9, ..checksum },
        Header { csum_offset: u16::MAX, ..checksum },
        Header { gso_size: 0, ..segments },
        Header { gso_type: 2, ..segments },
        Header { gso_type: 3, ..segments },
        Header { gso_type: 0x7f, ..segments },
        Header { gso_type: 0x80, ..segments },
        Header { gso_type: u8::MAX, ..segments },
        Header { hdr_len: 61, ..segments },
        Header { hdr_len: u16::MAX, ..segments },
        Header { flags: 0, ..segments },
    ];
    expect_frames(0, |script| {
        impossible.iter().map(|header| send_frame(script, OFFLOADS, *header, 60)).collect()
    });
}

/// N3.
#[test]
fn offloads_that_were_not_negotiated_are_dropped() {
    let checksum =
        Header { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..Header::default() };
    let segments = Header { gso_type: GSO_TCPV4, hdr_len: 54, gso_size: 1000, ..checksum };
    assert_eq!(segments.gso_type | GSO_NONE, GSO_TCPV4);
    expect_frames(0, |script| {
        vec![
            send_frame(script, 0, checksum, 60),
            send_frame(script, 0, segments, 4000),
            send_frame(script, F_CSUM, segments, 4000),
            send_frame(script, F_CSUM | F_HOST_TSO6, segments, 4000),
        ]
    });
}

/// N4: the interface's own counter says that nothing of it arrives.
#[test]
fn frames_from_others_and_for_switches_do_not_arrive_at_the_host() {
    let own = [0x02, 0, 0, 0, 0, 2];
    let frame = |to: [u8; 6], from: [u8; 6], kind: [u8; 2]| [&to[..], &from, &kind].concat();
    let foreign = [
        frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 3], [0x88, 0xb5]),
        frame([2, 0, 0, 0, 0, 1], [0xff; 6], [0x88, 0xb5]),
        frame([2, 0, 0, 0, 0, 1], own, [0x81, 0]),
        frame([1, 0x80, 0xc2, 0, 0, 0], own, [0, 38]),
        frame([0xff; 6], own, [0x88, 0xcc]),
        // ARP whose sender is all zero.
        frame([0xff; 6], own, [8, 6]),
    ];
    expect_frames(1, |script| {
        let mut outcomes = Vec::new();
        for start in &foreign {
            script.copy(FRAME, start);
            outcomes.push(send_frame(script, 0, Header::default(), 60));
        }
        script.copy(FRAME, &frame([2, 0, 0, 0, 0, 1], own, [0x88, 0xb5]));
        outcomes.push(send_frame(script, 0, Header::default(), 60));
        outcomes
    });
}

/// Runs `command` in the network namespace of the machine.
fn in_namespace_of(machine: &Running, command: &[&str]) -> Child {
    let target = machine.pid().to_string();
    Command::new("nsenter")
        .args(["--target", &target, "--user", "--net", "--"])
        .args(command)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn ip(machine: &Running, arguments: &[&str]) {
    let command = [&["ip"], arguments].concat();
    assert!(in_namespace_of(machine, &command).wait().unwrap().success(), "{command:?}");
}

/// A machine that works, and when typed at sends frames and tries to receive some; then the
/// entropy device must work, and the machine sleeps until it is typed at again and ends.
fn when_the_interface(goes: impl FnOnce(&Running)) {
    let mut script = Script::new();
    script.fill(FRAME, 64, 0);
    let before = NET.works(&mut script);
    script.pause();
    let first = script.results() - 1;
    let received = Ring::at(RING + 0x1_0000, 8);
    let room = [Desc::writable(SPARE + 0x1_0000, 0x800)];
    script.repeat(20, |script| {
        place(script, &ring().contents().descriptors(0, &NET.request()).available(&[0; 8]));
        place(script, &received.contents().descriptors(0, &room).available(&[0]));
        NET.device.negotiate(script, support::driver::F_VERSION_1);
        NET.device.set_queue(script, 0, &received);
        NET.device.set_queue(script, 1, &ring());
        NET.device.driver_ok(script);
        NET.device.kick(script, 0);
        NET.kick(script);
        NET.device.await_used(script, &ring(), 8);
    });
    let other = RNG.works(&mut script);
    let status = script.read(Width::B4, NET.device.register(reg::STATUS));
    script.pause();
    let second = script.results() - 1;
    let everything = Everything::new();
    let mut machine = everything.vmm(&script.then_reset()).spawn();
    machine.wait_for_output(first);
    goes(&machine);
    machine.type_in(b"\n");
    machine.wait_for_output(second);
    // Waiting for input is a busy loop of the guest's: only the monitor's own thread must sleep.
    machine.assert_event_loop_becomes_idle();
    machine.type_in(b"\n");
    let end = machine.finish().expect(0);
    before.expect(&end.stdout, "the start");
    other.expect(&end.stdout, "the loss of the interface");
    assert_ne!(status.number(&end.stdout), 0);
}

/// N7.
#[test]
fn machine_outlives_a_deleted_interface() {
    when_the_interface(|machine| ip(machine, &["link", "delete", "vmm0"]));
}

/// N7.
#[test]
fn machine_outlives_an_interface_that_is_down() {
    when_the_interface(|machine| ip(machine, &["link", "set", "vmm0", "down"]));
}

/// N7: the interface goes with the network namespace it was moved to.
#[test]
fn machine_outlives_a_destroyed_network_namespace() {
    when_the_interface(|machine| {
        let mut holder = in_namespace_of(machine, &["unshare", "--net", "sleep", "60"]);
        let held = holder.id().to_string();
        let own = fs::read_link(format!("/proc/{}/ns/net", machine.pid())).unwrap();
        while fs::read_link(format!("/proc/{held}/ns/net"))
            .is_ok_and(|other| other == own || other == fs::read_link("/proc/self/ns/net").unwrap())
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        ip(machine, &["link", "set", "vmm0", "netns", &held]);
        holder.kill().unwrap();
        holder.wait().unwrap();
    });
}
