use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use rustix::fs::{Mode, OFlags, open};
use vmm_protocol::archive::{self, Links, Names, Source, Target};
use vmm_protocol::{
    FileKind, Frame, FrameReader, Kind, MAX_DATA, PathStat, Refusal, Reply, Request, push_data,
    push_message,
};

use super::{Copy, CopyError, End, EndError};

/// The agent's end of a session.
struct Agent {
    socket: UnixStream,
    frames: FrameReader,
    bytes: Vec<u8>,
}

impl Agent {
    fn say(&mut self, reply: &Reply) {
        let mut out = vec![];
        push_message(&mut out, reply).unwrap();
        // The host may have heard enough.
        let _ = self.socket.write_all(&out);
    }

    /// Sends bytes of an archive, if the host has not heard enough.
    fn pour(&mut self, bytes: &[u8]) {
        let _ = self.write_all(bytes);
    }

    fn refuse(&mut self, kind: Refusal, what: &str) {
        self.say(&Reply::Refused { kind, what: what.into() });
    }

    fn found(&mut self, kind: FileKind) {
        let link = None;
        self.say(&Reply::Found(PathStat { kind, mode: 0o644, size: 0, modified: 0, link }));
    }
}

impl Write for Agent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut out = vec![];
        push_data(&mut out, Kind::Stdout, bytes);
        self.socket.write_all(&out).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Agent {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while self.bytes.is_empty() {
            match self.frames.next().unwrap() {
                Some(Frame { kind: Kind::Stdin, payload }) => {
                    self.bytes = payload.to_vec();
                    let credit = Reply::Credit(u32::try_from(payload.len()).unwrap());
                    self.say(&credit);
                }
                Some(frame) => {
                    assert_eq!(frame.message::<Request>().unwrap(), Request::StdinEof);
                    return Ok(0);
                }
                None => {
                    if self.frames.fill_from(&mut self.socket)? == 0 {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                }
            }
        }
        let len = room.len().min(self.bytes.len());
        room[..len].copy_from_slice(&self.bytes[..len]);
        self.bytes.drain(..len);
        Ok(len)
    }
}

/// Answers as an agent does whose container's root is `root`.
fn honest(agent: &mut Agent, root: &Path, request: &Request) {
    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    let look = |path: &str, follow: bool| {
        let path = inside(path);
        let stat = if follow { path.metadata() } else { path.symlink_metadata() }?;
        let kind = match stat.file_type() {
            kind if kind.is_dir() => FileKind::Directory,
            kind if kind.is_symlink() => FileKind::Link,
            kind if kind.is_file() => FileKind::File,
            _ => FileKind::Other,
        };
        let link = path.read_link().ok().map(|link| link.to_str().unwrap().to_owned());
        Ok(PathStat { kind, mode: stat.mode(), size: stat.len(), modified: stat.mtime(), link })
    };
    let done: Result<Reply, io::Error> = match request {
        Request::Stat { path, follow } => look(path, *follow).map(Reply::Found),
        Request::CopyOut { path, follow } => look(path, *follow).map(|stat| {
            agent.say(&Reply::Found(stat));
            let name = if path.ends_with("/.") { None } else { Path::new(path).file_name() };
            let source = Source {
                open: &|flags| open(inside(path), flags, Mode::empty()),
                name: name.unwrap_or(OsStr::new(".")).as_encoded_bytes(),
                follow: *follow,
                owner: None,
                one_file_system: true,
            };
            // The host may have heard enough.
            let _ = archive::send(&source, agent);
            Reply::Copied
        }),
        Request::CopyIn { directory } => {
            let directory =
                open(inside(directory), OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
            directory.map_err(io::Error::from).and_then(|directory| {
                let (links, names) = (Links::Followed, Names::Kept);
                let target = Target { directory, links, names, owners: false };
                archive::receive(target, agent)
                    .map_err(|error| io::Error::other(error.to_string()))?;
                Ok(Reply::Copied)
            })
        }
        request => panic!("{request:?}"),
    };
    match done {
        Ok(reply) => agent.say(&reply),
        Err(error) if error.kind() == io::ErrorKind::Other => {
            agent.refuse(Refusal::Other, &error.to_string());
        }
        Err(error) => agent.refuse(Refusal::NotFound, &format!("{request:?}: {error}")),
    }
}

/// Makes a copy with agents that do `act`, each in a session of its own.
fn with<T>(
    act: impl Fn(&mut Agent, &Request) + Sync,
    make: impl FnOnce(Copy<'_>) -> Result<T, CopyError>,
) -> Result<T, CopyError> {
    let act = &act;
    thread::scope(|scope| {
        let connect = |request: &Request| {
            let (ours, theirs) = UnixStream::pair()?;
            let request = request.clone();
            scope.spawn(move || {
                let frames = FrameReader::new();
                let mut agent = Agent { socket: theirs, frames, bytes: vec![] };
                act(&mut agent, &request);
                drop(agent.socket.shutdown(std::net::Shutdown::Both));
            });
            Ok(ours)
        };
        let progress = |_| ();
        make(Copy {
            connect: &connect,
            archive: false,
            follow: false,
            progress: &progress,
            stop: None,
        })
    })
}

/// A place with `host` and `guest` side by side, and `outside`, which nothing may change.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for side in ["host", "guest"] {
        let path = place.path().join(side);
        fs::create_dir_all(path.join("dir/sub")).unwrap();
        fs::create_dir(path.join("there")).unwrap();
        fs::write(path.join("dir/sub/x"), side).unwrap();
        fs::write(path.join("dir/y"), "y").unwrap();
        fs::write(path.join("file"), side).unwrap();
        fs::write(path.join("old"), "old").unwrap();
        symlink("file", path.join("link")).unwrap();
        symlink("dir", path.join("dirlink")).unwrap();
        symlink("there", path.join("therelink")).unwrap();
    }
    fs::create_dir(place.path().join("outside")).unwrap();
    place
}

/// What docker documents for each pair of ends: the source, the destination, what is there then (`-` for
/// an error with these words).
const RULES: [(&str, &str, &str); 32] = [
    ("file", "new", "new"),
    ("file", "new/", "-no directory"),
    ("file", "old", "old"),
    ("file", "old/", "-no directory"),
    ("file", "none/new", "-none"),
    ("file", "there", "there/file"),
    ("file", "there/", "there/file"),
    ("file", "there/.", "there/file"),
    ("file", ".", "file"),
    ("file/", "new", "-Not a directory"),
    ("file/.", "new", "-Not a directory"),
    ("none", "new", "-No such file"),
    ("dir", "new", "new/sub/x"),
    ("dir", "new/", "new/sub/x"),
    ("dir/", "new", "new/sub/x"),
    ("dir/.", "new", "new/sub/x"),
    ("dir/.", "new/", "new/sub/x"),
    ("dir", "none/new", "-none"),
    ("dir", "old", "-which is a file"),
    ("dir/.", "old", "-which is a file"),
    ("dir", "there", "there/dir/sub/x"),
    ("dir/", "there", "there/dir/sub/x"),
    ("dir", "there/", "there/dir/sub/x"),
    ("dir/.", "there", "there/sub/x"),
    ("dir/.", "there/", "there/sub/x"),
    ("dir/sub/..", "there", "there/sub/x"),
    ("dir/sub", ".", "sub/x"),
    ("link", "new", "new -> file"),
    ("link", "there", "there/link -> file"),
    ("dirlink", "new", "new -> dir"),
    ("dirlink/", "new", "new/sub/x"),
    ("dirlink/.", "there", "there/sub/x"),
];

fn shown(error: &CopyError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

fn check(rule: (&str, &str, &str), from: &Path, to: &Path, done: Result<u64, CopyError>) {
    let (_, _, expected) = rule;
    if let Some(words) = expected.strip_prefix('-') {
        let error = shown(&done.expect_err(expected));
        assert!(error.contains(words), "{rule:?}: {error}");
        assert_eq!(fs::read_dir(to).unwrap().count(), 7, "{rule:?}");
        return;
    }
    done.unwrap_or_else(|error| panic!("{rule:?}: {}", shown(&error)));
    if let Some((name, target)) = expected.split_once(" -> ") {
        assert_eq!(to.join(name).read_link().unwrap(), Path::new(target), "{rule:?}");
        return;
    }
    let side = from.file_name().unwrap().to_str().unwrap();
    assert_eq!(fs::read_to_string(to.join(expected)).unwrap(), side, "{rule:?}");
}

#[test]
fn copies_go_where_docker_says() {
    for (rule, out) in RULES.into_iter().flat_map(|rule| [(rule, true), (rule, false)]) {
        let place = place();
        let (host, guest) = (place.path().join("host"), place.path().join("guest"));
        let act = |agent: &mut Agent, request: &Request| honest(agent, &guest, request);
        let within = |path: &str| format!("/{path}");
        if out {
            let done = with(act, |copy| copy.to_host(&within(rule.0), &host.join(rule.1)));
            check(rule, &guest, &host, done);
        } else {
            let done = with(act, |copy| copy.to_container(&host.join(rule.0), &within(rule.1)));
            check(rule, &host, &guest, done);
        }
    }
}

/// F3: a link that an earlier copy may have brought leads no later copy away; inside of the container it
/// is as with docker.
#[test]
fn links_as_destinations_are_followed_in_the_container_alone() {
    let place = place();
    let (host, guest) = (place.path().join("host"), place.path().join("guest"));
    let act = |agent: &mut Agent, request: &Request| honest(agent, &guest, request);
    for name in ["link", "therelink", "dangling"] {
        let _ = symlink("../outside/new", host.join("dangling"));
        for from in ["/file", "/dir", "/dir/."] {
            let done = with(act, |copy| copy.to_host(from, &host.join(name)));
            let error = done.unwrap_err();
            assert!(matches!(error, CopyError::Link { .. }), "{error}");
        }
    }
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "host");
    with(act, |copy| copy.to_host("/file", &host.join("therelink/"))).unwrap();
    assert_eq!(fs::read_to_string(host.join("there/file")).unwrap(), "guest");
    with(act, |copy| copy.to_container(&host.join("old"), "/link")).unwrap();
    assert_eq!(fs::read_to_string(guest.join("file")).unwrap(), "old");
    assert!(guest.join("link").is_symlink());
    with(act, |copy| copy.to_container(&host.join("old"), "/therelink")).unwrap();
    assert_eq!(fs::read_to_string(guest.join("there/old")).unwrap(), "old");
    symlink("round", guest.join("round")).unwrap();
    let error = with(act, |copy| copy.to_container(&host.join("old"), "/round")).unwrap_err();
    assert!(matches!(error, CopyError::Links(_)), "{error}");
}

#[test]
fn link_as_the_source_is_what_it_leads_to_when_asked() {
    let place = place();
    let (host, guest) = (place.path().join("host"), place.path().join("guest"));
    let act = |agent: &mut Agent, request: &Request| honest(agent, &guest, request);
    with(act, |copy| Copy { follow: true, ..copy }.to_host("/link", &host.join("a"))).unwrap();
    assert_eq!(fs::read_to_string(host.join("a")).unwrap(), "guest");
    assert!(!host.join("a").is_symlink());
    with(act, |copy| Copy { follow: true, ..copy }.to_host("/dirlink", &host.join("there")))
        .unwrap();
    assert_eq!(fs::read_to_string(host.join("there/dirlink/sub/x")).unwrap(), "guest");
    with(act, |copy| Copy { follow: true, ..copy }.to_container(&host.join("link"), "/b")).unwrap();
    assert_eq!(fs::read_to_string(guest.join("b")).unwrap(), "host");
}

#[test]
fn special_files_and_wrong_ends_are_one_clear_sentence() {
    let place = place();
    let (host, guest) = (place.path().join("host"), place.path().join("guest"));
    let act = |agent: &mut Agent, request: &Request| honest(agent, &guest, request);
    let error = with(act, |copy| copy.to_host("/file", Path::new("/dev/null"))).unwrap_err();
    assert!(error.to_string().contains("/dev/null is neither"), "{error}");
    let error = with(act, |copy| copy.to_container(Path::new("/dev/null"), "/x")).unwrap_err();
    assert!(error.to_string().contains("neither file nor directory"), "{error}");
    let error = with(act, |copy| copy.to_host("/dir", &host.join("old/"))).unwrap_err();
    assert!(error.to_string().contains("which is a file"), "{error}");
    let error = with(act, |copy| copy.to_container(&host.join("dir"), "/old/")).unwrap_err();
    assert!(error.to_string().contains("already that is no directory"), "{error}");
    let error = with(act, |copy| copy.from_stream(&mut &b""[..], "/file")).unwrap_err();
    assert!(error.to_string().contains("/file is not a directory"), "{error}");
    let error = with(act, |copy| copy.from_stream(&mut &b"\x1f\x8b\x08rest"[..], "/")).unwrap_err();
    assert!(error.to_string().contains("gzip -dc FILE | vmm cp - "), "{error}");
    let error = with(act, |copy| copy.from_stream(&mut &[7; 5000][..], "/")).unwrap_err();
    assert!(error.to_string().contains("not a tar stream"), "{error}");
    assert!(!host.join("x").exists());
    let refused = |_: &Request| Err(io::ErrorKind::ConnectionRefused.into());
    let (follow, archive) = (false, false);
    let copy = Copy { connect: &refused, archive, follow, progress: &|_| (), stop: None };
    assert!(matches!(copy.to_host("/x", &host), Err(CopyError::Unreachable(_))));
}

#[test]
fn streams_pass_as_they_are() {
    let place = place();
    let (host, guest) = (place.path().join("host"), place.path().join("guest"));
    let act = |agent: &mut Agent, request: &Request| honest(agent, &guest, request);
    let data: Vec<u8> = (0..900_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(guest.join("dir/data"), &data).unwrap();
    let mut bytes = vec![];
    let count = with(act, |copy| copy.to_stream("/dir", &mut bytes)).unwrap();
    assert_eq!(count, bytes.len() as u64);
    assert!(count > 3_600_000);
    with(act, |copy| copy.from_stream(&mut bytes.as_slice(), "/there")).unwrap();
    assert!(fs::read(guest.join("there/dir/data")).unwrap() == data);
    let told = std::cell::Cell::new(0);
    let progress = |count| told.set(count);
    let count = with(act, |copy| {
        Copy { progress: &progress, ..copy }.to_container(&host.join("dir"), "/new")
    });
    assert_eq!(count.unwrap(), told.get());
}

/// An archive with one file of 4 MiB, without its end.
fn much() -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4 << 20).unwrap();
    let source = Source {
        open: &|flags| open(file.path(), flags, Mode::empty()),
        name: b"x",
        follow: false,
        owner: None,
        one_file_system: false,
    };
    let mut bytes = vec![];
    archive::send(&source, &mut bytes).unwrap();
    bytes.truncate(3 << 20);
    bytes
}

/// F3: agents that lie, stop, refuse amid a file, say what nobody asked for, or never end. Each is one
/// clear error, and nothing that is not whole has a name.
#[test]
fn hostile_agents_leave_nothing_behind() {
    type Act = fn(&mut Agent);
    let acts: [(&str, Act); 14] = [
        ("ended before", |_| ()),
        ("ended before", |agent| agent.found(FileKind::File)),
        ("ended before", |agent| {
            agent.found(FileKind::Directory);
            agent.pour(&much());
        }),
        ("disk [2J on fire", |agent| {
            agent.found(FileKind::File);
            agent.pour(&much());
            agent.refuse(Refusal::Other, "disk \x1b[2J on fire\n");
        }),
        ("ends too early", |agent| {
            agent.found(FileKind::File);
            agent.pour(&much());
            agent.say(&Reply::Copied);
        }),
        ("ends too early", |agent| {
            agent.found(FileKind::File);
            agent.say(&Reply::Copied);
        }),
        ("makes no sense", |agent| agent.say(&Reply::Copied)),
        ("makes no sense", |agent| {
            agent.found(FileKind::File);
            agent.pour(&much());
            agent.found(FileKind::File);
        }),
        ("makes no sense", |agent| {
            agent.found(FileKind::File);
            agent.say(&Reply::Credit(u32::MAX));
        }),
        ("makes no sense", |agent| {
            agent.found(FileKind::File);
            agent.pour(&much());
            let _ = agent.socket.write_all(&[0xff; 100]);
        }),
        ("makes no sense", |agent| {
            let mut out = vec![];
            push_data(&mut out, Kind::Stderr, b"hello");
            let _ = agent.socket.write_all(&out);
        }),
        ("not a tar stream", |agent| {
            agent.found(FileKind::File);
            while agent.write_all(&[7; MAX_DATA]).is_ok() {}
        }),
        ("goes on behind its end", |agent| {
            agent.found(FileKind::File);
            while agent.write_all(&[0; MAX_DATA]).is_ok() {}
        }),
        ("not in the container: x", |agent| agent.refuse(Refusal::NotFound, "x")),
    ];
    for (words, act) in acts {
        for (to, from) in [("new", "/x"), ("old", "/x"), ("there", "/x"), ("there", "/x/.")] {
            let place = place();
            let host = place.path().join("host");
            let done = with(|agent, _| act(agent), |copy| copy.to_host(from, &host.join(to)));
            let error = done.expect_err(words).to_string();
            let is_said = error.replace('\u{fffd}', "").contains(words);
            let is_about_the_kind = to == "old" && error.contains("which is a file")
                || from == "/x/." && error.contains("a directory already");
            assert!(is_said || is_about_the_kind, "{error}");
            assert!(!error.chars().any(char::is_control), "{error:?}");
            assert_eq!(fs::read_to_string(host.join("old")).unwrap(), "old");
            assert_eq!(fs::read_dir(&host).unwrap().count(), 7, "{words}");
            assert_eq!(fs::read_dir(host.join("there")).unwrap().count(), 0, "{words}");
        }
    }
}

/// F3: a guest that says that it sends a file, and sends a tree that climbs out, by way of the host's own
/// rules for names.
#[test]
fn hostile_archives_stay_inside_of_the_destination() {
    let header = |link: &str, name: &str| {
        let place = tempfile::tempdir().unwrap();
        symlink(link, place.path().join("l")).unwrap();
        let mut bytes = vec![];
        let source = Source {
            open: &|flags| open(place.path().join("l"), flags, Mode::empty()),
            name: name.as_bytes(),
            follow: false,
            owner: None,
            one_file_system: false,
        };
        archive::send(&source, &mut bytes).unwrap();
        bytes.truncate(bytes.len() - 1024);
        bytes
    };
    for kind in [FileKind::File, FileKind::Directory] {
        for (from, to) in
            [("/x", "new"), ("/x", "there"), ("/x/.", "there"), ("/", "there"), ("/x", "old")]
        {
            for name in [
                "../../outside/e",
                "/outside/e",
                "x/../../../outside/e",
                "x/l/e",
                "therelink/l/e",
                "..",
                "",
            ] {
                let place = place();
                let (host, outside) = (place.path().join("host"), place.path().join("outside"));
                let target = outside.to_str().unwrap();
                let bytes =
                    [header(target, "x/l"), header("hostile", name), vec![0; 1024]].concat();
                let act = |agent: &mut Agent, _: &Request| {
                    agent.found(kind);
                    agent.pour(&bytes);
                    agent.say(&Reply::Copied);
                };
                let _ = with(act, |copy| copy.to_host(from, &host.join(to)));
                assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{from} {to} {name}");
                assert_eq!(fs::read_dir(place.path()).unwrap().count(), 3, "{from} {to} {name}");
            }
        }
    }
}

/// F3: an agent that takes what goes in without end, or says no in the middle.
#[test]
fn hostile_agents_end_copies_that_go_in() {
    let place = place();
    let data = vec![1; 4 << 20];
    fs::write(place.path().join("host/data"), &data).unwrap();
    type Act = fn(&mut Agent);
    let acts: [(&str, Act); 6] = [
        ("ended before", |_| ()),
        ("no room", |agent| agent.refuse(Refusal::Other, "no room")),
        ("no room", |agent| {
            let mut some = vec![0; 1 << 20];
            agent.read_exact(&mut some).unwrap();
            agent.refuse(Refusal::Other, "no room");
        }),
        ("makes no sense", |agent| agent.pour(b"what?")),
        ("makes no sense", |agent| agent.say(&Reply::Copied)),
        ("ended before", |agent| {
            for _ in 0..1000 {
                agent.say(&Reply::Credit(u32::MAX));
            }
            let mut some = vec![0; 1 << 20];
            agent.read_exact(&mut some).unwrap();
        }),
    ];
    for (words, act) in acts {
        let answer = |agent: &mut Agent, request: &Request| match request {
            Request::Stat { .. } => agent.found(FileKind::Directory),
            _ => act(agent),
        };
        let from = place.path().join("host/data");
        let done = with(answer, |copy| copy.to_container(&from, "/tmp"));
        let error = done.expect_err(words);
        assert!(error.to_string().contains(words), "{words}: {error}");
        let done = with(answer, |copy| copy.from_stream(&mut data.as_slice(), "/tmp"));
        assert!(done.expect_err(words).to_string().contains(words), "{words}");
    }
}

/// F3: a guest that says nothing more is waited for until the user has enough of it.
#[test]
fn copy_that_is_stopped_leaves_nothing_behind() {
    let place = place();
    let host = place.path().join("host");
    let (stop, stopper) = UnixStream::pair().unwrap();
    let (hold, held) = UnixStream::pair().unwrap();
    let act = |agent: &mut Agent, _: &Request| {
        agent.found(FileKind::File);
        agent.pour(&much());
        (&stopper).write_all(b"x").unwrap();
        // Until the copy has ended.
        let _ = (&held).read(&mut [0]);
    };
    let done = with(act, |copy| {
        let done = Copy { stop: Some(stop.as_fd()), ..copy }.to_host("/x", &host.join("new"));
        hold.shutdown(std::net::Shutdown::Both).unwrap();
        done
    });
    assert!(matches!(done, Err(CopyError::Stopped)), "{done:?}");
    assert_eq!(fs::read_dir(&host).unwrap().count(), 7);
}

#[test]
fn words_are_ends_as_docker_reads_them() {
    let end = |word: &str| End::parse(OsStr::new(word));
    let inside = |container: &str, path: &str| {
        let (container, path) = (container.to_owned(), path.to_owned());
        End::Container { container, path }
    };
    assert_eq!(end("web:/etc/x").unwrap(), inside("web", "/etc/x"));
    assert_eq!(end("web:etc/").unwrap(), inside("web", "/etc/"));
    assert_eq!(end("web:a:b").unwrap(), inside("web", "/a:b"));
    assert_eq!(end("web:.").unwrap(), inside("web", "/."));
    assert_eq!(end("-").unwrap(), End::Stream);
    for host in ["file", "./a:b", "../a:b", "/a:b", ".", "a/b"] {
        assert_eq!(end(host).unwrap(), End::Host(host.into()), "{host}");
    }
    assert!(matches!(end(""), Err(EndError::Empty)));
    assert!(matches!(end(":x"), Err(EndError::NoContainer(_))));
    assert!(matches!(end("web:"), Err(EndError::NoPath(_))));
    let raw = std::os::unix::ffi::OsStrExt::from_bytes(b"web:\xff");
    assert!(matches!(End::parse(raw), Err(EndError::NotText)));
    let raw: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff");
    assert_eq!(End::parse(raw).unwrap(), End::Host(raw.into()));
}
