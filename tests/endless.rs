//! What a guest can do without end: requests, resets, buffers it never takes back, commands.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use support::case::{Broken, Case, ring};
use support::driver::{F_VERSION_1, Outcome, RUNNING, place, reg};
use support::process;
use support::ring::{Desc, Ring, chained};
use support::script::{Script, Slot, Width};
use support::subject::{
    BALLOON, BLOCK, BUFFER, CONSOLE, Everything, NET, RING, RNG, SPARE, SUBJECTS, Subject, VSOCK,
    on_every_device,
};
use support::vmm::Vmm;

/// Where the second device of a test has its queue and buffer.
const OTHER: u64 = SPARE;

/// N9, Q11: a queue that is full again as soon as anything of it is served, and kicked without end: of
/// the smallest frames, and of the requests of every other device. Another device is served meanwhile.
#[test]
fn requests_without_end_hold_up_no_other_device() {
    const ROUNDS: u16 = 300;
    for subject in SUBJECTS {
        let (full, other) = (Ring::at(RING, subject.queue_size), Ring::at(OTHER, 8));
        let judge = if subject.name == RNG.name { BLOCK } else { RNG };
        let mut script = Script::new();
        let mut request = subject.request();
        if subject.name == NET.name {
            request = chained(&[Desc::readable(BUFFER, 12), Desc::readable(BUFFER + 0x1000, 14)]);
        }
        let heads = vec![0; full.size.into()];
        place(&mut script, &full.contents().descriptors(0, &request).available(&heads));
        let parts = match judge.name {
            "rng" => vec![Desc::writable(OTHER + 0x1000, 64)],
            _ => chained(&[
                Desc::readable(OTHER + 0x1000, 16),
                Desc::writable(OTHER + 0x2000, 512),
                Desc::writable(OTHER + 0x3000, 1),
            ]),
        };
        script.fill(OTHER, 0x4000, 0);
        place(&mut script, &other.contents().descriptors(0, &parts));
        subject.start(&mut script, 0, &full);
        judge.start(&mut script, 0, &other);
        for round in 1..=ROUNDS {
            script.forward(Width::B2, full.used_index(), full.avail + 2, full.size.into());
            subject.kick(&mut script);
            script.write(Width::B2, other.avail + 2, round.into());
            judge.kick(&mut script);
            judge.device.await_used(&mut script, &other, round);
        }
        let judged = judge.device.settle(&mut script, &other, ROUNDS);
        let served = script.read(Width::B2, full.used_index());
        let works = subject.works(&mut script);
        let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
        judged.state(&end.stdout).expect_returned(ROUNDS, &format!("beside {}", subject.name));
        // Answers nobody takes stop the sockets' queue.
        let least = if subject.name == VSOCK.name { 200 } else { u64::from(ROUNDS) };
        assert!(served.number(&end.stdout) >= least, "{}", subject.name);
        works.expect(&end.stdout, "requests without end");
    }
}

/// Q10: receive rings and statistics that are full, and are said to be filled on and on while nothing
/// is taken back: what the device holds is bounded by its queue, or it needs a reset.
#[test]
fn rings_filled_on_and_on_hold_what_a_queue_holds() {
    const ROUNDS: u64 = 2000;
    /// VIRTIO_CONSOLE_F_MULTIPORT, VIRTIO_BALLOON_F_STATS_VQ.
    const FEATURE: u64 = 1 << 1;
    let receiving = [(NET, 0), (VSOCK, 0), (CONSOLE, 0), (CONSOLE, 2), (BALLOON, 2)];
    for (subject, queue) in receiving {
        let ring = ring();
        let buffers: Vec<Desc> = (0..8)
            .map(|n| match queue {
                2 if subject.name == BALLOON.name => Desc::readable(BUFFER + n * 0x100, 10),
                _ => Desc::writable(BUFFER + n * 0x100, 0x100),
            })
            .collect();
        let all: Vec<u16> = (0..8).collect();
        let contents = ring.contents().descriptors(0, &buffers).available(&all);
        let mut script = Script::new();
        place(&mut script, &contents);
        let features = if matches!(subject.name, "net" | "vsock") { 0 } else { FEATURE };
        subject.device.start(&mut script, features, (queue, &ring));
        script.pause();
        let paused = script.results() - 1;
        script.repeat(ROUNDS, |script| {
            script.forward(Width::B2, ring.avail + 2, ring.avail + 2, 8);
            subject.device.kick(script, queue);
        });
        let status = subject.device.read(&mut script, reg::STATUS);
        script.pause();
        let filled = script.results() - 1;
        let works = subject.works(&mut script);
        let everything = Everything::new();
        let mut machine = everything.vmm(&script.then_reset()).spawn();
        machine.wait_for_output(paused);
        let before = machine.overhead();
        machine.type_in(b"\n");
        machine.wait_for_output(filled);
        assert!(machine.overhead() < before + (1 << 20), "{} {queue}", subject.name);
        machine.assert_event_loop_becomes_idle();
        machine.type_in(b"\n");
        let end = machine.finish().expect(0);
        assert_eq!(status.number(&end.stdout) & RUNNING, RUNNING);
        works.expect(&end.stdout, "filling on and on");
    }
}

/// M11: resets and starts in a row leave neither descriptors nor threads nor memory behind.
#[test]
fn resets_in_a_row_leave_nothing_behind() {
    const TIMES: u64 = 1000;
    let mut script = Script::new();
    let restart = |script: &mut Script| {
        for subject in SUBJECTS {
            place(script, &ring().contents());
            subject.start(script, 0, &ring());
            subject.kick(script);
        }
    };
    restart(&mut script);
    script.pause();
    let paused = script.results() - 1;
    script.repeat(TIMES, restart);
    script.pause();
    let restarted = script.results() - 1;
    let works = SUBJECTS.map(|subject| subject.works(&mut script));
    let everything = Everything::new();
    let mut machine = everything.vmm(&script.then_reset()).spawn();
    machine.wait_for_output(paused);
    let held = |pid| (process::open_files(pid), process::threads(pid));
    let (before, memory) = (held(machine.pid()), machine.overhead());
    machine.type_in(b"\n");
    machine.wait_for_output(restarted);
    assert_eq!(held(machine.pid()), before);
    assert!(machine.overhead() < memory + (1 << 20));
    machine.assert_event_loop_becomes_idle();
    machine.type_in(b"\n");
    let end = machine.finish().expect(0);
    works.iter().for_each(|works| works.expect(&end.stdout, "resets in a row"));
}

/// M10: a device that is started without any of its queues, and kicked, does nothing.
#[test]
fn device_without_queues_does_nothing() {
    on_every_device(
        |subject, script| {
            let contents = ring().contents().descriptors(0, &subject.request()).available(&[0]);
            place(script, &contents);
            subject.device.negotiate(script, F_VERSION_1);
            subject.device.driver_ok(script);
            (0..subject.queues).for_each(|queue| subject.device.kick(script, queue));
            subject.device.settle_briefly(script, &ring(), 1)
        },
        |subject, outcome, output| outcome.state(output).expect_returned(0, subject.name),
    );
}

/// N5: buffers for frames that no frame fits into, or that are not writable.
#[test]
fn buffers_that_take_no_frame_break_the_device() {
    let of = |what: &str, parts: &[Desc]| {
        let contents = ring().contents().descriptors(0, &chained(parts)).available(&[0]);
        (what.to_owned(), contents)
    };
    let cases = [
        of("11 bytes", &[Desc::writable(BUFFER, 11)]),
        of("11 single bytes", &[Desc::writable(BUFFER, 1); 8]),
        of("read-only", &[Desc::readable(BUFFER, 2048)]),
        of("partly read-only", &[Desc::readable(BUFFER, 1), Desc::writable(BUFFER, 2048)]),
    ];
    let receiving = Subject { queue: 0, ..NET };
    let mut script = Script::new();
    let performed = cases.map(|(what, contents)| {
        let case = Case::new(what, &contents, Broken);
        let outcome = case.perform(&receiving, &mut script);
        (case, outcome, NET.works(&mut script))
    });
    let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
    for (case, outcome, works) in performed {
        case.check(&receiving, &outcome, &end.stdout);
        works.expect(&end.stdout, &case.what);
    }
}

/// N11: commands to a network of two pairs of queues: what is no command is refused, and a flood of
/// them answered.
#[test]
fn commands_that_mean_nothing_are_refused_and_change_nothing() {
    const CTRL_VQ: u64 = 1 << 17;
    const MQ: u64 = 1 << 22;
    const QUEUE: u32 = 4;
    const ANSWER: u64 = BUFFER + 0x1000;
    /// The network is the first device of its machine.
    const FIRST: Subject = Subject { device: BLOCK.device, ..NET };
    let ring = Ring::at(RING, 64);
    let mut script = Script::new();
    let mut ask = |command: &[u8], parts: &[Desc], times: usize| -> (Outcome, Slot) {
        script.copy(BUFFER, command);
        script.fill(ANSWER, 8, u64::MAX);
        let heads = vec![0; times];
        place(&mut script, &ring.contents().descriptors(0, &chained(parts)).available(&heads));
        FIRST.device.start(&mut script, CTRL_VQ | MQ, (QUEUE, &ring));
        FIRST.device.kick(&mut script, QUEUE);
        let outcome = FIRST.device.settle(&mut script, &ring, times as u16);
        (outcome, script.read(Width::B1, ANSWER))
    };
    let answer = Desc::writable(ANSWER, 1);
    let command = |len| [Desc::readable(BUFFER, len), answer];
    // VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, and how many.
    let known = [[4, 0, 1, 0], [4, 0, 2, 0]].map(|bytes| ask(&bytes, &command(4), 1));
    let refused: Vec<_> = [
        ask(&[4, 0, 0, 0], &command(4), 1),
        ask(&[4, 0, 3, 0], &command(4), 1),
        ask(&[4, 0, 0xff, 0xff], &command(4), 1),
        ask(&[4, 1, 1, 0], &command(4), 1),
        ask(&[99, 0, 1, 0], &command(4), 1),
        ask(&[4], &command(1), 1),
        ask(&[4, 0, 1], &command(3), 1),
        ask(&[4, 0, 1, 0, 0], &command(5), 1),
        // A table of addresses of 16 MiB.
        ask(&[1, 0, 0xff, 0xff, 0xff, 0xff], &command(16 << 20), 1),
        ask(&[0; 8], &[answer], 1),
    ]
    .into();
    let flood = ask(&[99, 0, 1, 0], &command(4), 64);
    let silent = ask(&[4, 0, 1, 0], &[Desc::readable(BUFFER, 4)], 1);
    let again = ask(&[4, 0, 2, 0], &command(4), 1);
    let works = FIRST.works(&mut script);
    let vmm = Vmm::evil(&script.then_reset()).in_own_network();
    let end = vmm.args(["--net", "tap=vmm0,mac=02:00:00:00:00:02,queues=2"]).run().expect(0);
    let answers = |(outcome, answer): &(Outcome, Slot), count, expected| {
        outcome.state(&end.stdout).expect_returned(count, "a command");
        assert_eq!(answer.number(&end.stdout), expected, "{outcome:?}");
    };
    known.iter().chain([&again]).for_each(|asked| answers(asked, 1, 0));
    refused.iter().for_each(|asked| answers(asked, 1, 1));
    answers(&flood, 64, 1);
    silent.0.state(&end.stdout).expect_broken("no room for the answer");
    works.expect(&end.stdout, "commands");
}
