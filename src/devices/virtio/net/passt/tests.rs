use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

use rustix::process::{Pid, test_kill_process};
use tempfile::TempDir;

use super::*;
use crate::bus::lock;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// What begins to serve: a frame of 14 bytes to the descriptor behind `--fd`.
const ANSWER: &str = r"printf '\0\0\0\16abcdefghijklmn' >&$4;";

/// Held while a program is written or started.
static STARTING: Mutex<()> = Mutex::new(());

/// A program in place of passt.
struct Program {
    path: PathBuf,
    _dir: TempDir,
}

impl Program {
    fn new(script: &str) -> Self {
        let _alone = lock(&STARTING);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passt");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).write(true).mode(0o700).open(&path).unwrap();
        writeln!(file, "#!/bin/bash\n{script}").unwrap();
        Self { path, _dir: dir }
    }

    fn start(&self) -> Result<Passt, PasstError> {
        let program = self.path.to_str().unwrap();
        // What another thread's program inherits for a moment would keep a socket open.
        let _alone = lock(&STARTING);
        Passt::start_program(program, &"user".parse().unwrap(), MAC)
    }
}

fn pid(passt: &Passt) -> Pid {
    Pid::from_child(&passt.process.child)
}

fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid) == Err(Errno::SRCH)
}

#[test]
fn arguments_are_what_the_user_asked_for() {
    let words = |text: &str| arguments(&text.parse().unwrap()).join(" ");
    assert_eq!(words("user"), "--no-map-gw --mtu 65520");
    assert_eq!(
        words(
            "user,mtu=1400,ip=10.0.2.15/24,gateway=10.0.2.2,ip6=fd00::2,publish=8080:80,\
             publish=udp:[::1]:53:5353"
        ),
        "--no-map-gw --mtu 1400 --address 10.0.2.15 --netmask 24 --gateway 10.0.2.2 \
         --address fd00::2 --tcp-ports 127.0.0.1/8080:80 --udp-ports ::1/53:5353"
    );
}

#[test]
fn program_that_is_not_there_is_named_with_its_package() {
    let missing = Passt::start_program("/no/such/passt", &"user".parse().unwrap(), MAC);
    let error = missing.err().unwrap().to_string();
    assert!(error.contains("not installed") && error.contains("package"), "{error}");
}

#[test]
fn program_that_gives_up_is_quoted() {
    for (script, said) in [
        ("echo first >&2; echo 'no port' >&2; exit 1", "passt ended: no port"),
        (r"echo $'no\e[2J port' >&2; echo 'Failed to send 9 bytes to syslog' >&2", "no[2J port"),
        // How it ended is only known if it has ended when its socket has.
        ("exec 3>&- 2>&-; eval \"exec $4>&-\"; sleep 1000", "passt ended: it does not say why"),
    ] {
        let error = Program::new(script).start().err().unwrap().to_string();
        assert!(error.contains(said), "{script}: {error}");
    }
}

#[test]
fn program_serves_once_it_answers_and_is_gone_with_its_network() {
    let program = Program::new(&format!("{ANSWER} exec sleep 1000"));
    let passt = program.start().unwrap();
    let pid = pid(&passt);
    assert!(!is_gone(pid));
    drop(passt);
    assert!(is_gone(pid), "not even a zombie is left");
}

/// It learns who the guest is, and what the guest sends.
#[test]
fn frames_go_to_the_program_and_come_from_it() {
    // It sends back all that it gets.
    let program = Program::new("exec cat <&$4 >&$4");
    let mut passt = program.start().unwrap();
    let frame = [7; 60];
    passt.send(&[&[0; HEADER_LEN][..], &frame].map(IoSlice::new)).unwrap();
    let mut got = [0; 100];
    let len = loop {
        match passt.receive(&mut [IoSliceMut::new(&mut got)]) {
            Err(Errno::AGAIN) => std::thread::yield_now(),
            result => break result.unwrap(),
        }
    };
    assert_eq!(got[..len], [&[0; HEADER_LEN][..], &frame].concat());
}

/// What passt has to say never stops it: it may even say it to nobody.
#[test]
fn program_that_talks_without_end_is_not_held_up() {
    let talk = "head -c 1000000 /dev/zero >&2 2>/dev/null;";
    let program = Program::new(&format!("{talk} {ANSWER} exec sleep 1000"));
    program.start().unwrap();
}

/// N7 for this host network, and lengths that no frame has.
#[test]
fn program_that_dies_or_lies_is_ended_and_the_network_with_it() {
    for (then, why) in [
        ("read -t 1; exit 1", Errno::CONNRESET),
        (r"printf '\377\377\377\377' >&$4; exec sleep 1000", Errno::PROTO),
    ] {
        let mut passt = Program::new(&format!("{ANSWER} {then}")).start().unwrap();
        let mut room = [0; 100];
        let error = loop {
            match passt.receive(&mut [IoSliceMut::new(&mut room)]) {
                Err(Errno::AGAIN) => std::thread::sleep(Duration::from_millis(1)),
                result => break result.unwrap_err(),
            }
        };
        assert_eq!(error, why);
        assert!(is_gone(pid(&passt)), "{then}");
        assert_eq!(passt.receive(&mut [IoSliceMut::new(&mut room)]), Err(why));
        assert_eq!(passt.send(&[&[0; 12][..], &[0; 60]].map(IoSlice::new)), Err(Errno::PIPE));
    }
}
