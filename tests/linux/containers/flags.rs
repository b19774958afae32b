//! Flags of `run`, `exec` and `ps` that runc has no notion of and no other test is about.

use std::process::{Command, Stdio};

use super::pty::Pty;
use super::world::{World, eventually, finish, kernel, run, spawn};

#[test]
fn start_in_the_background_is_told_apart_from_what_comes_of_it() {
    let world = World::new();
    let start = |command: &[&str]| {
        let line = ["run", "-d", "--rm", "--network", "none", "busybox"];
        world.run(&[&line[..], command].concat())
    };
    // It ran, and how it ended is another question.
    let ended = start(&["false"]);
    assert_eq!((ended.status, ended.out().trim().len()), (0, 64), "{}", ended.err());
    for (program, status) in [("nosuch", 127), ("/etc", 126)] {
        let refused = start(&[program]);
        assert_eq!((refused.status, refused.out()), (status, String::new()), "{}", refused.err());
        assert!(refused.err().contains(program), "{}", refused.err());
    }
    eventually("all are removed", || world.ok(&["ps", "-aq"]).is_empty());
    assert_eq!(world.left().len(), 0, "{:?}", world.left());
}

#[test]
fn process_of_exec_in_the_background_outlives_its_command() {
    let world = World::new();
    world.start("one", "sleep 1000");
    let file = |name: &str| world.run(&["exec", "one", "cat", name]).out();
    // It prints more than any pipe holds, and nobody reads it.
    let script = "readlink /proc/self/fd/0; yes | head -c 3000000; echo -n $A > /tmp/done; exit 5";
    let line = ["exec", "-d", "-e", "A=ended", "one", "sh", "-c", script];
    let begun = world.run(&line);
    assert_eq!((begun.status, begun.out(), begun.err()), (0, String::new(), String::new()));
    eventually("it has ended", || file("/tmp/done") == "ended");
    let line = ["exec", "-dt", "one", "sh", "-c", "tty > /tmp/tty; sleep 1; tty >> /tmp/tty"];
    assert_eq!(world.run(&line).out(), "");
    eventually("its terminal stays", || file("/tmp/tty").matches("/dev/pts/").count() == 2);
    assert_eq!(world.run(&["exec", "-d", "one", "nosuch"]).status, 127);
    for _ in 0..3 {
        let begun = world.run(&["exec", "-d", "one", "false"]);
        assert_eq!((begun.status, begun.err()), (0, String::new()), "its end is not waited for");
    }
    assert!(!world.ok(&["top", "one"]).contains("sh -c"), "{}", world.ok(&["top", "one"]));
}

#[test]
fn keys_leave_a_process_of_exec_running() {
    let world = World::new();
    world.start("one", "sleep 1000");
    let mut shell = Pty::start(&world.vmm(&["exec", "-it", "one", "sh"]), 24, 80);
    shell.until("# ");
    shell.type_in(b"(sleep 2; echo here > /tmp/here) ; sleep 777\n\x10\x11");
    let (rest, status) = shell.finish();
    assert_eq!(status, 0, "{rest}");
    eventually("it goes on", || world.run(&["exec", "one", "cat", "/tmp/here"]).out() == "here\n");
    assert!(world.ok(&["top", "one"]).contains("sleep 777"));
    // It ends with the container.
    world.ok(&["rm", "-f", "one"]);
    world.wait_for_quiet();
}

#[test]
fn keys_that_leave_are_the_users_choice() {
    let world = World::new();
    let line = ["run", "-it", "--rm", "--network", "none", "--name", "one", "--detach-keys"];
    let mut shell =
        Pty::start(&world.vmm(&[&line[..], &["ctrl-a", "busybox", "sh"]].concat()), 24, 80);
    shell.until("# ");
    shell.type_in(b"\x10\x11");
    shell.type_in(b"echo st$((1))ll\n");
    shell.until("st1ll");
    shell.type_in(b"\x01");
    assert_eq!(shell.finish().1, 0);
    assert_eq!(world.names(false), ["one"]);
}

/// An interface of the host's, with addresses of the user's choice and without any.
#[test]
fn tap_of_the_host_leads_to_it() {
    let sh = |line: &str| run(Command::new("sh").args(["-c", line]), b"").success();
    sh(
        "ip tuntap add dev box0 mode tap && ip address add 172.30.0.1/24 dev box0 && ip link set box0 up",
    );
    let world = World::new();
    let script = "ping -c 1 -W 20 172.30.0.1 > /dev/null; echo $?; cat /etc/resolv.conf; grep box /etc/hosts; ip -4 -o address show dev eth0; ip route";
    let own = "tap=box0,ip=172.30.0.2/24,gateway=172.30.0.1";
    let line = ["run", "--rm", "-h", "box", "--dns", "192.0.2.53", "--network", own, "busybox"];
    let text = world.ok(&[&line[..], &["sh", "-c", script]].concat());
    assert!(text.starts_with("0\nnameserver 192.0.2.53\n172.30.0.2\tbox\n"), "{text}");
    assert!(
        text.contains("inet 172.30.0.2/24 ") && text.contains("default via 172.30.0.1"),
        "{text}"
    );
    let script = "ip -4 -o address show dev eth0; cat /sys/class/net/eth0/operstate";
    let line = ["run", "--rm", "--network", "tap=box0", "busybox", "sh", "-c", script];
    assert_eq!(world.ok(&line), "down");
    sh("ip link delete box0");
}

#[test]
fn kernel_and_platform_are_the_users_choice() {
    let world = World::new();
    let kernel = kernel();
    let kernel = kernel.to_str().expect("text");
    let base = ["run", "--rm", "--network", "none"];
    let line = [&base[..], &["--kernel", kernel, "busybox", "uname", "-r"]].concat();
    let release = run(world.vmm(&line).env("VMM_KERNEL", "/no/such"), b"").success();
    assert!(release.trim().ends_with("-container"), "{release}");
    let layout = format!("oci:{}", crate::guest::artifact("images/busybox").display());
    let other = if std::env::consts::ARCH == "aarch64" { "linux/amd64" } else { "linux/arm64" };
    let line = [&base[..], &["--platform", other, &layout, "true"]].concat();
    let refused = world.run(&line);
    assert_eq!(refused.status, 125, "{}", refused.err());
    assert!(refused.err().contains(other), "{}", refused.err());
}

#[test]
fn lists_are_short_whole_or_for_programs() {
    let world = World::new();
    let script = "sleep 1000; : a command that is too long for a column";
    world.start("one", script);
    world.start("two", "exit 4");
    assert_eq!(world.ok(&["wait", "two"]), "4");
    let listed = world.ok(&["ps"]);
    assert!(listed.contains('…') && !listed.contains("two"), "{listed}");
    let listed = world.ok(&["ps", "-a", "--no-trunc"]);
    assert!(listed.contains(script) && listed.contains("Exited (4)"), "{listed}");
    let (short, whole) = (world.ok(&["ps", "-aq"]), world.ok(&["ps", "-aq", "--no-trunc"]));
    let lengths = |text: &str| text.lines().map(str::len).collect::<Vec<_>>();
    assert_eq!((lengths(&short), lengths(&whole)), (vec![12, 12], vec![64, 64]));
    // The newest is the first.
    let found = world.ok(&["inspect", &short[..12]]);
    assert!(found.contains("\"two\"") && found.contains("\"code\": 4"), "{found}");
    // One wait for several, in their order.
    let waiting = spawn(&mut world.vmm(&["wait", "two", "one"]), Stdio::null());
    world.ok(&["kill", "one"]);
    assert_eq!(finish(waiting).success(), "4\n137\n");
    assert_eq!(world.ok(&["rm", "one", &short[..12]]), format!("one\n{}", &short[..12]));
}
