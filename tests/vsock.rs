//! The socket device: floods of connections, and the life of its socket.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use support::driver::place;
use support::ring::{Desc, Ring};
use support::script::{Script, Width};
use support::subject::{BUFFER, Everything, RING, VSOCK};
use support::vmm::{Running, Vmm};

/// Sockets the device may have.
const MOST: usize = 4096;
/// Of so many it takes every request, whoever waits for answers.
const AT_LEAST: usize = 1000;
/// A port of the host.
const PORT: u32 = 52;

const REQUEST: u16 = 1;

/// The header of a packet of the guest.
fn header(guest_port: u32, op: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    [3u64, 2].iter().for_each(|cid| bytes.extend(cid.to_le_bytes()));
    [guest_port, PORT, 0].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    [1, op].iter().for_each(|half| bytes.extend(half.to_le_bytes()));
    [0, 1u32 << 18, 0].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes
}

fn open_descriptors(machine: &Running) -> usize {
    fs::read_dir(format!("/proc/{}/fd", machine.pid())).unwrap().count()
}

/// Asks for 6,000 connections, of which the device takes `at_least` for sure, and takes none of the
/// answers.
fn flood(script: &mut Script, at_least: usize) {
    const BATCH: u32 = 250;
    let ring = Ring::at(RING, 256);
    // Ports count up, so that every request is another connection.
    for batch in 0..24 {
        let headers: Vec<u8> =
            (0..BATCH).flat_map(|n| header(batch * BATCH + n, REQUEST)).collect();
        script.copy(BUFFER, &headers);
        if batch == 0 {
            let parts: Vec<Desc> =
                (0..u64::from(BATCH)).map(|n| Desc::readable(BUFFER + 44 * n, 44)).collect();
            let heads: Vec<u16> = (0..BATCH as u16).collect();
            place(script, &ring.contents().descriptors(0, &parts).available(&heads));
            VSOCK.start(script, 0, &ring);
        } else {
            // The same descriptors once more.
            let first = batch * BATCH;
            for n in first..first + BATCH {
                let slot = ring.avail + 4 + u64::from(n % 256) * 2;
                script.write(Width::B2, slot, u64::from(n % BATCH));
            }
            script.write(Width::B2, ring.avail + 2, u64::from(first + BATCH));
        }
        VSOCK.kick(script);
        let used = (batch * BATCH + BATCH) as u16;
        if batch < at_least as u32 / BATCH {
            VSOCK.device.await_used(script, &ring, used);
        } else {
            // The device may not listen any more.
            VSOCK.device.settle_briefly(script, &ring, used);
        }
    }
}

/// V6, V7, O3, O4: the guest asks for far more connections than there may be, and takes none of the
/// answers: what the monitor holds is bounded, it does not spin, and a reset frees it all.
#[test]
fn flood_of_connections_is_bounded_and_a_reset_frees_it() {
    let mut script = Script::new();
    VSOCK.works(&mut script);
    script.pause();
    let before = script.results() - 1;
    flood(&mut script, AT_LEAST);
    script.pause();
    let flooded = script.results() - 1;
    let works = VSOCK.works(&mut script);
    script.pause();
    let reset = script.results() - 1;

    let everything = Everything::new();
    let service = UnixListener::bind(format!("{}_{PORT}", everything.socket().display())).unwrap();
    let mut machine = everything.vmm(&script.then_reset()).spawn();
    machine.wait_for_output(before);
    let (descriptors, memory) = (open_descriptors(&machine), machine.overhead());
    machine.type_in(b"\n");
    machine.wait_for_output(flooded);
    let held = open_descriptors(&machine) - descriptors;
    // The service does not accept: what waits for it is also up to the host's kernel.
    assert!((AT_LEAST..=MOST).contains(&held), "{held} sockets");
    let grown = machine.overhead().saturating_sub(memory);
    assert!(grown < 4 << 20, "grew by {grown} bytes");
    machine.assert_event_loop_becomes_idle();
    machine.type_in(b"\n");
    machine.wait_for_output(reset);
    assert_eq!(open_descriptors(&machine), descriptors);
    machine.type_in(b"\n");
    let end = machine.finish().expect(0);
    works.expect(&end.stdout, "the flood");
    drop(service);
}

/// V6: where the host allows few descriptors, the guest's connections leave some to the others.
#[test]
fn flood_of_connections_leaves_descriptors_to_the_others() {
    const LIMIT: usize = 200;
    let mut script = Script::new();
    flood(&mut script, 0);
    script.pause();
    let flooded = script.results() - 1;
    let works = VSOCK.works(&mut script);
    let everything = Everything::new();
    let service = UnixListener::bind(format!("{}_{PORT}", everything.socket().display())).unwrap();
    service.set_nonblocking(true).unwrap();
    let clients = std::thread::spawn({
        let (service, over) = (service.try_clone().unwrap(), everything.socket());
        move || {
            // Until the machine is gone, and its socket with it.
            let mut clients = Vec::new();
            while clients.is_empty() || over.exists() {
                clients.extend(service.accept());
                std::thread::sleep(std::time::Duration::from_micros(100));
            }
        }
    });
    let few = ["prlimit".to_owned(), format!("--nofile={LIMIT}"), "--".to_owned()];
    let mut machine = everything.vmm(&script.then_reset()).by(few).spawn();
    machine.wait_for_output(flooded);
    let held = open_descriptors(&machine);
    assert!((LIMIT / 2..LIMIT * 9 / 10).contains(&held), "{held} descriptors");
    machine.type_in(b"\n");
    let end = machine.finish().expect(0);
    works.expect(&end.stdout, "the flood");
    clients.join().unwrap();
}

/// A machine that runs until it is typed at, with its socket at the path returned.
fn machine_with_socket() -> (Everything, Running, PathBuf) {
    let everything = Everything::new();
    let mut script = Script::new();
    VSOCK.works(&mut script);
    script.pause();
    let ready = script.results() - 1;
    let mut machine = everything.vmm(&script.then_reset()).spawn();
    machine.wait_for_output(ready);
    let socket = everything.socket();
    (everything, machine, socket)
}

#[test]
fn socket_is_the_owners_alone_and_goes_with_the_machine() {
    let (_everything, mut machine, socket) = machine_with_socket();
    let metadata = fs::metadata(&socket).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    machine.type_in(b"\n");
    machine.finish().expect(0);
    assert!(!socket.exists());
    let (_everything, machine, socket) = machine_with_socket();
    machine.terminate();
    assert!(!socket.exists());
}

/// What has the path already is refused, apart from what a killed monitor left there.
#[test]
fn socket_in_use_is_refused_and_one_left_behind_is_replaced() {
    let (everything, machine, socket) = machine_with_socket();
    let again = || {
        let vsock = format!("cid=3,socket={}", everything.socket().display());
        Vmm::with_guest("null").arg("--vsock").arg(vsock)
    };
    let inode = fs::metadata(&socket).unwrap().ino();
    let end = again().run().expect(3);
    assert!(end.expect_one_line_error().ends_with("is in use by another process"));
    assert_eq!(fs::metadata(&socket).unwrap().ino(), inode);
    machine.signal(rustix::process::Signal::KILL);
    drop(machine);
    assert!(socket.exists());
    again().run().expect(0);
    assert!(!socket.exists());
    fs::write(&socket, b"mine").unwrap();
    let end = again().run().expect(2);
    assert!(end.expect_one_line_error().ends_with("exists and is no socket"));
    assert_eq!(fs::read(&socket).unwrap(), b"mine");
}

/// V11: nonsense at the socket, while the guest has no driver for the device and while it has.
#[test]
fn nonsense_at_the_socket_harms_nobody() {
    let (_everything, mut machine, socket) = machine_with_socket();
    for line in [&b"CONNECT x\n"[..], b"\n", &[b'C'; 1 << 16], &[0; 33]] {
        let mut program = UnixStream::connect(&socket).unwrap();
        let _ = program.write_all(line);
        assert_ne!(program.read(&mut [0]).ok(), Some(1));
    }
    let crowd: Vec<_> = (0..100).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    machine.assert_event_loop_becomes_idle();
    drop(crowd);
    machine.type_in(b"\n");
    machine.finish().expect(0);
}

/// The path is refused before anything is created.
#[test]
fn socket_in_a_directory_that_is_not_there_is_one_clear_line() {
    let end = Vmm::with_guest("null").args(["--vsock", "cid=3,socket=/nowhere/vsock"]).run();
    assert_eq!(end.code(), 2, "{}", end.stderr);
    let line = end.expect_one_line_error();
    assert!(line.contains("open the directory /nowhere: No such file"), "{line}");
}
