//! Floods on the serial console, in both directions: nobody waits and nothing grows.

mod support;

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::process::Stdio;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use support::script::{Script, Span, Width};
use support::vmm::{Finished, Running, Vmm};

const COM1: u64 = 0x3f8;
/// What the monitor's own memory may grow by (O3).
const MAY_GROW: u64 = 1 << 20;
/// How long a guest prints as fast as it can.
const FLOOD: Duration = Duration::from_secs(5);
/// The same where nothing can pile up.
const SHORT_FLOOD: Duration = Duration::from_secs(1);

/// A guest that prints `x` until it is ended.
fn printing() -> Vec<u8> {
    let mut script = Script::new();
    script.sweep_out(Width::B1, Span { start: COM1, count: u64::MAX, step: 0 }, b'x'.into());
    script.then_idle()
}

/// Watches the monitor's memory during the flood, then ends it: neither the guest nor the
/// monitor is held up by the reader.
fn watch_flood(machine: Running, flood: Duration) -> Finished {
    sleep(Duration::from_millis(300));
    let (before, started) = (machine.overhead(), Instant::now());
    while started.elapsed() < flood {
        let now = machine.overhead();
        assert!(now < before + MAY_GROW, "memory grew from {before} to {now} bytes");
        sleep(Duration::from_millis(100));
    }
    machine.assert_guest_is_running();
    machine.terminate_soon()
}

/// S2.
#[test]
fn flood_to_a_closed_standard_output_blocks_nobody() {
    let machine = Vmm::evil(&printing()).by(["sh", "-c", "exec \"$0\" \"$@\" >&-"]).spawn();
    watch_flood(machine, FLOOD);
}

/// S2: the other end of the pipe is closed.
#[test]
fn flood_to_a_reader_that_is_gone_blocks_nobody() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    watch_flood(Vmm::evil(&printing()).stdout(writer).spawn(), SHORT_FLOOD);
}

/// S2: the pipe is full; what is lost is counted, and what was kept first is what comes out.
#[test]
fn flood_to_a_full_pipe_blocks_nobody_and_the_loss_is_counted() {
    let (reader, writer) = pipe().unwrap();
    let end = watch_flood(Vmm::evil(&printing()).stdout(writer).spawn(), FLOOD);
    drop(reader);
    assert!(end.stderr.contains("bytes of console output were dropped"), "{}", end.stderr);
}

/// S2: a reader of some KiB a second.
#[test]
fn flood_to_a_slow_reader_blocks_nobody() {
    let (mut reader, writer) = pipe().unwrap();
    let machine = Vmm::evil(&printing()).stdout(writer).spawn();
    let slow = spawn(move || {
        let mut chunk = [0; 512];
        let mut total = 0;
        while let Ok(count @ 1..) = reader.read(&mut chunk) {
            assert!(chunk[..count].iter().all(|byte| *byte == b'x'));
            total += count;
            if total < 64 << 10 {
                sleep(Duration::from_millis(50));
            }
        }
        total
    });
    watch_flood(machine, FLOOD);
    assert!(slow.join().unwrap() > 0);
}

/// S2: a disk without room.
#[test]
fn flood_to_a_full_disk_blocks_nobody() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    watch_flood(Vmm::evil(&printing()).stdout(Stdio::from(full)).spawn(), SHORT_FLOOD);
}

/// S3: what a guest printed reaches the user's terminal raw as long as that is the console, and
/// harmless when the monitor repeats it.
#[test]
fn escape_sequences_are_not_repeated_when_a_guest_has_failed() {
    const PRINTED: &[u8] = b"\x1b]0;owned\x07\x1b[2J\xc2\x9b31m\xe2\x80\xaethe end\r\n";
    let mut script = Script::new();
    for byte in PRINTED {
        script.port_out(Width::B1, COM1 as u16, (*byte).into());
    }
    // The port of panics.
    script.port_out(Width::B1, 0x505, 1);
    let end = Vmm::evil(&script.then_idle()).run().expect(4);
    assert_eq!(end.stdout, PRINTED);
    assert!(end.stderr.contains("the end"), "{}", end.stderr);
    let harmless = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
    assert!(end.stderr.chars().all(harmless), "{:?}", end.stderr);
}

/// S4: what is typed while the serial port is in loopback mode arrives when that ends.
#[test]
fn input_typed_during_loopback_arrives_afterwards() {
    const MODEM_CONTROL: u16 = COM1 as u16 + 4;
    let mut script = Script::new();
    script.value(Width::B1, 0x11);
    script.flush();
    script.port_out(Width::B1, MODEM_CONTROL, 0x10);
    // Long enough for the answer to come.
    script.sweep_out(Width::B1, Span { start: 0x80, count: 20_000, step: 0 }, 0);
    script.port_out(Width::B1, MODEM_CONTROL, 0);
    let typed = script.input();
    let mut machine = Vmm::evil(&script.then_idle_after_flush()).spawn();
    machine.wait_for_output(1);
    machine.type_in(b"x");
    machine.wait_for_output(2);
    let end = machine.terminate();
    assert_eq!(typed.number(&end.stdout), u64::from(b'x'));
}

/// S1: a guest that never reads is not typed at: the sender waits, the monitor sleeps.
#[test]
fn flood_of_input_waits_outside_until_the_guest_reads() {
    const READ: usize = 20_000;
    let mut script = Script::new();
    script.pause();
    // Typed bytes are results: the guest sends back what it reads.
    let first = script.input();
    for _ in 1..READ {
        script.input();
    }
    let last = script.value(Width::B1, 0xee);
    let mut machine = Vmm::evil(&script.then_idle_after_flush()).spawn();
    machine.wait_for_output(1);
    let before = machine.overhead();
    let mut stdin = machine.take_stdin();
    let sender = spawn(move || {
        let flood: Vec<u8> = (0..251u8).cycle().take(1 << 20).collect();
        // Ends by the end of the machine: nobody reads the last of it.
        let _ = stdin.write_all(&flood);
    });
    // The first byte typed ends the pause; then the guest reads 20,000 bytes and no more.
    machine.wait_for_output(1 + 1 + READ);
    machine.assert_becomes_idle();
    assert!(!sender.is_finished(), "a megabyte was taken for a guest that read {READ} bytes");
    assert!(machine.overhead() < before + MAY_GROW);
    let end = machine.terminate();
    sender.join().unwrap();
    assert_eq!(first.number(&end.stdout), 1, "bytes come in order");
    assert_eq!(last.number(&end.stdout), 0xee);
    let typed = &end.stdout[2..2 + READ];
    assert!(typed.iter().zip((0..251u8).cycle().skip(1)).all(|(byte, sent)| *byte == sent));
}
