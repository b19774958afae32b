//! A keeper whose guest is not what it says: a thread plays the agent, and a shell the monitor.

mod play;

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vmm_protocol::{Exit, INITIAL_CREDIT, Notice, Refusal, Reply, Stats, Status, VERSION};

use super::super::talk::{Ask, Ended, Phase, Tell};
use super::guest::Patience;
use play::{Agent, CONSOLE, Visit, hello, ready, say, serve, serve_unvisited, start, started};

/// What a guest may take where it is not to be late.
const LONG: Duration = Duration::from_secs(20);
/// What one may take that is.
const SHORT: Duration = Duration::from_millis(700);

fn patience(limit: Duration) -> Patience {
    Patience { boot: limit, agent: limit, end: SHORT }
}

/// What a fake agent does.
type Act = fn(&Agent);

/// Whoever is silent in a phase, or hardly says anything, is waited for so long, and told by it.
#[track_caller]
fn assert_late(act: Act, phase: Phase, cause: &str) {
    let begin = Instant::now();
    assert_told(&start(patience(SHORT), act), phase, cause);
    assert!(begin.elapsed() < LONG, "{cause}: {:?}", begin.elapsed());
}

/// Whoever makes no sense is not waited for.
#[track_caller]
fn assert_refused(act: Act, phase: Phase, cause: &str) {
    let begin = Instant::now();
    assert_told(&start(patience(LONG), act), phase, cause);
    assert!(begin.elapsed() < LONG / 2, "{cause}: {:?}", begin.elapsed());
}

#[track_caller]
fn assert_told(ended: &Ended, phase: Phase, cause: &str) {
    let failure = ended.error.as_ref().unwrap_or_else(|| panic!("{cause}: {ended:?}"));
    assert_eq!((ended.code, failure.phase), (125, phase), "{failure:?}");
    assert!(failure.cause.contains(cause), "{cause}: {failure:?}");
    assert_eq!(failure.cause.lines().count(), 1, "{failure:?}");
    assert_eq!(failure.details, [CONSOLE], "{cause}");
}

/// V12: silence in each phase of the start.
#[test]
fn silence_in_any_phase_is_told_with_the_phase_and_the_console() {
    let silent: [(Act, Phase, &str); 6] = [
        (|_| {}, Phase::Boot, "the agent did not come up within"),
        (|agent| agent.hold(&agent.connect()), Phase::Agent, "the agent did not say hello within"),
        (|agent| agent.hold(&agent.greet()), Phase::Agent, "the agent prepared nothing within"),
        (
            |agent| {
                let _control = agent.prepare();
                agent.hold(&agent.accept());
            },
            Phase::Exec,
            "the agent did not answer within",
        ),
        (
            |agent| {
                let _control = agent.prepare();
                agent.hold(&agent.answer());
            },
            Phase::Exec,
            "the agent started nothing within",
        ),
        (
            |agent| {
                // A byte of a message that never ends, again and again.
                let mut control = agent.connect();
                let _ = control.write_all(&[1, 0, 0, 1, 0]);
                while control.write_all(b" ").is_ok() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            },
            Phase::Agent,
            "the agent did not say hello within",
        ),
    ];
    for (act, phase, cause) in silent {
        assert_late(act, phase, cause);
    }
}

/// V12: an agent of another version, and what is no agent at all: frames that cannot be, cut off, or in an
/// order that makes no sense.
#[test]
fn whoever_is_no_agent_is_refused_at_once() {
    let bad: [(Act, &str); 11] = [
        (|agent| drop(agent.connect()), "hear the agent: "),
        (|agent| agent.open_with(&say(&hello(VERSION + 1))), "version 2 of the protocol, not 1"),
        (|agent| agent.open_with(&say(&ready())), "did not begin with a hello"),
        (|agent| agent.open_with(&[1, 255, 255, 255, 255]), "frame of 4294967295 bytes"),
        (|agent| agent.open_with(&[3, 1, 0, 1, 0]), "frame of 65537 bytes"),
        (|agent| agent.open_with(&[1, 0, 0, 0, 0]), "frame of 0 bytes"),
        (|agent| agent.open_with(&[9, 1, 0, 0, 0, 0]), "unknown frame kind 9"),
        (|agent| agent.open_with(&[1, 2, 0, 0, 0, b'{', b'}']), "makes no sense"),
        (|agent| agent.open_with(&[3, 1, 0, 0, 0, b'x']), "in place of a message"),
        (|agent| agent.go_on_with(&[say(&ready()), vec![9; 9]].concat()[..3]), "hear the agent: "),
        (|agent| agent.go_on_with(&say(&hello(VERSION))), "spoke out of turn"),
    ];
    for (act, cause) in bad {
        assert_refused(act, Phase::Agent, cause);
    }
    assert_refused(
        |agent| {
            let what = "a\nb\u{1b}[2J".to_owned();
            agent.go_on_with(&say(&Notice::Failed { what }));
        },
        Phase::Agent,
        "a",
    );
}

/// V12.
#[test]
fn whoever_makes_no_sense_when_the_process_is_to_start_is_refused_at_once() {
    let bad: [(Act, &str); 6] = [
        (|agent| drop((agent.prepare(), agent.accept())), "connect to the agent: "),
        (|agent| agent.answer_with(b"NO\n"), "connect to the agent: "),
        (|agent| agent.answer_with(&[b'x'; 1000]), "connect to the agent: "),
        (|agent| agent.reply_with(&say(&exited(0))), "spoke out of turn"),
        (|agent| agent.reply_with(&say(&Reply::Credit(1))), "spoke out of turn"),
        (|agent| agent.reply_with(&[4, 1, 0, 0, 0, b'x']), "in place of a message"),
    ];
    for (act, cause) in bad {
        assert_refused(act, Phase::Exec, cause);
    }
    let refused = start(patience(LONG), |agent| {
        let what = "no\u{1b}such".to_owned();
        agent.reply_with(&say(&Reply::Refused { kind: Refusal::NotFound, what }));
    });
    assert_eq!(refused.code, 127);
    assert!(!refused.error.expect("told").cause.contains('\u{1b}'));
}

/// V12: a million messages where one is expected are not read.
#[test]
fn million_messages_before_the_start_cost_one() {
    let flood: Act = |agent| {
        let tiny = say(&Notice::OomKilled { count: 1 }).repeat(1000);
        let mut control = agent.greet();
        let sent = (0..1000).take_while(|_| control.write_all(&tiny).is_ok()).count();
        assert!(sent < 100, "{sent} thousand messages were taken");
    };
    assert_refused(flood, Phase::Agent, "spoke out of turn");
}

/// V12: whoever connects as a second agent is heard by nobody.
#[test]
fn second_agent_is_not_heard() {
    let ended = serve_unvisited(|agent, _control, mut session| {
        let second = UnixStream::connect(agent.control_path());
        let heard = second.and_then(|mut second| {
            second.write_all(&say(&hello(VERSION)))?;
            std::io::Read::read(&mut second, &mut [0])
        });
        assert!(heard.is_err(), "{heard:?}");
        let _ = session.write_all(&say(&exited(3)));
        agent.hold(&session);
    });
    assert_eq!(ended, Ended::with(3, false));
}

fn exited(code: u8) -> Reply {
    Reply::Exited(Exit { status: Status::Code(code), oom: false, uptime_us: 0 })
}

/// V12: nonsense while the process runs.
#[test]
fn nonsense_while_the_process_runs_ends_it_and_is_told() {
    let in_session: [(Vec<u8>, &str); 6] = [
        (vec![9, 1, 0, 0, 0, 0], "the agent makes no sense: unknown frame kind 9"),
        (vec![1, 255, 255, 255, 127], "the agent makes no sense: frame of 2147483647 bytes"),
        (vec![2, 1, 0, 0, 0, 0], "the agent makes no sense: "),
        (say(&started()), "the agent makes no sense: "),
        (say(&Reply::Copied), "the agent makes no sense: "),
        (vec![1, 9, 0, 0], "the agent fell silent: "),
    ];
    for (bytes, cause) in in_session {
        let ended = serve_unvisited(|agent, _control, mut session| {
            let _ = session.write_all(&bytes);
            let _ = session.shutdown(Shutdown::Write);
            agent.hold(&session);
        });
        assert_told(&ended, Phase::Run, cause);
    }
    let in_control: [(Vec<u8>, &str); 4] = [
        (say(&Notice::Stats(Stats::default())), "the agent makes no sense: "),
        (say(&Notice::Processes(vec![])), "the agent makes no sense: "),
        (say(&hello(VERSION)), "the agent makes no sense: "),
        (vec![], "the agent fell silent: "),
    ];
    for (bytes, cause) in in_control {
        let ended = serve_unvisited(|agent, mut control, session| {
            let _ = control.write_all(&bytes);
            let _ = control.shutdown(Shutdown::Write);
            agent.hold(&session);
        });
        assert_told(&ended, Phase::Run, cause);
    }
}

/// V12: a million messages that mean nothing, on both connections, hold up nothing.
#[test]
fn million_tiny_messages_hold_up_nothing() {
    let begin = Instant::now();
    let ended = serve_unvisited(|agent, mut control, mut session| {
        let credit = say(&Reply::Credit(u32::MAX)).repeat(1000);
        let oom = say(&Notice::OomKilled { count: u64::MAX }).repeat(1000);
        for _ in 0..500 {
            control.write_all(&oom).expect("taken");
            session.write_all(&credit).expect("taken");
        }
        let _ = session.write_all(&say(&exited(4)));
        agent.hold(&session);
    });
    assert_eq!(ended, Ended::with(4, false));
    assert!(begin.elapsed() < 3 * LONG, "{:?}", begin.elapsed());
}

/// V12: an end that never comes to its end is none; whoever wants the container gone is heard.
#[test]
fn exit_that_never_ends_is_ended_by_its_user() {
    let ended = serve(
        |mut visit: Visit| {
            visit.wait_until_started();
            std::thread::sleep(SHORT);
            visit.ask(&Ask::Destroy);
            visit.wait_for_end();
        },
        |agent| {
            let (_control, mut session) = agent.begin();
            let mut frame = say(&exited(0));
            frame.splice(1..5, 200_000_u32.to_le_bytes());
            let _ = session.write_all(&frame);
            while session.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        },
    );
    assert_eq!(ended, Ended::with(137, false));
}

/// V12: the first end counts, whatever comes behind it; a guest that does not power off is ended.
#[test]
fn first_exit_counts_and_nothing_behind_it_is_heard() {
    let ended = serve_unvisited(|_agent, _control, mut session| {
        let _ = session.write_all(&[say(&exited(7)), say(&exited(8))].concat());
        while session.write_all(&[9; 4096]).is_ok() {}
    });
    assert_eq!(ended, Ended::with(7, false));
}

/// A process that ends has its status heard, also when there is input that it did not take.
#[test]
fn end_is_heard_behind_input_that_nobody_takes_any_more() {
    for _ in 0..20 {
        let ended = serve(
            |mut visit: Visit| {
                visit.wait_until_started();
                visit.send_input(1 << 20, SHORT / 10);
            },
            |agent| {
                let (_control, mut session) = agent.begin();
                let _ = session.write_all(&say(&Reply::Credit(u32::MAX)));
                std::thread::sleep(SHORT / 100);
                let _ = session.write_all(&say(&exited(5)));
            },
        );
        assert_eq!(ended, Ended::with(5, false));
    }
}

/// What a command had sent before it was killed is the container's, and so is the end of its input, whatever the
/// container prints meanwhile.
#[test]
fn input_of_a_killed_command_is_taken_to_its_end() {
    for _ in 0..20 {
        let ended = serve(
            |mut visit: Visit| {
                visit.wait_until_started();
                visit.send_input(1, SHORT / 700);
            },
            |agent| {
                let (_control, mut session) = agent.begin();
                let taken = agent.take_input_while_printing(&mut session);
                assert_eq!(u32::try_from(taken), Ok(INITIAL_CREDIT));
                let _ = session.write_all(&say(&exited(6)));
                agent.hold(&session);
            },
        );
        assert_eq!(ended, Ended::with(6, false));
    }
}

/// V12: a guest that gives credit without end and takes nothing has little kept for it.
#[test]
fn input_for_a_guest_that_does_not_read_stays_with_its_sender() {
    let ended = serve(
        |mut visit: Visit| {
            visit.wait_until_started();
            let sent = visit.send_input(16 << 20, SHORT);
            assert!(sent < 2 << 20, "{sent} bytes were taken");
            visit.ask(&Ask::Destroy);
            visit.wait_for_end();
        },
        |agent| {
            let (_control, mut session) = agent.begin();
            let _ = session.write_all(&say(&Reply::Credit(u32::MAX)));
            // Nothing is read as long as the connection stands.
            agent.wait_for_hangup(&session);
        },
    );
    assert_eq!(ended.code, 137);
}

/// V12: a command that stops reading holds up its container, and nothing is kept for it beyond a bound.
#[test]
fn output_for_a_command_that_does_not_read_stays_in_the_guest() {
    let (sent, count) = std::sync::mpsc::channel();
    let ended = serve(
        move |visit: Visit| {
            let taken: usize = count.recv().expect("counted");
            assert!(taken < 4 << 20, "{taken} bytes were taken");
            visit.ask(&Ask::Destroy);
            std::thread::sleep(SHORT);
        },
        move |agent| {
            let (_control, session) = agent.begin();
            sent.send(agent.send_output(&session, 64 << 20, SHORT)).expect("heard");
            agent.wait_for_hangup(&session);
        },
    );
    assert_eq!(ended.code, 137);
}

/// Whoever asks what the guest does not answer is not answered, and the next one is.
#[test]
fn answers_go_to_those_who_asked() {
    let ended = serve(
        |mut visit: Visit| {
            visit.wait_until_started();
            visit.ask(&Ask::Stats);
            visit.ask(&Ask::Processes);
            assert!(matches!(visit.hear(), Tell::Stats(_)));
            assert!(matches!(visit.hear(), Tell::Processes(_)));
            visit.wait_for_end();
        },
        |agent| {
            let (mut control, mut session) = agent.begin();
            agent.read_frames(&control, 2);
            let answers = [say(&Notice::Stats(Stats::default())), say(&Notice::Processes(vec![]))];
            let _ = control.write_all(&answers.concat());
            std::thread::sleep(SHORT);
            let _ = session.write_all(&say(&exited(0)));
            agent.hold(&session);
        },
    );
    assert_eq!((ended.code, ended.error), (0, None));
}
