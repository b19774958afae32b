//! Named ports of the console device, driven by a guest without an operating system: storms of
//! control messages, and clients that send more than anybody takes.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::{sleep, spawn};
use std::time::Duration;

use support::driver::{Device, F_VERSION_1, place};
use support::machine::RAM;
use support::ring::{Desc, Ring};
use support::script::Script;
use support::subject::{BUFFER, CONSOLE, Everything, RING, SPARE};
use support::vmm::{Running, Vmm};
use tempfile::TempDir;

/// What the monitor's own memory may grow by (O3).
const MAY_GROW: u64 = 1 << 20;
const F_MULTIPORT: u64 = 1 << 1;
/// The console of a machine with nothing else: it comes after the entropy device.
const DEVICE: Device = Device::nth(1);
/// Where the queues of the port lie.
const RX: u64 = SPARE;
const TX: u64 = SPARE + 0x1000;
/// Queues.
const CONTROL: u32 = 3;
const PORT_RX: u32 = 4;
const PORT_TX: u32 = 5;
/// Events of control messages.
const DEVICE_READY: u16 = 0;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;

fn message(id: u32, event: u16, value: u16) -> Vec<u8> {
    [&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat()
}

/// Puts one chain for each of `messages` into `ring`, their bytes from [`BUFFER`] on.
fn offer(script: &mut Script, ring: &Ring, messages: &[Vec<u8>]) {
    let at = |index: usize| BUFFER + 16 * index as u64;
    let chain =
        |(index, message): (usize, &Vec<u8>)| Desc::readable(at(index), message.len() as u32);
    let chains: Vec<Desc> = messages.iter().enumerate().map(chain).collect();
    messages.iter().enumerate().for_each(|(index, message)| script.copy(at(index), message));
    let heads: Vec<u16> = (0..messages.len() as u16).collect();
    place(script, &ring.contents().descriptors(0, &chains).available(&heads));
}

/// S7, O3, O4, O6: a storm of control messages, sound and unsound, neither grows the monitor nor
/// outlives its sender.
#[test]
fn storm_of_control_messages_grows_nothing_and_ends_with_its_sender() {
    let ring = Ring::at(RING, 64);
    let messages: Vec<Vec<u8>> = (0..64u32)
        .map(|n| match n % 8 {
            0 => message(0, DEVICE_READY, 1),
            1 => message(1, PORT_READY, 1),
            2 | 3 => message(1, PORT_OPEN, n as u16 % 2),
            4 => message(u32::MAX, PORT_READY, 1),
            5 => message(1, 0xffff, 1),
            6 => message(1, PORT_READY, 1)[..7].to_vec(),
            _ => message(1, PORT_READY, 0),
        })
        .collect();
    let mut script = Script::new();
    CONSOLE.works(&mut script);
    let calm = script.results() + 1;
    script.pause();
    script.repeat(50, |script| {
        offer(script, &ring, &messages);
        CONSOLE.device.start(script, F_MULTIPORT, (CONTROL, &ring));
        CONSOLE.device.kick(script, CONTROL);
        CONSOLE.device.await_used(script, &ring, 64);
    });
    let outcome = CONSOLE.device.settle(&mut script, &ring, 64);
    let works = CONSOLE.works(&mut script);
    let results = script.results();
    let everything = Everything::new();
    let mut machine = everything.vmm(&script.then_idle_after_flush()).spawn();
    machine.wait_for_output(calm);
    let before = machine.overhead();
    machine.type_in(b"\n");
    machine.wait_for_output(results);
    machine.assert_becomes_idle();
    let after = machine.overhead();
    assert!(after < before + MAY_GROW, "grew from {before} to {after} bytes");
    let end = machine.terminate();
    outcome.state(&end.stdout).expect_returned(64, "control messages");
    works.expect(&end.stdout, "a storm of control messages");
}

/// A machine with the port on a socket, whose guest has opened it and given no buffers. Once it is
/// typed at, it does what `more` adds.
fn with_port(more: impl FnOnce(&mut Script)) -> (Running, TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let control = Ring::at(RING, 8);
    let mut script = Script::new();
    offer(&mut script, &control, &[message(1, PORT_READY, 1), message(1, PORT_OPEN, 1)]);
    [RX, TX].iter().for_each(|at| place(&mut script, &Ring::at(*at, 8).contents()));
    DEVICE.negotiate(&mut script, F_VERSION_1 | F_MULTIPORT);
    for (queue, ring) in
        [(CONTROL, control), (PORT_RX, Ring::at(RX, 8)), (PORT_TX, Ring::at(TX, 8))]
    {
        DEVICE.set_queue(&mut script, queue, &ring);
    }
    DEVICE.driver_ok(&mut script);
    DEVICE.kick(&mut script, CONTROL);
    DEVICE.await_used(&mut script, &control, 2);
    script.pause();
    more(&mut script);
    let port = format!("name=port,socket={}", path.display());
    let mut machine = Vmm::evil(&script.then_idle_after_flush()).arg("--port").arg(port).spawn();
    machine.wait_for_output(1);
    (machine, dir, path)
}

/// S1, O3, O4: a client that sends without end to a guest without buffers waits, and nobody else.
#[test]
fn flood_of_a_client_waits_outside_while_the_guest_gives_no_buffers() {
    let (mut machine, _dir, path) = with_port(|_| {});
    let before = machine.overhead();
    let mut client = UnixStream::connect(&path).unwrap();
    let sender = spawn(move || {
        // Ends by the end of the machine.
        let _ = client.write_all(&vec![b'x'; 4 << 20]);
    });
    machine.type_in(b"\n");
    machine.assert_becomes_idle();
    assert!(!sender.is_finished(), "4 MiB were taken for a guest that takes nothing");
    assert!(machine.overhead() < before + MAY_GROW);
    machine.terminate_soon();
    sender.join().unwrap();
    assert!(!path.exists(), "the socket outlives the machine");
}

/// S2, O3, O4: a client that does not read holds back the guest's output, and nobody else; later it
/// gets all of it.
#[test]
fn client_that_does_not_read_keeps_nobody_awake_and_misses_nothing() {
    const LEN: u32 = 4 << 20;
    const DATA: u64 = RAM + 0xa0_0000;
    let (mut machine, _dir, path) = with_port(|script| {
        script.fill(DATA, LEN.into(), u64::from_ne_bytes([b'x'; 8]));
        let chain = [Desc::readable(DATA, LEN)];
        place(script, &Ring::at(TX, 8).contents().descriptors(0, &chain).available(&[0]));
        DEVICE.kick(script, PORT_TX);
    });
    let before = machine.overhead();
    let mut client = UnixStream::connect(&path).unwrap();
    // What the guest says before the client is accepted would be lost.
    sleep(Duration::from_millis(300));
    machine.type_in(b"\n");
    machine.assert_becomes_idle();
    assert!(machine.overhead() < before + MAY_GROW);
    let mut all = vec![0; LEN as usize];
    client.read_exact(&mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == b'x'));
    machine.terminate_soon();
}
