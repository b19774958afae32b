//! What a container consists of on the host, killed at any instant: nothing is left that the next command does
//! not clear up.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::world::{World, command_line, eventually, finish, signal};

/// Kills of each kind of process.
const KILLS: usize = 45;
/// Starts until then; some end before they are killed.
const STARTS: usize = 4 * KILLS;

/// Instants spread over a time, none of them twice.
struct Instants {
    number: f64,
    longest: Duration,
}

impl Instants {
    /// Instants of the life of a container in this world.
    fn new(world: &World) -> Self {
        let life = |_| {
            let begin = Instant::now();
            world.ok(&World::line(&["--rm"], &["exit", "0"]));
            begin.elapsed()
        };
        Self { number: 0.0, longest: (0..3).map(life).min().unwrap() }
    }

    /// Waits for the next instant, or the end of `client`.
    fn wait(&mut self, client: &mut Child) {
        // Multiples of the golden ratio are spread evenly, however many there are.
        self.number = (self.number + 0.618_033_988_749_895).fract();
        let instant = Instant::now() + self.longest.mul_f64(self.number);
        while Instant::now() < instant && client.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1));
        }
    }
}

/// Runs containers, every second of which is to be removed at its end, and has `kill` kill something of each
/// at an instant. Looks behind each that nothing is left.
fn kill_often(kill: impl Fn(&World, &mut Child) -> bool) {
    let world = World::new();
    let mut instants = Instants::new(&world);
    let mut killed = 0;
    for round in 0..STARTS {
        if killed >= KILLS {
            break;
        }
        let mut flags = vec!["--name", "one"];
        flags.extend(round.is_multiple_of(2).then_some("--rm"));
        // In a control group, where this host allows that.
        flags.extend(round.is_multiple_of(3).then_some("--cpus=0.5"));
        let mut client = world.vmm(&World::line(&flags, &["exit", "3"])).spawn().unwrap();
        instants.wait(&mut client);
        let ids = world.ids();
        killed += usize::from(kill(&world, &mut client));
        let ran = finish(client);
        assert!([0, 3, 125, 137].contains(&ran.status), "{ran:?}");
        reconcile(&world, round);
        for group in ["", "cpu/", "cpu,cpuacct/"].map(|part| format!("/sys/fs/cgroup/{part}vmm")) {
            let left = ids.iter().find(|id| Path::new(&group).join(id).exists());
            assert_eq!(left, None, "{group}");
        }
    }
    assert!(killed >= KILLS, "{killed} of {STARTS}");
    world.ok(&World::line(&["--rm", "--name", "one"], &["exit", "0"]));
    world.assert_clean();
}

/// The first command after a kill is another one each time; whatever it answers, it ends, and the container
/// can be removed.
fn reconcile(world: &World, round: usize) {
    let again = World::line(&["--rm", "--name", "one"], &["exit"]);
    let commands: [&[&str]; 17] = [
        &again,
        &["ps", "-a"],
        &["inspect", "one"],
        &["logs", "one"],
        &["wait", "one"],
        &["stop", "one"],
        &["kill", "one"],
        &["exec", "one", "exit"],
        &["attach", "one"],
        &["top", "one"],
        &["stats", "--no-stream"],
        &["images"],
        &["system", "df"],
        &["system", "prune", "-f"],
        &["rmi", "nosuch"],
        &["rm", "one"],
        &["rm", "-f", "one"],
    ];
    let ran = world.run(commands[round % commands.len()]);
    assert!(
        [0, 1, 3, 125, 137].contains(&ran.status),
        "{:?}: {ran:?}",
        commands[round % commands.len()]
    );
    eventually("processes end", || world.processes().is_empty());
    // What is being killed lets go of its lock behind everything else.
    let mut listed = String::new();
    eventually("it has ended", || {
        listed = world.ok(&["ps", "-a"]);
        !listed.contains("one") || listed.contains("Exited (")
    });
    if listed.contains("one") {
        world.ok(&["rm", "one"]);
    }
    assert_eq!(world.left(), Vec::<std::path::PathBuf>::new());
}

fn kill_process_of(world: &World, command: &str) -> bool {
    let found = world.processes_of(command);
    found.iter().for_each(|pid| signal(*pid, "KILL"));
    !found.is_empty()
}

/// P1.
#[test]
fn command_killed_at_any_instant_leaves_nothing() {
    kill_often(|_, client| {
        let lives = client.try_wait().unwrap().is_none();
        signal(client.id(), "KILL");
        lives
    });
}

/// P1, L5.
#[test]
fn keeper_killed_at_any_instant_leaves_nothing() {
    kill_often(|world, _| kill_process_of(world, "keep"));
}

/// P1.
#[test]
fn monitor_killed_at_any_instant_leaves_nothing() {
    kill_often(|world, _| kill_process_of(world, "monitor"));
}

/// P1, P2: everything at once, as the kernel does when there is no memory.
#[test]
fn everything_killed_at_any_instant_leaves_nothing() {
    kill_often(|world, _| {
        let found = world.processes();
        found.iter().for_each(|pid| signal(*pid, "KILL"));
        !found.is_empty()
    });
}

/// P1: a pull waits for a registry that says nothing. Whichever of its processes is killed, the others end,
/// and the next pull is not hindered.
#[test]
fn pull_killed_at_any_process_leaves_none() {
    let world = World::new();
    let registry = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/app:1", registry.local_addr().unwrap());
    let line = ["run", "--rm", "--network", "none", &image, "exit"];
    for victim in 0..3 {
        let client = world.vmm(&line).spawn().unwrap();
        let (mut socket, _) = registry.accept().unwrap();
        let _ = socket.read(&mut [0; 64]);
        let [pull, part] = world.processes_of_pull();
        let all = [client.id(), pull, part];
        signal(all[victim], "KILL");
        let ran = finish(client);
        assert!([125, 137].contains(&ran.status), "{ran:?}");
        eventually("processes end", || all.iter().all(|pid| command_line(*pid).is_empty()));
    }
    world.ok(&World::line(&["--rm"], &["exit", "0"]));
    world.assert_clean();
}
