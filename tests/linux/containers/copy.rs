//! Files copied into containers and out of them, as docker documents it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::world::{Ran, World, eventually, finish, run, spawn};
use crate::guest::signal;

/// A directory of this host that copies come from and go to.
struct Here(TempDir);

impl Here {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("temporary directory"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn write(&self, name: &str, content: &[u8]) -> String {
        fs::write(self.path(name), content).expect("write");
        self.path(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).expect("directory");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("entry").file_name().display().to_string()).collect();
        names.sort();
        names
    }
}

/// A tree with all that a copy has to keep, made by a shell so that it is the same on both sides.
const TREE: &str = "mkdir -p t/sub/deep t/empty; cd t; printf text > file; printf '#!' > program
chmod 4755 program; chmod 600 file; chmod 2750 sub; chmod 1777 empty; chmod 555 sub/deep
ln file sub/second; ln -s /nowhere/at/all dangling; ln -s ../file sub/relative; ln -s sub directory
printf x > 'name with spaces'; printf x > \"$(printf 'strange\\033[2J\\377')\"; mkfifo pipe
dd if=/dev/zero of=sparse bs=1 count=1 seek=8000000 2>/dev/null; touch -d '2001-02-03 04:05:06' program";

/// Tells one such tree from another. File systems count the size and the links of a directory in ways of
/// their own.
const LIST: &str = "cd \"$0\" && find . | LC_ALL=C sort | while read -r f; do echo \"$f\" $(readlink \"$f\")
if test -d \"$f\" -a ! -L \"$f\"; then stat -c '%f %u:%g' \"$f\"; else stat -c '%f %u:%g %h %s' \"$f\"; fi; done
find . -type f -exec md5sum {} + | LC_ALL=C sort; stat -c %Y program";

/// Runs `script` on this host.
fn shell(script: &str, directory: &str, argument: &str) -> String {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, argument]).current_dir(directory);
    run(&mut command, b"").success()
}

#[test]
fn trees_are_the_same_on_both_sides() {
    let (world, here) = (World::new(), Here::new());
    world.start("one", "sleep 1000");
    shell(TREE, &here.path(""), "");
    let list_here = |name: &str| shell(LIST, "/", &here.path(name));
    let expected = list_here("t");
    assert!(expected.lines().count() > 20, "{expected}");
    // In, by another name, and out again by a third.
    world.ok(&["cp", &here.path("t"), "one:/srv-t"]);
    assert_eq!(world.ok(&["exec", "one", "sh", "-c", LIST, "/srv-t"]), expected.trim_end());
    world.ok(&["cp", "-a", "one:/srv-t", &here.path("back")]);
    assert_eq!(list_here("back"), expected);
    let blocks = Path::new(&here.path("back/sparse")).metadata().expect("there").blocks();
    assert!(blocks * 512 < 1 << 20, "{blocks}");
    // What the container made itself, twice over the same.
    world.ok(&["exec", "one", "sh", "-c", &format!("cd /tmp; {TREE}")]);
    for _ in 0..2 {
        world.ok(&["cp", "-a", "one:/tmp/t/.", &here.path("own")]);
        assert_eq!(list_here("own"), expected);
    }
    let left = world.ok(&["exec", "one", "find", "/", "-xdev", "-name", ".vmm-cp*"]);
    assert_eq!(left, "");
}

#[test]
fn owners_are_the_users_at_the_destination_unless_they_are_asked_for() {
    let (world, here) = (World::new(), Here::new());
    let make = "mkdir -p /d; echo x >/d/f; ln -s f /d/l; chown -hR 1000:33 /d; chmod 6755 /d/f; sleep 1000";
    world.start("one", make);
    let owner = |name: &str| {
        let stat = Path::new(&here.path(name)).symlink_metadata().expect("there");
        (stat.uid(), stat.gid())
    };
    eventually("it is made", || {
        world.run(&["exec", "one", "stat", "-c", "%a", "/d/f"]).out() == "6755\n"
    });
    world.ok(&["cp", "one:/d", &here.path("plain")]);
    world.ok(&["cp", "-a", "one:/d", &here.path("kept")]);
    for name in ["", "/f", "/l"] {
        assert_eq!(owner(&format!("plain{name}")), (0, 0), "{name}");
        assert_eq!(owner(&format!("kept{name}")), (1000, 33), "{name}");
    }
    let mode = |name: &str| Path::new(&here.path(name)).metadata().expect("there").mode() & 0o7777;
    assert_eq!((mode("plain/f"), mode("kept/f")), (0o755, 0o6755));
    let file = here.write("mine", b"x");
    chown(&file, Some(7), Some(8)).expect("chown");
    world.ok(&["cp", &file, "one:/plain"]);
    world.ok(&["cp", "-a", &file, "one:/kept"]);
    let said = world.ok(&["exec", "one", "stat", "-c", "%u:%g", "/plain", "/kept"]);
    assert_eq!(said, "0:0\n7:8");
}

/// What docker documents for each pair of source and destination; `None` for an error.
#[test]
fn paths_mean_what_they_mean_to_docker() {
    let rules = [
        ("file", "new", Some("new")),
        ("file", "new/", None),
        ("file", "old", Some("old")),
        ("file", "there", Some("there/file")),
        ("file", "none/new", None),
        ("none", "new", None),
        ("dir", "made", Some("made/x")),
        ("dir/", "made2/", Some("made2/x")),
        ("dir/.", "made3", Some("made3/x")),
        ("dir", "old", None),
        ("dir", "there", Some("there/dir/x")),
        ("dir/.", "there/", Some("there/x")),
    ];
    let (world, here) = (World::new(), Here::new());
    let make = |side: &str| {
        format!(
            "mkdir dir there && echo {side} | tee file dir/x >/dev/null && echo old >old && ln -s file link"
        )
    };
    shell(&make("host"), &here.path(""), "");
    world.start("one", "sleep 1000");
    let script = format!("mkdir /c; cd /c; {}", make("guest"));
    world.ok(&["exec", "one", "sh", "-c", &script]);
    for (from, to, expected) in rules {
        // Relative to the container's root, as with docker.
        let out = world.run(&["cp", &format!("one:c/{from}"), &here.path(to)]);
        let into = world.run(&["cp", &here.path(from), &format!("one:/c/{to}")]);
        let Some(expected) = expected else {
            assert_eq!((out.status, into.status), (1, 1), "{from} {to}");
            for ran in [out, into] {
                assert_eq!(ran.err().lines().count(), 1, "{}", ran.err());
                assert!(ran.err().starts_with("vmm: copy "), "{}", ran.err());
            }
            continue;
        };
        assert_eq!((out.err(), into.err()), (String::new(), String::new()), "{from} {to}");
        assert_eq!(here.read(expected), b"guest\n", "{from} {to}");
        let inside = format!("/c/{expected}");
        // What was copied first is in the source of the second, so that names tell them apart.
        assert_eq!(world.ok(&["exec", "one", "cat", &inside]), "host", "{from} {to}");
        for name in ["file", "dir/x"] {
            fs::write(here.path(name), "host\n").expect("write");
        }
        world.ok(&["exec", "one", "sh", "-c", "echo guest | tee /c/file /c/dir/x"]);
    }
    // Links: themselves, and with -L what they lead to.
    world.ok(&["cp", "one:/c/link", &here.path("l")]);
    assert_eq!(fs::read_link(here.path("l")).expect("link"), Path::new("file"));
    world.ok(&["cp", "-L", "one:/c/link", &here.path("f")]);
    assert_eq!(here.read("f"), b"guest\n");
    world.ok(&["cp", "-L", &here.path("link"), "one:/c/f"]);
    assert_eq!(world.ok(&["exec", "one", "sh", "-c", "test -L /c/f || cat /c/f"]), "host");
}

#[test]
fn streams_are_archives() {
    let (world, here) = (World::new(), Here::new());
    world.start("one", "mkdir -p /d/sub; echo hello >/d/sub/f; sleep 1000");
    eventually("it is made", || world.run(&["exec", "one", "cat", "/d/sub/f"]).out() == "hello\n");
    let tar = |args: &[&str], input: &[u8]| {
        let mut command = std::process::Command::new("tar");
        run(command.args(args).current_dir(here.path("")), input)
    };
    let out = world.run(&["cp", "one:/d", "-"]);
    out.success();
    tar(&["-xf", "-"], &out.stdout).success();
    assert_eq!(here.read("d/sub/f"), b"hello\n");
    let content = world.run(&["cp", "one:/d/.", "-"]);
    let listed = tar(&["-tf", "-"], &content.stdout).success();
    assert_eq!(listed, "./\n./sub/\n./sub/f\n");
    here.write("own", b"own");
    chown(here.path("own"), Some(5), Some(6)).expect("chown");
    for format in ["gnu", "pax", "ustar"] {
        let archive = tar(&[&format!("--format={format}"), "-cf", "-", "own", "d"], b"");
        let name = format!("/in-{format}");
        world.ok(&["exec", "one", "mkdir", &name]);
        run(&mut world.vmm(&["cp", "-", &format!("one:{name}")]), &archive.stdout).success();
        let script = "cd $0; cat d/sub/f; stat -c %u:%g own";
        assert_eq!(world.ok(&["exec", "one", "sh", "-c", script, &name]), "hello\n5:6");
    }
    for (input, to, words) in [
        (&b"nonsense"[..], "one:/d", "ends too early"),
        (&[1; 1024], "one:/d", "not a tar stream"),
        (b"\x1f\x8b\x08\0\0\0\0", "one:/d", "compressed by gzip"),
        (b"", "one:/none", "not a directory"),
        (b"", "one:/d/sub/f", "not a directory"),
    ] {
        let ran = run(&mut world.vmm(&["cp", "-", to]), input);
        assert!(ran.status == 1 && ran.err().contains(words), "{to}: {ran:?}");
    }
    let gone = world.run(&["cp", "one:/none", "-"]);
    assert_eq!((gone.status, gone.stdout.len()), (1, 0));
}

#[test]
fn big_files_go_both_ways_and_full_disks_keep_no_half() {
    let (world, here) = (World::new(), Here::new());
    let line = ["run", "-d", "--network", "none", "--storage", "64m", "--name", "one", "busybox"];
    world.ok(&[&line[..], &["sleep", "1000"]].concat());
    let big = File::create(here.path("big")).expect("create");
    let mut data = vec![0; 34 << 20];
    for (at, word) in data.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    big.write_all_at(&data, 0).expect("write");
    let begun = Instant::now();
    world.ok(&["cp", &here.path("big"), "one:/big"]);
    let there = begun.elapsed();
    world.ok(&["cp", "one:/big", &here.path("back")]);
    println!("34 MiB: {there:?} in, {:?} out", begun.elapsed() - there);
    assert!(here.read("back") == data);
    let full = world.run(&["cp", &here.path("big"), "one:/second"]);
    assert_eq!(full.status, 1);
    assert!(full.err().contains("No space left"), "{}", full.err());
    assert_eq!(world.run(&["exec", "one", "test", "-e", "/second"]).status, 1);
    assert_eq!(world.ok(&["exec", "one", "find", "/", "-xdev", "-name", ".vmm-cp*"]), "");
    world.ok(&["exec", "one", "sh", "-c", "echo ok >/small"]);
}

#[test]
fn all_of_a_container_is_its_files_and_not_the_kernels() {
    let (world, here) = (World::new(), Here::new());
    world.start("one", "sleep 1000");
    world.ok(&["cp", "one:/", &here.path("all")]);
    assert_eq!(here.names("all/proc"), [""; 0]);
    assert_eq!(here.names("all/sys"), [""; 0]);
    assert!(Path::new(&here.path("all/bin/busybox")).exists());
    // Asked for by name, what is mounted is copied.
    world.ok(&["exec", "one", "sh", "-c", "echo shm >/dev/shm/x"]);
    world.ok(&["cp", "one:/dev/shm/x", &here.path("x")]);
    assert_eq!(here.read("x"), b"shm\n");
}

#[test]
fn copies_that_cannot_be_are_one_clear_sentence() {
    let (world, here) = (World::new(), Here::new());
    let ended = |ran: Ran, status: i32, words: &str| {
        assert_eq!(ran.status, status, "{}", ran.err());
        assert!(ran.err().contains(words), "{words}: {}", ran.err());
        assert_eq!(ran.err().matches("vmm:").count(), 1, "{}", ran.err());
    };
    let dest = here.path("x");
    ended(world.run(&["cp", "none:/x", &dest]), 1, "no such container: none");
    ended(world.run(&["cp", "one", "two"]), 1, "one of them has to be a container's");
    ended(world.run(&["cp", "a:/x", "b:/x"]), 1, "by way of this host");
    ended(world.run(&["cp", "one:", &dest]), 1, "no path after `one:`");
    ended(world.run(&["cp", "one:/x"]), 125, "DEST");
    let line = ["run", "-d", "--network", "none", "--read-only", "--name", "one", "busybox"];
    world.ok(&[&line[..], &["sleep", "1000"]].concat());
    ended(world.run(&["cp", "one:/none", &dest]), 1, "No such file or directory");
    ended(world.run(&["cp", &here.path("none"), "one:/"]), 1, "No such file or directory");
    let file = here.write("file", b"x");
    ended(world.run(&["cp", &file, "one:/"]), 1, "Read-only file system");
    ended(world.run(&["cp", "one:/dev/null", &dest]), 1, "neither file nor directory");
    ended(world.run(&["cp", "one:/etc/passwd", "/dev/null"]), 1, "/dev/null is neither");
    world.ok(&["kill", "one"]);
    ended(world.run(&["cp", "one:/etc/passwd", &dest]), 1, "does not run");
    assert_eq!(here.names(""), ["file"]);
}

/// F3: a container that swaps directories for links, and brings links of all kinds, gets nothing out of its
/// destination; what comes later does not go through what came before.
#[test]
fn nothing_of_a_hostile_container_leaves_the_destination() {
    let (world, here) = (World::new(), Here::new());
    for name in ["outside", "in"] {
        fs::create_dir(here.path(name)).expect("directory");
    }
    let target = here.path("outside");
    let script = format!(
        "mkdir /h /h/d /h/spare; echo evil >/h/d/evil; ln -s {target} /h/link; ln -s {target} /h/e
         ln -s ../outside /h/up; ln -s /etc/passwd /h/passwd; touch \"/h/$(printf '\\033]0;x\\007')\"
         while :; do mv /h/d /h/spare/d; mv /h/link /h/d; mv /h/d /h/link; mv /h/spare/d /h/d; done"
    );
    world.start("one", &script);
    eventually("it is made", || world.run(&["exec", "one", "test", "-e", "/h/passwd"]).status == 0);
    let mut good = 0;
    for _ in 0..15 {
        let ran = world.run(&["cp", "one:/h/.", &here.path("in")]);
        good += i32::from(ran.status == 0);
        assert!(!ran.err().trim_end().contains(char::is_control), "{:?}", ran.err());
        assert_eq!(here.names("outside"), [""; 0]);
        assert_eq!(here.names(""), ["in", "outside"]);
        assert!(!here.names("in").iter().any(|name| name.contains(".vmm-cp")));
    }
    println!("{good} of 15 whole");
    // A link that came out is no way for what comes next.
    for name in ["e", "up"] {
        let refused = world.run(&["cp", "one:/etc/passwd", &here.path(&format!("in/{name}"))]);
        assert_eq!(refused.status, 1);
        assert!(refused.err().contains("is a symbolic link"), "{}", refused.err());
    }
    world.ok(&["exec", "one", "sh", "-c", "mkdir -p /i/e; echo evil >/i/e/evil"]);
    let refused = world.run(&["cp", "one:/i/.", &here.path("in")]);
    assert!(refused.err().contains("a symbolic link is in the way"), "{}", refused.err());
    assert_eq!(here.names("outside"), [""; 0]);
}

/// F3: a file without end is ended by the user, and leaves nothing.
#[test]
fn endless_copy_ends_with_its_user() {
    let (world, here) = (World::new(), Here::new());
    world.start("one", "sleep 1000");
    world.ok(&["exec", "one", "truncate", "-s", "1099511627776", "/endless"]);
    let client = spawn(&mut world.vmm(&["cp", "one:/endless", &here.path("x")]), Stdio::null());
    eventually("it has begun", || !here.names("").is_empty());
    std::thread::sleep(Duration::from_millis(500));
    let stat = fs::read_to_string(format!("/proc/{}/status", client.id())).expect("alive");
    let memory = stat.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("peak");
    let memory: u64 = memory.trim().trim_end_matches(" kB").parse().expect("number");
    assert!(memory < 40 << 10, "{memory} kB");
    signal(client.id(), "INT");
    let ran = finish(client);
    assert_eq!((ran.status, ran.err()), (130, String::new()));
    assert_eq!(here.names(""), [""; 0]);
    // The container is none the worse.
    let file = here.write("f", b"f");
    let permissions = PermissionsExt::from_mode(0o640);
    fs::set_permissions(&file, permissions).expect("chmod");
    world.ok(&["cp", &file, "one:/f"]);
    assert_eq!(world.ok(&["exec", "one", "stat", "-c", "%a", "/f"]), "640");
    symlink("f", here.path("l")).expect("link");
    // In the other direction the agent notices, and keeps no half.
    let endless = File::create(here.path("endless")).expect("create");
    endless.set_len(1 << 40).expect("size");
    let client = spawn(&mut world.vmm(&["cp", &here.path("endless"), "one:/x"]), Stdio::null());
    std::thread::sleep(Duration::from_secs(1));
    signal(client.id(), "INT");
    assert_eq!(finish(client).status, 130);
    eventually("nothing is left", || {
        world.ok(&["exec", "one", "sh", "-c", "ls -A / | grep -E '^x$|vmm-cp' || true"]).is_empty()
    });
    std::io::stdout().flush().expect("flush");
}
