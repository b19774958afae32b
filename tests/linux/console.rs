//! The console in all its places, and named ports, under a kernel's drivers.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::guest::{Guest, kernel, read_until, run_words, signal, wait};

/// What the shell of the guest prints when it is ready for a command.
const PROMPT: &str = "guest:~# ";

/// The shell command that waits for the named port `p` and calls it `$port`.
const FIND_PORT: &str = "until port=/dev/$(grep -lx p /sys/class/virtio-ports/*/name | cut -d/ -f5) \
                         && [ -c $port ]; do sleep 0.1; done";

/// How long a guest is waited for that should have answered.
const PATIENCE: Duration = Duration::from_secs(30);

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

/// A guest whose standard input and output are a terminal of its own.
struct OnTerminal {
    terminal: File,
    child: Child,
}

impl OnTerminal {
    fn start(guest: &Guest, columns: u16, rows: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let terminal = openpt(flags).expect("a pseudo-terminal");
        unlockpt(&terminal).expect("unlock");
        tcsetwinsize(&terminal, size(columns, rows)).expect("size");
        let inside = ioctl_tiocgptpeer(&terminal, flags).expect("other side");
        let stdio = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("descriptor"));
        let mut command = guest.command(&["setsid", "--ctty"]);
        command.stdin(stdio(&inside)).stdout(stdio(&inside)).stderr(Stdio::piped());
        let child = command.spawn().expect("setsid");
        Self { terminal: terminal.into(), child }
    }

    fn read_until(&mut self, text: &str) -> String {
        read_until(&mut self.terminal, text)
    }

    /// Types a command and returns what came up to the next prompt.
    fn run(&mut self, command: &str) -> String {
        self.terminal.write_all(format!("{command}\r").as_bytes()).expect("type");
        self.read_until(PROMPT)
    }

    /// The size the guest's terminal has, once it is `rows` and `columns`.
    fn expect_size(&mut self, expected: &str) {
        let started = Instant::now();
        loop {
            let answer = self.run("stty size");
            if answer.contains(&format!("\n{expected}\n")) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "not {expected}: {answer}");
        }
    }
}

#[test]
fn virtio_console_is_a_terminal_that_follows_the_size_of_the_users() {
    for ports in [false, true] {
        let mut guest = Guest::minimal().args("--console virtio");
        if ports {
            let socket = guest.file("s");
            guest = guest.arg("--port").arg(format!("name=p,socket={}", socket.display()));
        }
        let mut machine = OnTerminal::start(&guest, 100, 30);
        let greeting = machine.read_until(PROMPT);
        assert!(greeting.contains("This is a guest with a kernel of its own"), "{greeting}");
        let answer = machine.run("tty; echo $((6 * 7))");
        assert!(answer.contains("echo $((6 * 7))\n"), "typed text is not echoed: {answer}");
        assert!(answer.contains("/dev/hvc0\n42\n"), "{answer}");
        machine.expect_size("30 100");
        tcsetwinsize(&machine.terminal, size(132, 43)).expect("resize");
        machine.expect_size("43 132");
        // The escape works as on the serial port.
        machine.terminal.write_all(b"\x01x").expect("type");
        let ended = wait(machine.child);
        assert_eq!(ended.status, Some(0), "ports {ports}: {ended:#?}");
        assert_eq!(ended.stderr, "");
    }
}

/// The kernel's messages come by the serial port until the virtio console is there, and none of
/// them twice.
#[test]
fn virtio_console_shows_the_boot_from_its_first_message_to_its_last() {
    let ended = Guest::minimal().args("--console virtio").append("loglevel=8").run("true");
    assert_eq!(ended.status, Some(0), "{ended:#?}");
    for text in ["] Linux version 6.", "Run /sbin/init as init process", "vmm.run: exit status 0"] {
        assert_eq!(ended.console.matches(text).count(), 1, "{text}: {ended:#?}");
    }
}

#[test]
fn kernel_that_fails_before_the_virtio_console_is_there_is_explained() {
    let guest = Guest::bare(&kernel("minimal")).args("--console virtio");
    let ended = guest.append("initcall_blacklist=virtio_mmio_init root=/dev/vda").boot();
    assert_eq!(ended.status, Some(4), "{ended:#?}");
    assert!(ended.stderr.contains("likely cause: the kernel found no root"), "{ended:#?}");
    assert!(ended.stderr.contains("Kernel panic - not syncing"), "{ended:#?}");
}

#[test]
fn console_file_gets_the_output_at_its_end() {
    let guest = Guest::minimal();
    let path = guest.file("console.log");
    fs::write(&path, "before\n").expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("mode");
    let log = path.clone();
    let guest = guest.arg("--console").arg(format!("file={}", path.display()));
    let guest = guest.append(&run_words("echo in the file"));
    let child = guest.start();
    let ended = wait(child);
    let text = fs::read_to_string(log).expect("read");
    assert_eq!((ended.status, ended.console.as_str()), (Some(0), ""), "{ended:#?}");
    assert!(text.starts_with("before\n") && text.contains("in the file"), "{text}");
    assert!(text.contains("vmm.run: exit status 0"), "{text}");
}

#[test]
fn console_pty_serves_whoever_opens_it_and_survives_when_they_leave() {
    let guest = Guest::minimal().args("--console pty");
    let mut child = guest.start();
    let line = read_until(child.stderr.as_mut().expect("piped"), "\n");
    let path = line.trim_end().strip_prefix("vmm: console is ").expect("a path").to_owned();
    for visit in 0..2 {
        let open = || OpenOptions::new().read(true).write(true).open(&path).expect("open");
        let mut user = open();
        if visit == 0 {
            read_until(&mut user, PROMPT);
        }
        user.write_all(b"tty; echo $((6 * 7))\r").expect("type");
        let answer = read_until(&mut user, PROMPT);
        assert!(answer.contains("/dev/ttyS0\n42\n"), "visit {visit}: {answer}");
    }
    signal(child.id(), "TERM");
    let ended = wait(child);
    assert_eq!((ended.status, ended.console.as_str()), (Some(143), ""), "{ended:#?}");
}

/// Connects to a port as soon as the monitor listens.
fn client(socket: &Path) -> UnixStream {
    let started = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Ok(client) => return client,
            Err(e) => assert!(started.elapsed() < PATIENCE, "{e}"),
        }
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn named_port_carries_bytes_both_ways() {
    let guest = Guest::minimal();
    let socket = guest.file("s");
    let guest = guest.arg("--port").arg(format!("name=p,socket={}", socket.display()));
    let script = format!(
        "{FIND_PORT}; exec 3<>$port; read line <&3; echo \"the host said $line\"\n\
         echo \"$line back\" >&3; head -c 1000000 <&3 | md5sum >&3; head -c 300000 /dev/zero >&3"
    );
    let guest = guest.append(&run_words(&script));
    let child = guest.start();
    let mut client = client(&socket);
    client.write_all(b"hello\n").expect("write");
    assert_eq!(read_until(&mut client, "\n"), "hello back\n");
    client.write_all(&vec![0; 1_000_000]).expect("write");
    // The sum of a million zeros.
    assert_eq!(read_until(&mut client, "\n"), "879f4bba57ed37c9ec5e5aedf9864698  -\n");
    let mut zeros = vec![1; 300_000];
    client.read_exact(&mut zeros).expect("read");
    assert!(zeros.iter().all(|byte| *byte == 0));
    let ended = wait(child);
    assert_eq!(ended.status, Some(0), "{ended:#?}");
    assert!(ended.console.contains("the host said hello"), "{ended:#?}");
    assert!(!socket.exists(), "the socket outlives the machine");
}

/// S2: nobody reads what the guest prints on its virtio console, and the guest goes on.
#[test]
fn unread_virtio_console_holds_nobody_up() {
    let guest = Guest::minimal().args("--console virtio");
    let socket = guest.file("s");
    let guest = guest.arg("--port").arg(format!("name=p,socket={}", socket.display()));
    let script =
        format!("{FIND_PORT}\nexec 3>$port; head -c 2000000 /dev/zero; echo alive >&3; yes");
    let guest = guest.append(&run_words(&script));
    let child = guest.start();
    let mut client = client(&socket);
    read_until(&mut client, "alive\n");
    signal(child.id(), "TERM");
    let ended = wait(child);
    assert_eq!(ended.status, Some(143), "{}", ended.stderr);
    assert!(ended.stderr.contains("bytes of console output were dropped"), "{}", ended.stderr);
}
