//! What a container consists of on the host, killed or told to end, with a real guest in it.
//! `tests/containers` does it more often, with guests that are played.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::failures::process_of;
use super::world::{World, command_line, eventually, finish, run, spawn};
use crate::guest::signal;
use crate::user_net::connect_host;

/// P1: monitor or passt of a container with a network, killed at any instant. The next one gets the same port.
#[test]
fn machine_or_network_killed_at_any_instant_leaves_nothing_alive() {
    connect_host();
    let world = World::new();
    let line = ["run", "--rm", "--name", "one", "--network", "user", "-p", "127.0.0.1:8477:80"];
    let line = [&line[..], &["busybox", "sleep", "1000"]].concat();
    for round in 0..6_u64 {
        let client = spawn(&mut world.vmm(&line), Stdio::null());
        let monitor = process_of(&world, "monitor");
        std::thread::sleep(Duration::from_millis((round / 2) * 500));
        let is_passt = |pid: &u32| command_line(*pid).contains("--foreground");
        let passt = world.processes().into_iter().find(is_passt);
        match passt.filter(|_| round % 2 == 1) {
            Some(passt) => signal(passt, "KILL"),
            None => signal(monitor, "KILL"),
        }
        // Without its network the container goes on, as one whose cable was pulled.
        if round % 2 == 1 {
            eventually("it is removed", || {
                world.run(&["rm", "-f", "one"]);
                world.names(true).is_empty()
            });
        }
        let ran = finish(client);
        assert!([125, 137].contains(&ran.status), "{}", ran.err());
        world.wait_for_quiet();
        assert_eq!(world.names(true), [""; 0]);
        assert_eq!(world.left().len(), 0, "{:?}", world.left());
    }
    let tables =
        run(Command::new("sh").args(["-c", "cat /proc/net/dev /proc/net/tcp"]), b"").success();
    assert!(!tables.contains("vmm") && !tables.contains(":211D"), "{tables}");
}

/// The container of a pipe ends with the reader of the pipe.
#[test]
fn container_ends_with_the_reader_of_its_output() {
    let world = World::new();
    let line = ["run", "--rm", "--network", "none", "busybox", "yes"];
    let mut client = spawn(&mut world.vmm(&line), Stdio::null());
    let mut output = client.stdout.take().expect("piped");
    output.read_exact(&mut [0; 2]).expect("output");
    drop(output);
    let ran = finish(client);
    assert_eq!((ran.status, ran.err()), (141, String::new()));
    assert_eq!(world.names(true), [""; 0]);
    assert_eq!(world.left().len(), 0, "{:?}", world.left());
    world.wait_for_quiet();
}

/// A keeper that is told to end, as all processes are when the host shuts down, stops its container in order.
#[test]
fn keeper_that_is_told_to_end_stops_the_container_in_order() {
    let world = World::new();
    let script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    world.start("one", script);
    eventually("the trap is set", || world.ok(&["logs", "one"]).contains("ready"));
    signal(process_of(&world, "keep"), "TERM");
    assert_eq!(world.ok(&["wait", "one"]), "3");
    world.wait_for_quiet();
    assert!(world.ok(&["ps", "-a"]).contains("Exited (3)"), "{}", world.ok(&["ps", "-a"]));
    assert_eq!(world.ok(&["logs", "one"]), "ready\nbye");
    world.ok(&["rm", "one"]);
    assert_eq!(world.left().len(), 0, "{:?}", world.left());
}
