//! Disks that hang, fail, shrink or move less than they were asked for.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Signal;

use support::driver::{CONFIG_CHANGE, Device, place, reg};
use support::fuse::{Faults, Fuse};
use support::machine::RAM;
use support::request::{
    Asked, DATA, F_FLUSH, FLUSH, HEADER, IOERR, OK, READ, STATUS, WRITE, ask, header, post, send,
};
use support::ring::{Desc, Ring, chained};
use support::script::{Script, Slot, Width};
use support::subject::{BLOCK, DISK, Everything, FILLING, RNG, Subject};
use support::vmm::{Finished, Running, Vmm};

/// The ways to move data, as options of a disk. The second is not used right on a FUSE file system,
/// but below an overlay.
const ENGINES: [&str; 2] = [",engine=sync", IO_URING];
const IO_URING: &str = ",engine=io_uring,readonly=on";
/// How long a machine with a hung disk may take to end.
const AT_MOST: Duration = Duration::from_secs(1);
/// A queue at another place than the one of the request that works.
const OTHER_RING: u64 = RAM + 0x60_0000;

fn image() -> Vec<u8> {
    vec![FILLING; DISK as usize]
}

fn bad(sector: u64, errno: Errno) -> Faults {
    Faults {
        bad: Some((sector * 512..(sector + 1) * 512, errno)),
        uncached: true,
        ..Faults::default()
    }
}

/// The entropy device of a machine without a network.
fn rng() -> Subject {
    Subject { device: Device::nth(1), ..RNG }
}

/// A read of a sector.
fn parts() -> [Desc; 3] {
    [Desc::readable(HEADER, 16), Desc::writable(DATA, 512), Desc::writable(STATUS, 1)]
}

/// Asks for the first sector and does not wait.
fn read_and_go_on(script: &mut Script) {
    post(script, F_FLUSH, &Ring::at(OTHER_RING, 64), &header(READ, 0), &parts());
}

/// A machine whose guest performs `build` after a read that hangs.
fn hung<T>(engine: &str, build: impl FnOnce(&mut Script) -> T) -> (Fuse, Running, T) {
    let fuse = Fuse::new(image(), Faults { hang: Some(0..DISK), ..Faults::default() });
    let fuse = if engine == IO_URING { fuse.below_overlay() } else { fuse };
    let mut script = Script::new();
    read_and_go_on(&mut script);
    script.pause();
    let built = build(&mut script);
    let vmm = Vmm::evil(&script.then_reset()).disk(&fuse.path(), engine);
    let mut running = fuse.spawn(vmm);
    fuse.wait_for_hanging(1);
    running.type_in(b"\n");
    (fuse, running, built)
}

/// Ends it by SIGTERM; what the guest sent, and how long that took.
fn terminate(running: Running) -> (Vec<u8>, Duration) {
    let asked = Instant::now();
    (running.terminate().stdout, asked.elapsed())
}

/// Makes `attempt` for each engine, which tells how long the end of a machine took. On a host that is
/// busy the kernel may take seconds to close a machine: one attempt of several must be in time.
fn expect_in_time(attempt: impl Fn(&str) -> Duration) {
    for engine in ENGINES {
        let mut took = vec![];
        while took.last().is_none_or(|last| *last > AT_MOST) {
            assert!(took.len() < 5, "{engine}: {took:?}");
            took.push(attempt(engine));
        }
    }
}

/// B13: the other devices and the console are served, and the machine ends when told to.
#[test]
fn disk_that_hangs_delays_neither_other_devices_nor_the_end() {
    expect_in_time(|engine| {
        let (_fuse, mut running, (works, typed)) = hung(engine, |script| {
            let works = rng().works(script);
            let typed = script.input();
            script.pause();
            (works, typed)
        });
        running.type_in(b"x");
        running.wait_for_output(typed.end());
        let (output, took) = terminate(running);
        works.expect(&output, "a read that hangs");
        assert_eq!(typed.number(&output), u64::from(b'x'));
        took
    });
}

/// B13: a disk that hangs is not waited for when its size is asked for.
#[test]
fn size_of_a_hung_disk_is_left_alone() {
    let (_fuse, running, ()) = hung(",engine=sync", |script| script.pause());
    running.signal(Signal::USR2);
    let asked = Instant::now();
    while !running.stderr().contains("disk0 cannot be changed") {
        assert!(asked.elapsed() < Duration::from_secs(5), "{}", running.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
    terminate(running);
}

/// B13: a guest that powers off while its disk hangs is gone at once, with its own status.
#[test]
fn guest_with_a_hung_disk_can_end_itself() {
    expect_in_time(|engine| {
        let (_fuse, mut running, paused) = hung(engine, |script| {
            script.pause();
            script.results()
        });
        running.wait_for_output(paused - 1);
        let asked = Instant::now();
        running.type_in(b"\n");
        running.finish().expect(0);
        asked.elapsed()
    });
}

/// A machine whose vCPU waits for the hung disk: with a write to its status register, which resets
/// it.
fn stuck(engine: &str) -> (Fuse, Running) {
    let (fuse, mut running, before) = hung(engine, |script| {
        script.pause();
        let before = script.results() - 1;
        BLOCK.device.reset(script);
        script.pause();
        before
    });
    running.wait_for_output(before);
    running.type_in(b"\n");
    std::thread::sleep(Duration::from_millis(50));
    (fuse, running)
}

/// B13: not even a vCPU that waits for the hung disk delays the end.
#[test]
fn vcpu_that_waits_for_a_hung_disk_does_not_delay_the_end() {
    expect_in_time(|engine| {
        let (_fuse, running) = stuck(engine);
        terminate(running).1
    });
}

/// B13: an orderly end waits a moment for such a vCPU; a second signal does not, and the status names
/// it. On a busy host one attempt may come too late to be the second.
#[test]
fn second_signal_ends_the_machine_at_once() {
    let soon = (0..5).any(|_| {
        let (_fuse, running) = stuck("");
        running.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(50));
        running.signal(Signal::INT);
        let code = running.finish().code();
        assert!([130, 143].contains(&code), "{code}");
        code == 130
    });
    assert!(soon);
}

/// Q22: a reset ends only when the host is done with the guest's memory, which nothing of the disk
/// changes from then on.
#[test]
fn reset_waits_for_reads_under_way_and_nothing_is_written_later() {
    const PATTERN: u64 = 0x1122_3344_5566_7788;
    for engine in ENGINES {
        let (fuse, mut running, (before, after, data, works)) = hung(engine, |script| {
            script.pause();
            let before = script.results() - 1;
            BLOCK.device.reset(script);
            let after = script.value(Width::B1, 1).end();
            script.fill(DATA, 512, PATTERN);
            script.pause();
            let data = script.dump(DATA, 64);
            (before, after, data, BLOCK.works(script))
        });
        running.wait_for_output(before);
        running.type_in(b"\n");
        std::thread::sleep(Duration::from_millis(200));
        assert!(running.output_len() < after, "the reset did not wait");
        fuse.release();
        running.wait_for_output(after + 1);
        std::thread::sleep(Duration::from_millis(200));
        running.type_in(b"\n");
        let end = running.finish().expect(0);
        let words = data.bytes(&end.stdout).chunks(8);
        assert!(words.into_iter().all(|word| word == PATTERN.to_le_bytes()));
        works.expect(&end.stdout, "the reset");
    }
}

/// Q9: a chain that is offered again while it is under way breaks the device, until a reset.
#[test]
fn chain_offered_again_while_it_is_under_way_breaks_the_device() {
    let ring = Ring::at(OTHER_RING, 64);
    let (fuse, mut running, (outcome, paused, works)) = hung(IO_URING, |script| {
        place(script, &ring.contents().descriptors(0, &chained(&parts())).available(&[0, 0]));
        BLOCK.kick(script);
        let outcome = BLOCK.device.settle(script, &ring, 1);
        script.pause();
        (outcome, script.results(), BLOCK.works(script))
    });
    running.wait_for_output(paused - 1);
    // The reset that follows waits for the read.
    fuse.release();
    running.type_in(b"\n");
    let end = running.finish().expect(0);
    outcome.state(&end.stdout).expect_broken("a head that is under way");
    works.expect(&end.stdout, "a reset");
}

/// A machine that asks for io_uring and does not get it: its disk works, and one line says why.
#[track_caller]
fn works_without_io_uring(reason: &str, run: impl FnOnce(Vec<u8>) -> Finished) {
    let mut script = Script::new();
    let asked = [(WRITE, 512), (READ, 512), (FLUSH, 0)];
    let asked = asked.map(|(kind, len)| ask(&mut script, kind, 5, len));
    let works = BLOCK.works(&mut script);
    let end = run(script.then_reset()).expect(0);
    asked.iter().for_each(|asked| asked.expect(&end.stdout, OK));
    works.expect(&end.stdout, reason);
    assert_eq!(end.stderr.matches("io_uring").count(), 1, "{}", end.stderr);
    assert!(end.stderr.contains("engine=sync"), "{}", end.stderr);
    assert!(end.stderr.contains(reason), "{}", end.stderr);
}

/// B12: where the host refuses io_uring the disk works without, and a line says so.
#[test]
fn disk_works_without_io_uring_and_says_so_once() {
    let everything = Everything::new();
    works_without_io_uring("not permitted", |script| {
        let vmm = Vmm::evil(&script).disk(everything.disk.path(), ",engine=io_uring");
        vmm.refused(support::seccomp::IO_URING).run()
    });
}

/// B10: a file system in user space may read less than asked, which the kernel's io_uring gets wrong:
/// it is not used there.
#[test]
fn file_systems_in_user_space_are_served_without_io_uring() {
    let fuse = Fuse::new(image(), Faults { short: Some(100), uncached: true, ..Faults::default() });
    works_without_io_uring("short reads", |script| {
        fuse.spawn(Vmm::evil(&script).disk(&fuse.path(), ",engine=io_uring")).finish()
    });
}

/// Runs what `build` adds on a disk with `faults`, and has `check` look at it.
fn on_faulty<T>(
    faults: Faults,
    build: impl FnOnce(&mut Script) -> T,
    check: impl FnOnce(T, &[u8], &Fuse),
) {
    let fuse = Fuse::new(image(), faults);
    let mut script = Script::new();
    let built = build(&mut script);
    let works = BLOCK.works(&mut script);
    let vmm = Vmm::evil(&script.then_reset()).disk(&fuse.path(), "");
    let end = fuse.spawn(vmm).finish().expect(0);
    check(built, &end.stdout, &fuse);
    works.expect(&end.stdout, "the faults");
}

/// B9: what the host cannot do fails alone; what is beside it does not.
#[test]
fn sector_the_host_cannot_serve_fails_alone() {
    for errno in [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::NOMEM] {
        let build = |script: &mut Script| {
            let asked = |script: &mut Script, kind, sector| ask(script, kind, sector, 512);
            [READ, WRITE].map(|kind| [6, 7, 8].map(|sector| asked(script, kind, sector)))
        };
        on_faulty(bad(7, errno), build, |asked: [[Asked; 3]; 2], output, fuse| {
            for [before, at, behind] in &asked {
                before.expect(output, OK);
                at.expect(output, IOERR);
                behind.expect(output, OK);
            }
            assert!(fuse.with(|state| state.image[7 * 512..8 * 512] == image()[..512]));
        });
    }
}

/// B9: a limit of the size of files fails the write, and the signal that comes with it ends nothing.
#[test]
fn write_beyond_the_file_size_limit_fails_and_the_machine_lives() {
    for engine in ["", ",engine=io_uring"] {
        let everything = Everything::new();
        let mut script = Script::new();
        let asked = [0, 100, 1].map(|sector| ask(&mut script, WRITE, sector, 512));
        let works = BLOCK.works(&mut script);
        let vmm = Vmm::evil(&script.then_reset()).disk(everything.disk.path(), engine);
        let end = vmm.by(["prlimit", "--fsize=4096", "--"]).run().expect(0);
        let [inside, beyond, again] = &asked;
        inside.expect(&end.stdout, OK);
        beyond.expect(&end.stdout, IOERR);
        again.expect(&end.stdout, OK);
        works.expect(&end.stdout, "the limit");
    }
}

/// B10: a host that moves a part at a time, or is interrupted, is asked again.
#[test]
fn short_and_interrupted_transfers_are_completed() {
    let contents: Vec<u8> = (0..8192u32).map(|n| (n * 7 % 251) as u8).collect();
    let interrupted = |errno| Faults { fail_next: Some((20, errno)), ..Faults::default() };
    let short = Faults { short: Some(700), ..Faults::default() };
    for faults in [short, interrupted(Errno::INTR), interrupted(Errno::AGAIN)] {
        let build = |script: &mut Script| {
            script.copy(DATA, &contents);
            let written = ask(script, WRITE, 3, 8192);
            script.fill(DATA, 8192, 0);
            (written, ask(script, READ, 3, 8192), script.dump(DATA, 1024))
        };
        let check = |(written, read, data): (Asked, Asked, Slot), output: &[u8], _: &Fuse| {
            written.expect(output, OK);
            read.expect(output, OK);
            assert!(data.bytes(output) == contents);
        };
        on_faulty(Faults { uncached: true, ..faults }, build, check);
    }
}

/// B10: a host that is interrupted for ever is not asked for ever.
#[test]
fn transfer_that_is_interrupted_for_ever_fails() {
    let faults =
        Faults { fail_next: Some((1000, Errno::INTR)), uncached: true, ..Faults::default() };
    let build = |script: &mut Script| -> Vec<Asked> {
        (0..12).map(|_| ask(script, READ, 0, 512)).collect()
    };
    on_faulty(faults, build, |asked, output, _| {
        let (first, last) = (asked.first().unwrap(), asked.last().unwrap());
        first.expect(output, IOERR);
        last.expect(output, OK);
    });
}

/// B11: writes that were lost once stay lost, whatever the host says later.
#[test]
fn failed_sync_is_never_reported_as_success_later() {
    let faults = Faults { fail_syncs: 1, uncached: true, ..Faults::default() };
    let build = |script: &mut Script| {
        let written = ask(script, WRITE, 5, 512);
        (written, [(); 3].map(|()| ask(script, FLUSH, 0, 0)))
    };
    on_faulty(faults, build, |(written, flushed), output, fuse| {
        written.expect(output, OK);
        flushed.iter().for_each(|asked| asked.expect(output, IOERR));
        assert_eq!(fuse.with(|state| state.syncs), 1, "the host was asked again");
    });
}

/// B11: what a flush, or without flushes a write, was answered OK for is on the disk by then, whatever
/// cuts the machine off.
#[test]
fn answered_flush_finds_the_writes_before_it_durable() {
    for features in [F_FLUSH, 0] {
        let fuse = Fuse::new(image(), Faults { uncached: true, ..Faults::default() });
        let mut script = Script::new();
        script.fill(DATA, 512, u64::from_le_bytes([7; 8]));
        let parts =
            [Desc::readable(HEADER, 16), Desc::readable(DATA, 512), Desc::writable(STATUS, 1)];
        let mut asked = vec![send(&mut script, features, "a write", &header(WRITE, 5), &parts)];
        if features != 0 {
            asked.push(ask(&mut script, FLUSH, 0, 0));
        }
        script.pause();
        let paused = script.results();
        let mut running = fuse.spawn(Vmm::evil(&script.then_reset()).disk(&fuse.path(), ""));
        running.wait_for_output(paused - 1);
        let (output, durable) = (running.output(), fuse.with(|state| state.durable.clone()));
        // Killed, as by a power cut.
        drop(running);
        asked.iter().for_each(|asked| asked.expect(&output, OK));
        assert!(durable[5 * 512..6 * 512] == [7; 512], "features {features:x}");
    }
}

/// B9: a file system that is full fails the writes that need more of it, and no others.
#[test]
fn full_file_system_fails_what_does_not_fit() {
    const MOUNT: &str = "mount -t tmpfs -o size=64k tmpfs \"$1\" && \
        truncate -s 1M \"$1/disk\" && shift && exec \"$@\"";
    for engine in ["", ",engine=io_uring"] {
        let directory = tempfile::tempdir().unwrap();
        let mut script = Script::new();
        let pages: Vec<Asked> =
            (0..32).map(|page| ask(&mut script, WRITE, page * 8, 4096)).collect();
        let again = ask(&mut script, WRITE, 0, 4096);
        let works = BLOCK.works(&mut script);
        let vmm = Vmm::evil(&script.then_reset()).disk(&directory.path().join("disk"), engine);
        let unshare = ["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", MOUNT];
        let words = unshare.into_iter().chain(["sh", directory.path().to_str().unwrap()]);
        let end = vmm.by(words).run().expect(0);
        let failed = pages.iter().position(|asked| asked.answer(&end.stdout).status == IOERR);
        let failed = failed.expect("everything fitted");
        assert!(failed > 8, "only {failed} pages fitted");
        pages[failed..].iter().for_each(|asked| asked.expect(&end.stdout, IOERR));
        again.expect(&end.stdout, OK);
        works.expect(&end.stdout, "a full file system");
    }
}

/// B8: the size of a disk follows its file on SIGUSR2, whichever way that went.
#[test]
fn size_follows_the_file_when_the_configuration_is_read_again() {
    for (engine, sectors) in [("", 4096), (",engine=io_uring", 16)] {
        let everything = Everything::new();
        let mut script = Script::new();
        let before = ask(&mut script, READ, 100, 512);
        script.pause();
        let paused = script.results();
        let capacity = script.read(Width::B8, BLOCK.device.register(reg::CONFIG));
        let interrupt = BLOCK.device.read(&mut script, reg::INTERRUPT_STATUS);
        let after =
            [ask(&mut script, READ, sectors - 1, 512), ask(&mut script, READ, sectors, 512)];
        let works = BLOCK.works(&mut script);
        let vmm = Vmm::evil(&script.then_reset()).disk(everything.disk.path(), engine);
        let mut running = vmm.arg("--log-level").arg("info").spawn();
        running.wait_for_output(paused - 1);
        everything.disk.as_file().set_len(sectors * 512).unwrap();
        running.signal(Signal::USR2);
        let asked = Instant::now();
        while !running.stderr().contains("configuration read again") {
            assert!(asked.elapsed() < Duration::from_secs(5), "{}", running.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
        running.type_in(b"\n");
        let output = running.finish().expect(0).stdout;
        before.expect(&output, OK);
        assert_eq!(capacity.number(&output), sectors);
        assert_ne!(interrupt.number(&output) & CONFIG_CHANGE, 0);
        after[0].expect(&output, OK);
        after[1].expect(&output, IOERR);
        works.expect(&output, "the change");
    }
}

/// B8: an image that is cut off under a running machine fails what lies past its end.
#[test]
fn image_cut_off_under_the_machine_fails_reads_and_ends_nothing() {
    let everything = Everything::new();
    let mut script = Script::new();
    let before = ask(&mut script, READ, 100, 512);
    script.pause();
    let after = [ask(&mut script, READ, 100, 512), ask(&mut script, READ, 3, 512)];
    let works = BLOCK.works(&mut script);
    let vmm = Vmm::evil(&script.then_reset()).disk(everything.disk.path(), "");
    let mut running = vmm.spawn();
    running.wait_for_output(1);
    everything.disk.as_file().set_len(8192).unwrap();
    running.type_in(b"\n");
    let output = running.finish().expect(0).stdout;
    before.expect(&output, OK);
    after[0].expect(&output, IOERR);
    after[1].expect(&output, OK);
    works.expect(&output, "the cut");
}
