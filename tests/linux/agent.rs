//! The agent in a container's guest, spoken to as its host does.

mod client;
mod hostile;

use std::fs;
use std::time::{Duration, Instant};

use vmm_protocol::{
    INITIAL_CREDIT, Notice, Order, Refusal, Reply, Request, Rlimit, Role, Setup, Start, Status,
    TerminalSize, Tmpfs,
};

use client::{Machine, command, shell};

fn setup() -> Setup {
    Setup {
        hostname: "box".into(),
        hosts: "127.0.0.1 localhost\n".into(),
        resolv_conf: "nameserver 10.0.2.3\n".into(),
        ..Setup::default()
    }
}

#[test]
fn first_process_runs_and_ends_with_its_own_status() {
    let machine = Machine::start(setup());
    let start =
        shell("id; echo oops >&2; hostname; cat /etc/hosts /etc/resolv.conf; echo $$; exit 3");
    let done = machine.run(Start { role: Role::Init, ..start }).expect("started").finish();
    let expected = "uid=0(root) gid=0(root) groups=0(root),63(audio)\nbox\n\
                    127.0.0.1 localhost\nnameserver 10.0.2.3\n1\n";
    assert_eq!(done.text(), expected);
    assert_eq!(done.stderr, b"oops\n");
    assert_eq!(done.exit.status, Status::Code(3));
    assert!(!done.exit.oom);
    let refused = machine.run(shell("true")).err();
    assert!(matches!(refused, Some(Reply::Refused { kind: Refusal::Other, .. })), "{refused:?}");
    machine.shut_down();
}

#[test]
fn further_processes_are_as_docker_has_them() {
    let (machine, first) = Machine::asleep(Setup { pids: Some(100), ..setup() });
    let text = |command: &str| machine.sh(command).good();
    assert_eq!(
        text("umask; pwd; echo $HOME $PATH $HOSTNAME $TERM"),
        "0022\n/\n/root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin box\n"
    );
    assert_eq!(
        text("grep -h Cap /proc/self/status").replace('\t', ""),
        "CapInh:0000000000000000\nCapPrm:00000000a80425fb\nCapEff:00000000a80425fb\n\
         CapBnd:00000000a80425fb\nCapAmb:0000000000000000\n"
    );
    assert_eq!(
        text("ulimit -n; ulimit -c; cat /sys/fs/cgroup/pids.max"),
        "1048576\nunlimited\n100\n"
    );
    assert_eq!(text("cat /proc/1/comm /proc/1/cgroup"), "sleep\n0::/\n");
    let user = |user: &str, groups: &[&str]| {
        let groups = groups.iter().map(|&name| name.to_owned()).collect();
        let command = "id; grep -h CapEff /proc/self/status; echo $HOME; echo x >/dev/stdout";
        machine.run(Start { user: user.to_owned(), groups, ..shell(command) })
    };
    let done = user("user", &[]).expect("started").finish().good();
    assert_eq!(
        done,
        "uid=1000(user) gid=1000(user) groups=63(audio),1000(user)\n\
                      CapEff:\t0000000000000000\n/home/user\nx\n"
    );
    let done = user("7:8", &["63", "9"]).expect("started").finish().good();
    assert!(done.starts_with("uid=7 gid=8 groups=8,9,63(audio)\n"), "{done}");
    let refused = user("nobody", &[]).err();
    assert!(
        matches!(refused, Some(Reply::Refused { kind: Refusal::NoSuchUser, .. })),
        "{refused:?}"
    );
    let start = Start {
        cwd: "/etc".into(),
        env: vec!["A=1".into(), "PATH=/bin".into()],
        umask: 0o77,
        capabilities: vec!["SYS_ADMIN".into()],
        no_new_privileges: true,
        rlimits: vec![Rlimit { name: "nofile".into(), soft: 64, hard: 128 }],
        ..shell(
            "pwd; env | sort; umask; ulimit -n; ulimit -Hn; grep -hE 'CapPrm|NoNew' /proc/self/status",
        )
    };
    let done = machine.run(start).expect("started").finish().good();
    assert_eq!(
        done,
        "/etc\nA=1\nHOME=/root\nHOSTNAME=box\nPATH=/bin\nPWD=/etc\nSHLVL=1\n0077\n64\n128\n\
                      CapPrm:\t0000000000200000\nNoNewPrivs:\t1\n"
    );
    for (args, cwd, kind) in [
        (&["nothing"][..], "", Refusal::NotFound),
        (&["/no/thing"], "", Refusal::NotFound),
        (&["/etc/passwd"], "", Refusal::NotExecutable),
        (&["/etc"], "", Refusal::NotExecutable),
        (&[], "", Refusal::NotFound),
        (&["true"], "/none", Refusal::NoSuchDirectory),
        (&["true"], &format!("/{}", "x".repeat(30_000)), Refusal::NoSuchDirectory),
        (&["true"], "/etc/passwd", Refusal::NoSuchDirectory),
    ] {
        let args = args.iter().map(|&word| word.to_owned()).collect();
        let refused = machine.run(Start { args, cwd: cwd.into(), ..shell("") }).err();
        let Some(Reply::Refused { kind: found, what }) = refused else {
            panic!("{cwd}: {refused:?}")
        };
        assert_eq!(found, kind, "{what}");
    }
    drop(first);
    machine.shut_down();
}

/// V12: also what is beyond the credit.
#[test]
fn streams_are_whole_and_end_with_their_process() {
    let (machine, _first) = Machine::asleep(setup());
    let with_input = |command: &str| machine.run(Start { stdin: true, ..shell(command) });
    let mut cat = with_input("cat; echo end").expect("started");
    let binary: Vec<u8> = (0..=255).collect();
    cat.link.pass(&binary);
    cat.link.say(&Request::StdinEof);
    assert_eq!(cat.finish().stdout, [&binary[..], b"end\n"].concat());
    // Input beyond the first credit: what was taken is credited.
    let mut count = with_input("wc -c").expect("started");
    let mut sent = 0;
    while sent < 1 << 20 {
        while sent + 0x8000 > u64::from(INITIAL_CREDIT) + count.credit {
            let (_, reply) = count.link.frame().expect("credit");
            let Ok(Reply::Credit(bytes)) = serde_json::from_slice(&reply) else {
                panic!("{reply:?}")
            };
            count.credit += u64::from(bytes);
        }
        count.link.pass(&[b'x'; 0x8000]);
        sent += 0x8000;
    }
    count.link.say(&Request::StdinEof);
    assert_eq!(count.finish().good().trim(), sent.to_string());
    // Nobody reads, and signals come through all the same.
    let mut deaf = with_input("sleep 1000").expect("started");
    deaf.link.pass(&[0; INITIAL_CREDIT as usize]);
    deaf.link.say(&Request::Signal(15));
    assert_eq!(deaf.finish().exit.status, Status::Signal(15));
    // Too much is the end of it.
    let mut rude = with_input("sleep 1001").expect("started");
    // A pipe takes as much as the first credit; the same again may wait, and no more.
    rude.link.pass(&vec![0; 3 * INITIAL_CREDIT as usize]);
    assert_eq!(rude.link.hear::<Reply>(), Reply::Credit(INITIAL_CREDIT));
    assert_eq!(rude.link.frame(), None);
    let done = machine.sh("head -c 5000000 /dev/zero | tr '\\0' x; echo err >&2");
    assert!(done.stdout.len() == 5_000_000 && done.stderr == b"err\n");
    assert_eq!(machine.sh("cat; echo no input").good(), "no input\n");
    // A process that others survive ends when it ends.
    let begun = Instant::now();
    assert_eq!(machine.sh("sleep 1002 & echo started").good(), "started\n");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let gone = machine.run(shell("exec sleep 1003")).expect("started");
    drop(gone);
    let ps =
        "while ps | grep -q '[s]leep 100[13]$'; do sleep 0.1; done; ps | grep -c '[s]leep 1002'";
    assert_eq!(machine.sh(ps).good(), "1\n");
    machine.shut_down();
}

#[test]
fn processes_that_start_while_others_end_have_their_own_status_and_output() {
    let (machine, _first) = Machine::asleep(setup());
    for _ in 0..25 {
        let start = |number: u8| {
            let session = machine.run(shell(&format!("echo {number}; exit {number}")));
            (number, session.expect("started"))
        };
        for (number, session) in (0..8).map(start).collect::<Vec<_>>() {
            let done = session.finish();
            let seen = (done.text().to_owned(), done.exit.status);
            assert_eq!(seen, (format!("{number}\n"), Status::Code(number)));
        }
    }
    machine.shut_down();
}

#[test]
fn terminals_are_terminals() {
    let machine = Machine::start(setup());
    let size = TerminalSize { rows: 30, columns: 100 };
    let start = |command: &str| Start { terminal: Some(size), ..shell(command) };
    let console = "tty; echo to console >/dev/console; stty size; exec sleep 1000";
    let mut first = machine.run(Start { role: Role::Init, ..start(console) }).expect("started");
    first.wait_for("/dev/pts/0\r\nto console\r\n30 100\r\n");
    let command = "tty; stty size; echo $TERM; read line; echo got $line; read line; stty size; \
                   echo err >&2; exit 5";
    let mut session = machine.run(start(command)).expect("started");
    session.wait_for("xterm");
    session.link.pass(b"typed\n");
    session.wait_for("got typed");
    session.link.say(&Request::Resize(TerminalSize { rows: 10, columns: 20 }));
    session.link.pass(b"\n");
    let done = session.finish();
    let expected = "/dev/pts/1\r\n30 100\r\nxterm\r\ntyped\r\ngot typed\r\n\r\n10 20\r\nerr\r\n";
    assert_eq!((done.text(), done.exit.status), (expected, Status::Code(5)));
    let mut session = machine.run(start("echo up; exec sleep 1000")).expect("started");
    session.wait_for("up");
    session.link.pass(b"\x03");
    assert_eq!(session.finish().exit.status, Status::Signal(2), "ctrl-c");
    let mut session = machine.run(start("cat")).expect("started");
    session.link.pass(b"a\n\x04");
    assert_eq!(session.finish().text(), "a\r\na\r\n");
    let done = machine.run(start("seq 20000; sleep 1005 &")).expect("started").finish();
    assert_eq!(done.text().lines().last(), Some("20000"));
    machine.shut_down();
}

#[test]
fn memory_limit_kills_and_is_told_apart() {
    let setup = Setup { memory_bytes: Some(32 << 20), ..setup() };
    let (mut machine, first) = Machine::asleep(setup.clone());
    let done = machine.sh("tail /dev/zero");
    assert_eq!((done.exit.status, done.exit.oom), (Status::Signal(9), true));
    let told: Notice = machine.control.hear();
    assert_eq!(told, Notice::OomKilled { count: 1 });
    let done = machine.sh("kill -9 $$");
    assert_eq!((done.exit.status, done.exit.oom), (Status::Signal(9), false));
    machine.control.say(&Order::Stats);
    let Notice::Stats(stats) = machine.control.hear() else { panic!("no statistics") };
    assert!(stats.oom_kills == 1 && stats.pids == 1 && stats.cpu_us > 0, "{stats:?}");
    assert!(stats.memory_bytes < 32 << 20 && stats.guest_total_bytes > 200 << 20, "{stats:?}");
    machine.control.say(&Order::Processes);
    let Notice::Processes(list) = machine.control.hear() else { panic!("no processes") };
    assert!(list.len() == 1 && list[0].command == "sleep 1000" && list[0].uid == 0, "{list:?}");
    drop(first);
    machine.shut_down();
    let machine = Machine::start(setup);
    let start = Start { role: Role::Init, ..shell("exec tail /dev/zero") };
    let done = machine.run(start).expect("started").finish();
    assert_eq!((done.exit.status, done.exit.oom), (Status::Signal(9), true));
    machine.shut_down();
}

#[test]
fn small_init_hands_signals_on_and_buries_orphans() {
    let machine = Machine::start(setup());
    let command = "trap 'echo term; exit 7' TERM; (sleep 0.1 & ) ; sleep 1; ps -o stat,comm | grep -c ^Z; \
                   cat /proc/1/comm; echo up; while :; do sleep 0.1; done";
    let start = Start { role: Role::Init, init: true, ..shell(command) };
    let mut first = machine.run(start).expect("started");
    first.wait_for("up");
    first.link.say(&Request::Signal(15));
    let done = first.finish();
    assert_eq!((done.text(), done.exit.status), ("0\ninit\nup\nterm\n", Status::Code(7)));
    machine.shut_down();
}

#[test]
fn root_is_written_to_its_disk_or_to_memory_or_not_at_all() {
    let keep = tempfile::tempdir().expect("temporary directory");
    let keep = keep.path().join("writable.ext4");
    let on_disk = Setup { writable_disk: true, ..setup() };
    let (machine, first) = Machine::asleep(on_disk);
    assert_eq!(
        machine.sh("echo kept >/kept; rm /etc/passwd; ls /etc/passwd 2>&1 | wc -l").good(),
        "1\n"
    );
    drop(first);
    machine.shut_down_and_keep(&keep);
    command("e2fsck", &["-nf", keep.to_str().expect("UTF-8")]);
    let shown = std::process::Command::new("debugfs")
        .args(["-R", "cat upper/kept"])
        .arg(&keep)
        .output()
        .expect("debugfs");
    assert_eq!(shown.stdout, b"kept\n");
    let read_only = Setup {
        read_only_root: true,
        tmpfs: vec![Tmpfs { path: "/run/x".into(), options: "exec,size=1m,mode=700".into() }],
        ..setup()
    };
    let (machine, _first) = Machine::asleep(read_only);
    let command = "touch /x 2>&1; touch /tmp/x 2>&1; touch /run/x/y /dev/shm/y && stat -c %a /run/x; \
                   grep ' /run/x ' /proc/mounts | cut -d' ' -f4";
    let said = machine.sh(command).good();
    assert!(
        said.starts_with(
            "touch: /x: Read-only file system\ntouch: /tmp/x: Read-only file system\n700\n"
        ),
        "{said}"
    );
    assert!(said.contains("rw,nosuid,nodev,relatime,size=1024k,mode=700"), "{said}");
    machine.shut_down();
}

#[test]
fn copies_go_in_and_out() {
    let (machine, _first) = Machine::asleep(setup());
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    fs::create_dir(path("sub")).expect("directory");
    let data: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    fs::write(path("sub/data"), &data).expect("write");
    command("ln", &["-s", "/etc/passwd", &path("sub/link")]);
    command("tar", &["-C", &path(""), "-cf", &path("in.tar"), "sub"]);
    let tar = fs::read(path("in.tar")).expect("read");
    let mut link = machine.connect();
    link.say(&Request::CopyIn { directory: "/tmp".into() });
    assert_eq!(client::send_with_credit(&mut link, &tar), Reply::Copied);
    let said = machine.sh("cat /tmp/sub/data | md5sum; readlink /tmp/sub/link").good();
    assert!(said.ends_with("/etc/passwd\n"), "{said}");
    let mut link = machine.connect();
    link.say(&Request::CopyOut { path: "/tmp/sub".into(), follow: false });
    let out = client::receive_copy(&mut link).expect("copied");
    fs::write(path("out.tar"), out).expect("write");
    fs::create_dir(path("out")).expect("directory");
    command("tar", &["-C", &path("out"), "-xf", &path("out.tar")]);
    assert!(fs::read(path("out/sub/data")).expect("read") == data);
    let target = fs::read_link(path("out/sub/link")).expect("link");
    assert_eq!(target.to_str(), Some("/etc/passwd"));
    for (path, kind) in [("/none", Refusal::NotFound), ("/etc/passwd/x", Refusal::NotFound)] {
        let mut link = machine.connect();
        link.say(&Request::Stat { path: path.into(), follow: true });
        let reply = link.hear();
        assert!(
            matches!(&reply, Reply::Refused { kind: found, .. } if *found == kind),
            "{reply:?}"
        );
    }
    machine.shut_down();
}
