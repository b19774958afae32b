//! What containers print, kept: `vmm logs`.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use super::world::{World, eventually, finish, spawn};

#[test]
fn log_has_both_streams_apart_and_survives_the_end() {
    let world = World::new();
    let both = world.run(&[
        "run",
        "--network",
        "none",
        "--name",
        "one",
        "busybox",
        "sh",
        "-c",
        "echo out; echo err >&2; printf 'a\\0b\\377'",
    ]);
    assert_eq!(both.stdout, b"out\na\0b\xff");
    let logged = world.run(&["logs", "one"]);
    assert_eq!((logged.stdout, logged.stderr), (both.stdout, both.stderr));
}

#[test]
fn parts_of_a_log_are_found_by_line_and_by_time() {
    let world = World::new();
    world.start("one", "echo one; echo two; sleep 2; echo three; echo four; sleep 1000");
    eventually("all is printed", || world.ok(&["logs", "one"]).contains("four"));
    assert_eq!(world.ok(&["logs", "one"]), "one\ntwo\nthree\nfour");
    assert_eq!(world.ok(&["logs", "--tail", "3", "one"]), "two\nthree\nfour");
    assert_eq!(world.ok(&["logs", "--tail", "0", "one"]), "");
    assert_eq!(world.ok(&["logs", "-n", "all", "one"]), "one\ntwo\nthree\nfour");
    let timed = world.ok(&["logs", "--timestamps", "one"]);
    let times: Vec<_> = timed.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(
        times.iter().map(|(_, text)| *text).collect::<Vec<_>>(),
        ["one", "two", "three", "four"]
    );
    // What was printed at once has one time.
    assert!(
        times.is_sorted_by_key(|(time, _)| *time)
            && times[0].0.starts_with("20")
            && times[0].0.ends_with('Z'),
        "{timed}"
    );
    // A time that was printed is understood.
    assert_eq!(world.ok(&["logs", "--since", times[2].0, "one"]), "three\nfour");
    assert_eq!(world.ok(&["logs", "--until", times[1].0, "one"]), "one\ntwo");
    assert_eq!(world.ok(&["logs", "--since", "1h", "one"]).lines().count(), 4);
}

#[test]
fn log_is_followed_to_the_end_of_the_container() {
    let world = World::new();
    world.start("one", "echo begin; read x < /tmp/go 2> /dev/null; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo end");
    let follower = spawn(&mut world.vmm(&["logs", "-f", "one"]), Stdio::null());
    thread::sleep(Duration::from_millis(500));
    world.ok(&["exec", "one", "touch", "/tmp/go"]);
    assert_eq!(finish(follower).success(), "begin\nend\n");
    // Of what has ended, there is nothing more to come.
    assert_eq!(world.ok(&["logs", "-f", "--tail", "1", "one"]), "end");
}

/// What was printed is there for a reader that takes its time, also when the container has long ended.
#[test]
fn slow_reader_gets_all_that_was_printed() {
    let world = World::new();
    let line = ["run", "--rm", "--network", "none", "busybox", "seq", "80000"];
    let client = spawn(&mut world.vmm(&line), Stdio::null());
    eventually("it has ended", || world.names(true).is_empty());
    thread::sleep(Duration::from_secs(8));
    let text = finish(client).success();
    assert_eq!((text.len(), text.lines().last()), (468_894, Some("80000")));
    world.wait_for_quiet();
}

#[test]
fn last_line_is_whole_when_it_was_printed_in_pieces() {
    let world = World::new();
    world.start(
        "one",
        "echo one; printf t; sleep 0.5; echo wo; printf th; sleep 0.5; echo ree; sleep 1000",
    );
    eventually("all is printed", || world.ok(&["logs", "one"]).contains("three"));
    assert_eq!(world.ok(&["logs", "--tail", "2", "one"]), "two\nthree");
}
