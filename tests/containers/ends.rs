//! Ends that somebody else brings about: a reader that is gone, a keeper that is told to end, a clearing up.

use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::support::process;
use super::world::{World, eventually, finish, signal};
use vmm_image::platform::Platform;

/// Nothing of a container goes on unnoticed when the reader of its output is gone: `vmm run ... | head -1`.
#[test]
fn container_whose_output_nobody_reads_any_more_is_ended() {
    let world = World::new();
    for flags in [&["--rm", "--name", "one"][..], &["--name", "one"]] {
        let mut client = world.vmm(&World::line(flags, &["yes"])).spawn().unwrap();
        let mut output = client.stdout.take().unwrap();
        output.read_exact(&mut [0; 2]).unwrap();
        drop(output);
        let ran = finish(client);
        assert_eq!((ran.status, ran.err.as_str()), (141, ""), "{flags:?}");
        if flags.contains(&"--rm") {
            assert_eq!(world.ok(&["ps", "-aq"]), "");
        } else {
            assert_eq!(world.ok(&["wait", "one"]), "137");
            world.ok(&["rm", "one"]);
        }
        world.assert_clean();
    }
}

/// Nor when what it prints has no room.
#[test]
fn container_whose_output_has_no_room_is_ended() {
    let world = World::new();
    let mut command = world.vmm(&World::line(&["--rm"], &["yes"]));
    command.stdout(std::fs::File::create("/dev/full").unwrap());
    let ran = finish(command.spawn().unwrap());
    assert_eq!(ran.status, 125, "{ran:?}");
    assert!(ran.err.contains("write to standard output: No space left"), "{ran:?}");
    world.assert_clean();
}

/// Other commands end with their reader as well, by what ends programs in a pipe.
#[test]
fn commands_end_when_nobody_reads_them_any_more() {
    let world = World::new();
    world.start("one", &[], &["yes"]);
    let lines: [&[&str]; 5] =
        [&["stats"], &["stats", "--format", "json"], &["logs", "-f", "one"], &["ps"], &["images"]];
    for line in lines {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = finish(world.vmm(line).stdout(writer).spawn().unwrap());
        assert_eq!((ran.status, ran.err.as_str()), (141, ""), "{line:?}");
    }
    let soon = std::time::SystemTime::now() + Duration::from_secs(1);
    let soon = humantime::format_rfc3339(soon).to_string();
    assert!(world.ok(&["logs", "-f", "--tail", "1", "--until", &soon, "one"]).starts_with('y'));
    world.ok(&["rm", "-f", "one"]);
    world.assert_clean();
}

/// Whoever only looks on leaves the container alone.
#[test]
fn container_survives_the_reader_of_an_attached_command() {
    let world = World::new();
    world.start("one", &[], &["yes"]);
    let mut client = world.vmm(&["attach", "one"]).spawn().unwrap();
    let mut output = client.stdout.take().unwrap();
    output.read_exact(&mut [0; 2]).unwrap();
    drop(output);
    let ran = finish(client);
    assert_eq!((ran.status, ran.err.as_str()), (141, ""));
    assert!(world.ok(&["ps"]).contains("Up "));
    world.ok(&["rm", "-f", "one"]);
    world.assert_clean();
}

/// A keeper that is told to end, as by the host's shutdown, ends its container as `vmm stop` does and notes
/// how that ended.
#[test]
fn keeper_that_is_told_to_end_stops_its_container_and_notes_the_end() {
    let world = World::new();
    for (what, code, least) in [("polite", "143", 0), ("deaf", "137", 1), ("hang", "137", 6)] {
        world.start("one", &["--stop-timeout", "1"], &[what]);
        let begin = Instant::now();
        signal(world.process_of("keep"), "TERM");
        assert_eq!(world.ok(&["wait", "one"]), code, "{what}");
        assert!(begin.elapsed() >= Duration::from_secs(least), "{what}: {:?}", begin.elapsed());
        eventually("the keeper ends", || world.processes().is_empty());
        let listed = world.ok(&["ps", "-a"]);
        assert!(listed.contains(&format!("Exited ({code})")), "{listed}");
        world.ok(&["rm", "one"]);
        world.assert_clean();
    }
}

/// Told twice, it does not wait.
#[test]
fn keeper_that_is_told_again_to_end_does_not_wait() {
    let world = World::new();
    world.start("one", &["--stop-timeout", "1000"], &["hang"]);
    let keeper = world.process_of("keep");
    let waiting = world.vmm(&["wait", "one"]).spawn().unwrap();
    for _ in 0..3 {
        signal(keeper, "TERM");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(finish(waiting).out, "137\n");
    world.ok(&["rm", "one"]);
    world.assert_clean();
}

/// V12: half a million messages that mean nothing and 50 MB of output leave the keeper as small as it was, and the
/// log within its bound.
#[test]
fn flood_of_an_agent_grows_neither_keeper_nor_log() {
    const SMALL: u64 = 32 << 20;
    const LOG: u64 = 17 << 20;
    let world = World::new();
    world.start("one", &[], &["flood"]);
    let keeper = world.process_of("keep");
    let place = world.path("data/containers").join(&world.ids()[0]);
    let mut before = Duration::ZERO;
    eventually("the flood is over", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = process::cpu_time(keeper);
        std::mem::replace(&mut before, now) == now && place.join("log.old").exists()
    });
    let status = std::fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak * 1024 < SMALL, "{peak} KiB");
    let log =
        ["log", "log.old"].map(|name| place.join(name).metadata().map_or(0, |file| file.len()));
    assert!(log.iter().sum::<u64>() > LOG / 2 && log.iter().sum::<u64>() < LOG, "{log:?}");
    world.ok(&["kill", "one"]);
    assert_eq!(world.ok(&["wait", "one"]), "137", "{}", world.ok(&["inspect", "one"]));
    world.ok(&["rm", "one"]);
    world.assert_clean();
}

/// As docker has it, `system prune` removes the containers that have ended as well, and then their images.
#[test]
fn prune_removes_containers_that_have_ended_and_spares_the_others() {
    let world = World::new();
    world.start("runs", &[], &["polite"]);
    for name in ["one", "two"] {
        assert_eq!(world.run(&World::line(&["--name", name], &["exit", "1"])).status, 1);
    }
    let id = world.ok(&["inspect", "one"]);
    let id = id.split('"').find(|word| word.len() == 64).unwrap();
    let asked = world.run(&["system", "prune"]);
    assert!(asked.err.contains("all containers that have ended"), "{asked:?}");
    assert_eq!(world.ok(&["ps", "-aq"]).lines().count(), 3, "nobody has agreed");
    let removed = world.ok(&["system", "prune", "-f"]);
    assert!(removed.contains(&format!("deleted: {id}\n")), "{removed}");
    assert_eq!(removed.matches("deleted: ").count(), 2, "{removed}");
    assert_eq!(world.ok(&["ps", "-aq"]).lines().count(), 1);
    let all = world.ok(&["system", "prune", "-af"]);
    assert!(!all.contains("deleted: "), "the image of what runs: {all}");
    assert_eq!(world.ok(&["images", "-q"]).lines().count(), 1);
    world.ok(&["rm", "-f", "runs"]);
    assert!(world.ok(&["system", "prune", "-af"]).starts_with("deleted: sha256:"));
    world.assert_clean();
}

/// A name that means an image for another platform is looked up again for the one asked for.
#[test]
fn image_for_another_platform_is_not_taken_for_the_one_asked_for() {
    let world = World::new();
    let registry = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/app:1", registry.local_addr().unwrap());
    world.ok(&["system", "df"]);
    let layout = super::support::layout::place("v2");
    let mut pull = world.vmm(&["pull", "-q", "oci:images", "--name", &name]);
    assert_eq!(finish(pull.current_dir(layout.path()).spawn().unwrap()).status, 0);
    let run = |flags: &[&str]| {
        let all = [&["run", "--rm", "--network", "none"], flags, &[&name, "exit"]].concat();
        world.vmm(&all).spawn().unwrap()
    };
    let (host, other) = (Platform::host().to_string(), format!("linux/{}", other_architecture()));
    // For this one it is here.
    assert_eq!(finish(run(&["--platform", &host])).status, 0);
    let never = finish(run(&["--platform", &other, "--pull", "never"]));
    assert!(never.err.contains(&format!("is for {host}, not for {other}")), "{never:?}");
    assert_eq!(never.status, 125);
    // For another one the registry is asked.
    let client = run(&["--platform", &other]);
    let (socket, _) = registry.accept().unwrap();
    drop((socket, registry));
    let ran = finish(client);
    assert!(ran.status == 125 && ran.err.contains(&name), "{ran:?}");
    world.assert_clean();
}

/// An architecture that this machine is not of, in the words of images.
fn other_architecture() -> &'static str {
    if Platform::host().architecture == "arm64" { "amd64" } else { "arm64" }
}

/// It may be in the store, for others to fetch; run it is not.
#[test]
fn image_of_another_architecture_is_refused_with_both_platforms() {
    let world = World::new();
    let (host, other) = (Platform::host().to_string(), format!("linux/{}", other_architecture()));
    let layout = super::support::layout::place_for("v3", other_architecture());
    let mut pull = world.vmm(&["pull", "-q", "--platform", &other, "oci:images", "--name", "app"]);
    assert_eq!(finish(pull.current_dir(layout.path()).spawn().unwrap()).status, 0);
    let line = ["run", "--rm", "--network", "none"];
    for flags in [&[][..], &["--platform", &other, "--pull", "never"]] {
        let refused = world.run(&[&line, flags, &["app", "exit"]].concat());
        assert_eq!(refused.status, 125, "{refused:?}");
        let told = format!("vmm: image app is for {other}, this machine runs images for {host}\n");
        assert!(refused.err.starts_with(&told), "{refused:?}");
    }
    // A file or directory is looked at anew, and has none for this machine.
    let mut run = world.vmm(&[&line[..], &["oci:images", "exit"]].concat());
    let refused = finish(run.current_dir(layout.path()).spawn().unwrap());
    assert_eq!(refused.status, 125, "{refused:?}");
    assert!(refused.err.contains(&host) && refused.err.contains(&other), "{refused:?}");
    world.assert_clean();
}
