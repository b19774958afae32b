//! Disks whose writes go to an overlay, and machines that are killed while they write.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::fs;
use std::path::Path;

use support::request::{
    DATA, DISCARD, F_FLUSH, FLUSH, HEADER, IOERR, OK, READ, STATUS, WRITE, ask, header, post,
};
use support::ring::{Desc, Ring};
use support::script::{Script, Width};
use support::subject::{BLOCK, RING};
use support::vmm::Vmm;

const FILLING: u8 = 0x5a;
const SECTORS: u64 = 2048;

/// A base in `directory`, and the keys of a disk over it.
fn base(directory: &Path) -> (Vec<u8>, String) {
    let contents = vec![FILLING; usize::try_from(SECTORS * 512).unwrap()];
    fs::write(directory.join("base"), &contents).unwrap();
    (contents, format!(",overlay={}", directory.join("overlay").display()))
}

/// Killed again and again while the guest writes: what was flushed before is there, the base is as it
/// was, and the overlay can be used.
#[test]
fn what_was_flushed_survives_killed_machines_and_the_base_is_never_written() {
    const ROUNDS: u64 = 20;
    let directory = tempfile::tempdir().unwrap();
    let (contents, keys) = base(directory.path());
    for round in 1..=ROUNDS {
        let mut script = Script::new();
        // What the killed machine before this one flushed.
        let before = ask(&mut script, READ, round - 1, 512);
        let was = script.read(Width::B8, DATA);
        script.fill(DATA, 512, round);
        let written = ask(&mut script, WRITE, round, 512);
        let flushed = ask(&mut script, FLUSH, 0, 0);
        script.value(Width::B1, 1);
        script.flush();
        let results = script.results();
        // On and on, without a flush, until the end.
        let ring = Ring::at(RING, 64);
        let parts =
            [Desc::readable(HEADER, 16), Desc::readable(DATA, 64 << 10), Desc::writable(STATUS, 1)];
        script.repeat(1_000_000, |script| {
            post(script, F_FLUSH, &ring, &header(WRITE, 1000), &parts);
            BLOCK.device.await_used(script, &ring, 1);
        });
        let disk = directory.path().join("base");
        let mut machine = Vmm::evil(&script.then_idle()).disk(&disk, &keys).spawn();
        machine.wait_for_output(results);
        std::thread::sleep(std::time::Duration::from_millis(round * 3));
        let output = machine.kill();
        before.expect(&output, OK);
        written.expect(&output, OK);
        flushed.expect(&output, OK);
        let expected = if round == 1 { 0x5a5a_5a5a_5a5a_5a5a } else { round - 1 };
        assert_eq!(was.number(&output), expected, "round {round}");
        assert_eq!(fs::read(&disk).unwrap(), contents, "the base, round {round}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "something else is left");
}

#[test]
fn request_past_the_end_and_discard_are_answered_as_by_any_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (contents, keys) = base(directory.path());
    let mut script = Script::new();
    let past = ask(&mut script, WRITE, SECTORS, 512);
    let huge = ask(&mut script, READ, u64::MAX, 512);
    script.fill(DATA, 512, 7);
    let written = ask(&mut script, WRITE, SECTORS - 1, 512);
    script.fill(DATA, 512, 0);
    let read = ask(&mut script, READ, SECTORS - 1, 512);
    let data = script.read(Width::B8, DATA);
    let malformed = ask(&mut script, DISCARD, 0, 15);
    let disk = directory.path().join("base");
    let end = Vmm::evil(&script.then_reset()).disk(&disk, &keys).run().expect(0);
    for asked in [past, huge] {
        asked.expect(&end.stdout, IOERR);
    }
    written.expect(&end.stdout, OK);
    read.expect(&end.stdout, OK);
    assert_eq!(data.number(&end.stdout), 7);
    assert_ne!(malformed.answer(&end.stdout).status, OK);
    assert_eq!(fs::read(&disk).unwrap(), contents);
}

#[test]
fn overlay_that_cannot_be_used_is_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    base(directory.path());
    let disk = directory.path().join("base");
    let text = directory.path().join("text");
    fs::write(&text, "no overlay at all").unwrap();
    let missing = directory.path().join("missing").join("overlay");
    for (overlay, status) in [(&text, 2), (&missing, 3), (&disk, 3)] {
        let keys = format!(",overlay={}", overlay.display());
        let end = Vmm::with_guest("null").disk(&disk, &keys).run().expect(status);
        let line = end.expect_one_line_error();
        assert!(line.contains(overlay.to_str().unwrap()), "{line}");
    }
    assert_eq!(fs::read(&text).unwrap(), b"no overlay at all");
    assert!(!missing.exists());
}
