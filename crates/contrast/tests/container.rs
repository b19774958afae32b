//! Containers made of nothing but system calls: what they keep apart, what they refuse, what they leave.
//!
//! The tests run as root, on any host with control groups of version 2, alone or beside version 1.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmm-namespaces");
/// Debian's busybox-static.
const BUSYBOX: &str = "/bin/busybox";
const PATIENCE: Duration = Duration::from_secs(20);

/// An image with a shell.
struct Image(TempDir);

impl Image {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let bin = directory.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::copy(BUSYBOX, bin.join("busybox")).expect("busybox-static is installed");
        for applet in ["sh", "true", "cat", "sleep", "hostname", "ls", "mknod", "tail", "grep"] {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        for name in ["tmp", "proc", "sys", "dev"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, options: &[&str], command: &[&str]) -> Command {
        let mut program = Command::new(PROGRAM);
        program.args(options).arg(self.path()).args(command).stdin(Stdio::null());
        program
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Output {
        self.command(options, command).output().unwrap()
    }

    /// What a script says, which ends well.
    fn script(&self, options: &[&str], script: &str) -> String {
        let output = self.run(options, &["sh", "-ec", script]);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Everything below `/sys/fs/cgroup` that a container of this runtime has made.
fn groups(runtime: u32) -> Vec<PathBuf> {
    let name = format!("vmm-namespaces-{runtime}");
    let mut places = vec![PathBuf::from("/sys/fs/cgroup")];
    places.extend(fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path()));
    places.into_iter().map(|place| place.join(&name)).filter(|path| path.exists()).collect()
}

/// Whether a process has this word in its command line, and is no corpse.
fn runs(word: &str) -> bool {
    fs::read_dir("/proc").unwrap().any(|entry| {
        let line = fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
    })
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(2));
    }
}

fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

#[test]
fn container_sees_itself_and_nothing_of_its_host() {
    let image = Image::new();
    let said = image.script(
        &["--hostname", "alone"],
        "echo $$; hostname; echo /proc/[0-9]*; ls /sys/class/net; \
         ls /dev /dev/pts; cat /proc/mounts",
    );
    let (facts, mounts) = said.split_once("overlay / overlay").unwrap();
    let expected = "1\nalone\n/proc/1\nlo\n/dev:\ncore\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\n\
                    stderr\nstdin\nstdout\ntty\nurandom\nzero\n\n/dev/pts:\nptmx\n";
    assert_eq!(facts, expected);
    let targets: Vec<&str> =
        mounts.lines().skip(1).filter_map(|line| line.split(' ').nth(1)).collect();
    let own = |target: &&str| ["/proc", "/sys", "/dev"].iter().any(|root| target.starts_with(root));
    assert!(targets.len() > 8 && targets.iter().all(own), "{targets:?}");
    assert!(!said.contains(image.path().to_str().unwrap()), "{said}");
}

#[test]
fn root_of_a_container_has_dockers_rights_and_a_filter() {
    let output = Image::new().run(&[], &["cat", "/proc/self/status"]);
    let status = String::from_utf8(output.stdout).unwrap();
    let fields: HashMap<&str, &str> =
        status.lines().filter_map(|line| line.split_once(":\t")).collect();
    let docker = "00000000a80425fb";
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(fields[set], docker, "{set}");
    }
    let none = "0000000000000000";
    assert_eq!((fields["CapInh"], fields["CapAmb"]), (none, none));
    assert_eq!((fields["NoNewPrivs"], fields["Seccomp"]), ("1", "2"));
    assert_eq!(fields["Groups"].trim(), "");
    // The runtime itself does not hear of broken pipes; a program does.
    let ignored = u64::from_str_radix(fields["SigIgn"], 16).unwrap();
    assert_eq!(ignored & 1 << 12, 0);
}

#[test]
fn host_is_neither_seen_nor_changed_through_proc_and_sys() {
    let image = Image::new();
    for file in ["/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/kcore"] {
        assert_eq!(image.script(&[], &format!("cat {file} || true")), "", "{file}");
    }
    assert_eq!(image.script(&[], "ls /sys/firmware"), "");
    for file in
        ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run", "/sys/x"]
    {
        let output = image.run(&[], &["sh", "-c", &format!(": > {file}")]);
        assert!(!output.status.success(), "{file} can be written");
    }
}

#[test]
fn devices_beyond_dockers_cannot_be_used() {
    let image = Image::new();
    let said = image.script(
        &[],
        "cd /tmp; mknod zero c 1 5; mknod mem c 1 1; mknod disk b 254 0; \
         echo x > /dev/null; \
         cat mem 2>&1 || true; cat disk 2>&1 || true",
    );
    let refused = "Operation not permitted";
    let expected = format!("cat: can't open 'mem': {refused}\ncat: can't open 'disk': {refused}\n");
    assert_eq!(said, expected);
}

#[test]
fn what_is_written_ends_with_the_container() {
    let image = Image::new();
    assert_eq!(image.script(&[], "echo x > /tmp/file; cat /tmp/file"), "x\n");
    assert!(!image.path().join("tmp/file").exists());
    let output = image.run(&["--read-only"], &["sh", "-c", "echo x > /tmp/file"]);
    assert!(!output.status.success());
    assert!(!image.path().join("tmp/file").exists());
    assert_eq!(image.script(&["--read-only"], "echo x > /dev/shm/file; cat /dev/shm/file"), "x\n");
}

#[test]
fn what_is_written_in_place_stays_in_the_image() {
    let image = Image::new();
    image.script(&["--in-place"], "echo x > /tmp/file");
    assert_eq!(fs::read(image.path().join("tmp/file")).unwrap(), b"x\n");
    assert_eq!(image.script(&[], "cat /tmp/file"), "x\n");
}

#[test]
fn memory_beyond_the_limit_ends_the_process_that_takes_it() {
    let image = Image::new();
    // A line that never ends.
    let hog = "tail -n 1 < /dev/zero";
    let began = Instant::now();
    let output = image.run(&["--memory", "33554432"], &["sh", "-c", hog]);
    assert!(began.elapsed() < PATIENCE);
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(image.script(&["--memory", "33554432"], "echo well"), "well\n");
}

#[test]
fn processes_beyond_the_limit_are_not_made() {
    let image = Image::new();
    let many = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 100 & done; echo all";
    let output = image.run(&["--pids", "6"], &["sh", "-c", many]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("fork"), "{output:?}");
    assert_eq!(image.script(&["--pids", "20"], many), "all\n");
}

#[test]
fn statuses_are_those_of_docker() {
    let image = Image::new();
    fs::write(image.path().join("bin/plain"), "#!/bin/sh\n").unwrap();
    fs::write(image.path().join("bin/text"), "no program\n").unwrap();
    fs::set_permissions(image.path().join("bin/text"), fs::Permissions::from_mode(0o755)).unwrap();
    for (command, code, said) in [
        (&["sh", "-c", "exit 7"][..], 7, ""),
        (&["sh", "-c", "kill -9 $$; sleep 1; exit 3"], 3, ""),
        (&["no-such-program"], 127, "No such file or directory"),
        (&["/no/such/program"], 127, "No such file or directory"),
        (&["/bin/sh/program"], 127, "Not a directory"),
        (&["plain"], 126, "Permission denied"),
        (&["/bin/text"], 126, "Exec format error"),
        (&["/tmp"], 126, "Permission denied"),
        (&[], 125, "no command given"),
        (&[""], 125, "no command given"),
    ] {
        let output = image.run(&[], command);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{command:?}: {errors}");
        assert!(errors.contains(said), "{command:?}: {errors}");
        assert!(errors.lines().count() <= 1, "{command:?}: {errors}");
    }
}

#[test]
fn process_that_is_killed_ends_as_a_shell_says() {
    let image = Image::new();
    let word = format!("{}.1", std::process::id());
    let mut runtime = image.command(&[], &["sleep", &word]).spawn().unwrap();
    // Process 1 is not killed from inside, but is from outside.
    wait_until("the program begins", || program(&word).is_some());
    let number = program(&word).unwrap().to_string();
    Command::new("kill").args(["-9", &number]).status().unwrap();
    assert_eq!(runtime.wait().unwrap().code(), Some(137));
}

/// The process whose program was started with `word` as its last one, and nothing but that program.
fn program(word: &str) -> Option<u32> {
    fs::read_dir("/proc").unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        let is = line.strip_prefix(b"sleep\0")?.strip_suffix(b"\0")? == word.as_bytes();
        is.then(|| path.file_name()?.to_str()?.parse().ok()).flatten()
    })
}

#[test]
fn wrong_requests_make_no_container() {
    let image = Image::new();
    let run = |words: &[&str]| {
        let output = Command::new(PROGRAM).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let root = image.path().to_str().unwrap();
    assert!(run(&["/no/such/root", "true"]).contains("root file system /no/such/root: No such"));
    assert!(run(&["/bin/busybox", "true"]).contains("not a directory"));
    assert!(run(&[]).contains("no root file system given"));
    assert!(run(&["--memory"]).contains("--memory needs a value"));
    assert!(run(&["--memory", "-1", root, "true"]).contains("-1 is no number"));
    assert!(run(&["--frob", root, "true"]).contains("unknown option --frob"));
    assert!(run(&["--user", "me", root, "true"]).contains("me is not UID:GID"));
    let long = "x".repeat(100);
    assert!(run(&["--hostname", &long, root, "true"]).contains("set the host name: Invalid"));
}

#[test]
fn links_of_an_image_lead_nowhere_outside() {
    let image = Image::new();
    let outside = tempfile::tempdir().unwrap();
    for name in ["proc", "sys", "dev"] {
        fs::remove_dir(image.path().join(name)).unwrap();
        symlink(outside.path(), image.path().join(name)).unwrap();
    }
    for options in [&[][..], &["--read-only"]] {
        let output = image.run(options, &["sh", "-c", "echo x > /dev/file"]);
        assert_ne!(output.status.code(), Some(0), "{output:?}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn steps_are_timed_in_order() {
    let output = Image::new().run(&["--timing"], &["true"]);
    let text = String::from_utf8(output.stderr).unwrap();
    let told = text.strip_prefix("vmm-namespaces: timing: ").unwrap();
    let told: HashMap<String, u64> = serde_json::from_str(told).unwrap();
    let steps =
        ["parse", "groups", "namespaces", "root", "files", "rights", "exec", "end", "clean"];
    assert_eq!(told.len(), steps.len(), "{text}");
    assert!(steps.is_sorted_by_key(|step| told[*step]), "{text}");
}

#[test]
fn program_runs_as_whom_and_where_it_should() {
    let image = Image::new();
    let script = "grep -E '^(Uid|Gid|CapEff|Groups)' \
                  /proc/self/status; pwd";
    let said = image.script(&["--user", "1000:100", "--workdir", "/new"], script);
    let words: Vec<&str> = said.split_whitespace().collect();
    let none = "0000000000000000";
    let mut expected = vec!["Uid:", "1000", "1000", "1000", "1000"];
    expected.extend(["Gid:", "100", "100", "100", "100", "Groups:", "CapEff:", none, "/new"]);
    assert_eq!(words, expected);
    let output = image.run(&["--workdir", "/bin/sh"], &["true"]);
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn descriptors_of_the_runtime_stay_outside() {
    let image = Image::new();
    let output = Command::new("sh")
        .args(["-c", "exec 7</etc/passwd 8</; exec \"$@\"", "sh", PROGRAM])
        .arg(image.path())
        .args(["sh", "-c", "ls /proc/$$/fd; true"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "0\n1\n2\n");
}

#[test]
fn fifty_containers_leave_nothing_behind() {
    let image = Image::new();
    let before = mounts();
    for number in 0..50 {
        let limits = ["--memory", "67108864", "--pids", "50"];
        let options = if number % 2 == 0 { &limits[..] } else { &["--read-only"] };
        let mut runtime = image.command(options, &["true"]).spawn().unwrap();
        assert!(runtime.wait().unwrap().success());
        assert_eq!(groups(runtime.id()), Vec::<PathBuf>::new());
    }
    assert_eq!(mounts(), before);
}

/// Starts a container that sleeps, and ends its runtime after `delay` with `signal`; the runtime's number.
fn interrupted(image: &Image, word: &str, delay: Duration, signal: &str) -> u32 {
    let limits = ["--memory", "67108864", "--pids", "50"];
    let script = format!("trap '' TERM INT HUP; sleep {word} & sleep {word}");
    let mut command = image.command(&limits, &["sh", "-c", &script]);
    let mut runtime = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    sleep(delay);
    let number = runtime.id().to_string();
    Command::new("kill").args([signal, &number]).status().unwrap();
    let status = runtime.wait().unwrap();
    assert!(status.signal().is_some(), "{status:?}");
    runtime.id()
}

#[test]
fn runtime_that_is_killed_at_any_moment_leaves_nothing_behind() {
    let image = Image::new();
    for number in 0_u32..30 {
        let word = format!("{}.{}", std::process::id(), 10 + number);
        let signal = ["-KILL", "-TERM", "-INT"][usize::try_from(number % 3).unwrap()];
        let delay = Duration::from_micros(u64::from(number) * 700);
        let runtime = interrupted(&image, &word, delay, signal);
        wait_until("the control groups are gone", || groups(runtime).is_empty());
        wait_until("its processes are gone", || !runs(&word));
    }
}

#[test]
fn user_namespace_has_one_user_and_devices_that_work() {
    let image = Image::new();
    let said = image.script(
        &["--user-namespace"],
        "cat /proc/self/uid_map /proc/self/setgroups; echo x > /dev/null; \
         cat < /dev/zero | true; mknod /tmp/zero c 1 5 2>/dev/null || echo refused",
    );
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "1", "deny", "refused"]);
}

#[test]
fn those_who_are_not_root_get_containers_without_limits() {
    let image = Image::new();
    let nobody = |options: &[&str]| {
        // Where this test is built need not be theirs to enter.
        let program = image.path().join("runtime");
        fs::copy(PROGRAM, &program).unwrap();
        let mut command = Command::new(program);
        command.args(options).arg(image.path()).args(["sh", "-c", "cat /proc/self/uid_map"]);
        command.uid(65534).gid(65534).output().unwrap()
    };
    let output = nobody(&[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "65534", "1"], "{output:?}");
    let output = nobody(&["--pids", "5"]);
    assert_eq!(output.status.code(), Some(125));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors, "vmm-namespaces: cannot limit pids: only root makes control groups\n");
}
