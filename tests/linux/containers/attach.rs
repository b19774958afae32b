//! Coming and going: attach, detach keys, `exec` on terminals.

use std::io::Write;
use std::process::{Command, Stdio};

use super::pty::Pty;
use super::world::{World, eventually, finish, spawn, until};

#[test]
fn keys_leave_a_container_that_can_be_attached_to_again() {
    let world = World::new();
    let line = ["run", "-it", "--network", "none", "--name", "one", "busybox", "sh"];
    let mut first = Pty::start(&world.vmm(&line), 24, 80);
    first.until("# ");
    first.type_in(b"x=kept\n");
    first.until("# ");
    first.type_in(b"\x10\x11");
    let (rest, status) = first.finish();
    assert_eq!(status, 0, "{rest}");
    assert_eq!(world.names(false), ["one"]);

    let mut second =
        Pty::start(&world.vmm(&["attach", "--detach-keys", "ctrl-x,q", "one"]), 30, 90);
    second.type_in(b"echo $x; stty size\n");
    assert!(second.until("30 90\n").contains("kept\n"));
    second.type_in(b"\x18q");
    assert_eq!(second.finish().1, 0);

    let mut third = Pty::start(&world.vmm(&["attach", "one"]), 24, 80);
    third.type_in(b"exit 9\n");
    let (rest, status) = third.finish();
    assert_eq!(status, 9, "{rest}");
    assert_eq!(world.ok(&["wait", "one"]), "9");
}

#[test]
fn all_who_attach_see_the_output_and_learn_the_end() {
    let world = World::new();
    world.ok(&[
        "run",
        "-d",
        "-i",
        "--network",
        "none",
        "--name",
        "one",
        "busybox",
        "sh",
        "-c",
        "read x; echo got $x; exit 6",
    ]);
    let watcher = spawn(&mut world.vmm(&["attach", "--no-stdin", "one"]), Stdio::null());
    eventually("the watcher is there", || world.processes().len() > 2);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut typist = spawn(&mut world.vmm(&["attach", "one"]), Stdio::piped());
    typist.stdin.take().expect("piped").write_all(b"word\n").expect("typed");
    let (typist, watcher) = (finish(typist), finish(watcher));
    assert_eq!((typist.status, typist.out()), (6, "got word\n".to_owned()));
    assert_eq!((watcher.status, watcher.out()), (6, "got word\n".to_owned()));
}

/// docker's rule: a signal to the client is the container's.
#[test]
fn signals_to_the_client_are_passed_on() {
    let world = World::new();
    let script = "trap 'echo term; exit 8' TERM; echo ready; while :; do sleep 0.1; done";
    let line = ["run", "--rm", "--network", "none", "busybox", "sh", "-c", script];
    let mut client = spawn(&mut world.vmm(&line), Stdio::null());
    until(client.stdout.as_mut().expect("piped"), "ready\n");
    crate::guest::signal(client.id(), "TERM");
    let ran = finish(client);
    assert_eq!((ran.status, ran.out().trim()), (8, "term"));
}

#[test]
fn process_of_exec_ends_with_its_client_and_the_container_goes_on() {
    let world = World::new();
    world.start("one", "sleep 1000");
    let line = ["exec", "one", "sh", "-c", "echo ready; sleep 555; echo never"];
    let mut client = spawn(&mut world.vmm(&line), Stdio::null());
    until(client.stdout.as_mut().expect("piped"), "ready\n");
    client.kill().expect("kill");
    client.wait().expect("wait");
    eventually("the process is gone", || !world.ok(&["top", "one"]).contains("sleep 555"));
    assert_eq!(world.names(false), ["one"]);
    world.ok(&["kill", "one"]);
    let refused = world.run(&["exec", "one", "true"]);
    assert_eq!(refused.status, 125, "{}", refused.err());
    assert!(refused.err().contains("does not run"), "{}", refused.err());
}

/// `run -d` leaves nothing on the terminal that its hang-up could end; a shell that was on it can be attached to again.
#[test]
fn containers_outlive_the_terminal_they_were_started_from() {
    let world = World::new();
    let script =
        "vmm run -d --network none --name quiet busybox sleep 1000; echo started; sleep 1000";
    let mut window = Command::new("sh");
    world.enter(window.args(["-c", script]));
    let mut window = Pty::start(&window, 24, 80);
    window.until("started\n");
    let line = ["run", "-it", "--network", "none", "--name", "shell", "busybox", "sh"];
    let mut shell = Pty::start(&world.vmm(&line), 24, 80);
    shell.type_in(b"x=kept; echo rea''dy\n");
    shell.until("ready\n");
    assert_eq!(window.hang_up(), 129);
    assert_eq!(shell.hang_up(), 0);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(world.names(false), ["shell", "quiet"]);
    assert_eq!(world.ok(&["exec", "quiet", "echo", "alive"]), "alive");
    let mut again = Pty::start(&world.vmm(&["attach", "shell"]), 24, 80);
    again.type_in(b"echo $x; exit 5\n");
    let (rest, status) = again.finish();
    assert!(rest.contains("kept\n") && status == 5, "{status} {rest}");
}
