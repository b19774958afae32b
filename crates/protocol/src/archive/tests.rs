use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::tar::{self, BLOCK, Entry, EntryKind};
use super::{CopyError, Links, Names, Source, Target, receive, send};

fn entry(kind: EntryKind, name: &str) -> Entry {
    let name = name.into();
    Entry { kind, name, link: vec![], mode: 0o755, uid: 0, gid: 0, size: 0, modified: 7 }
}

fn linked(kind: EntryKind, name: &str, link: &str) -> Vec<u8> {
    tar::header(&Entry { link: link.into(), ..entry(kind, name) })
}

fn directory(name: &str) -> Vec<u8> {
    tar::header(&entry(EntryKind::Directory, name))
}

/// An entry of a kind that is never written here.
fn of_kind(kind: u8, entry: &Entry) -> Vec<u8> {
    let mut bytes = tar::header(entry);
    bytes[156] = kind;
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let size = content.len() as u64;
    let mut bytes = tar::header(&Entry { size, ..entry(EntryKind::File, name) });
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn ended(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 2 * BLOCK]].concat()
}

fn handle(path: &Path) -> std::os::fd::OwnedFd {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn unpack(stream: &mut impl Read, into: &Path, names: Names) -> Result<(), CopyError> {
    let (directory, links) = (handle(into), Links::Refused);
    receive(Target { directory, links, names, owners: false }, stream)
}

/// The same, with the owners that the archive says.
fn unpack_all(stream: &mut impl Read, into: &Path, names: Names) -> Result<(), CopyError> {
    let (directory, links) = (handle(into), Links::Refused);
    receive(Target { directory, links, names, owners: true }, stream)
}

fn pack(path: &Path, name: &str) -> Vec<u8> {
    let mut bytes = vec![];
    let source = Source {
        open: &|flags| open(path, flags | OFlags::CLOEXEC, Mode::empty()),
        name: name.as_bytes(),
        follow: false,
        owner: None,
        one_file_system: false,
    };
    send(&source, &mut bytes).unwrap();
    bytes
}

/// All that is below a directory, with what tells one thing from another.
fn tree(top: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![top.to_owned()];
    while let Some(path) = pending.pop() {
        for item in fs::read_dir(&path).unwrap() {
            let path = item.unwrap().path();
            let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
            let stat = path.symlink_metadata().unwrap();
            let (mode, time) = (stat.mode(), stat.mtime());
            let told = if stat.is_dir() {
                pending.push(path);
                format!("directory {mode:o} {time}")
            } else if stat.is_symlink() {
                format!("-> {} {time}", path.read_link().unwrap().display())
            } else if stat.is_file() {
                let sum = fs::read(&path).unwrap().iter().map(|byte| u64::from(*byte)).sum::<u64>();
                format!("file {mode:o} {time} {} {sum} x{}", stat.len(), stat.nlink())
            } else {
                format!("other {mode:o} {time}")
            };
            found.insert(name, told);
        }
    }
    found
}

fn made(top: &Path) {
    let long = "n".repeat(200);
    fs::create_dir_all(top.join(&long).join("deep")).unwrap();
    fs::write(top.join("program"), "#!").unwrap();
    fs::set_permissions(top.join("program"), PermissionsExt::from_mode(0o4751)).unwrap();
    fs::hard_link(top.join("program"), top.join(&long).join("other")).unwrap();
    fs::write(top.join("empty"), "").unwrap();
    symlink("/nowhere/at/all", top.join("link")).unwrap();
    symlink("t".repeat(300), top.join("long link")).unwrap();
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 20 << 20).unwrap();
    sparse.set_len(40 << 20).unwrap();
    let data: Vec<u8> = (0..300_001_u32).map(|i| i.to_le_bytes()[0] | 1).collect();
    fs::write(top.join(&long).join("deep/data"), data).unwrap();
    rustix::fs::mknodat(handle(top), "pipe", rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(top.join("socket")).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in ["program", "empty", "sparse"] {
        File::open(top.join(name)).unwrap().set_modified(old).unwrap();
    }
    fs::set_permissions(top.join(&long).join("deep"), PermissionsExt::from_mode(0o555)).unwrap();
    fs::set_permissions(top.join(&long), PermissionsExt::from_mode(0o2750)).unwrap();
}

#[test]
fn tree_returns_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    made(&from);
    let bytes = pack(&from, "from");
    for names in [Names::Kept, Names::Renamed("again".into()), Names::Kept] {
        unpack_all(&mut bytes.as_slice(), &to, names).unwrap();
    }
    let mut expected = tree(&from);
    assert!(expected.remove("socket").is_some());
    assert!(expected["program"].starts_with("file 104751 1000000000 2 "), "{expected:?}");
    assert!(expected["program"].ends_with(" x2"));
    assert_eq!(tree(&to.join("from")), expected);
    assert_eq!(tree(&to.join("again")), expected);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
    let sparse = to.join("from/sparse").metadata().unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20, "{} blocks", sparse.blocks());
    // Its content alone, and the directory that it goes to stays as it is.
    let content = place.path().join("content");
    fs::create_dir(&content).unwrap();
    fs::set_permissions(&content, PermissionsExt::from_mode(0o700)).unwrap();
    unpack_all(&mut pack(&from, ".").as_slice(), &content, Names::Content).unwrap();
    assert_eq!(tree(&content), expected);
    assert_eq!(content.metadata().unwrap().mode() & 0o7777, 0o700);
    // Whose programs they are is not known: they set nobody's number.
    unpack(&mut bytes.as_slice(), &content, Names::Kept).unwrap();
    let mode = |name: &str| content.join(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("program"), mode("from/program")), (0o4751, 0o751));
    assert_eq!(mode(&format!("from/{}", "n".repeat(200))), 0o750);
}

/// F3: climbing and absolute names, names through links that the archive brings or that are there, second
/// names of files outside, devices: whatever the archive says, nothing outside is touched.
#[test]
fn nothing_is_made_outside_of_the_destination() {
    use EntryKind::{Directory, File, HardLink, Link};
    let place = tempfile::tempdir().unwrap();
    let outside = place.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let before = tree(&outside);
    let there = outside.to_str().unwrap();
    let secret = outside.join("secret").to_str().unwrap().to_owned();
    let through = |link: &str| [linked(Link, "a/l", link), file("a/l/x", b"hostile")].concat();
    let archives = [
        file("../outside/x", b"hostile"),
        file("a/../../outside/x", b"hostile"),
        file("a/b/../../../outside/secret", b"hostile"),
        file("..", b"hostile"),
        directory("a/.."),
        file(&format!("{there}/x"), b"hostile"),
        through(there),
        through("../../outside"),
        through("../../../../../../../../.."),
        through("/proc/self/root"),
        [linked(Link, "a/l", there), directory("a/l/"), file("a/l/x", b"hostile")].concat(),
        [linked(Link, "a/l", &secret), file("a/l", b"replaces the link")].concat(),
        [linked(Link, "a/l", &secret), linked(HardLink, "a/h", "a/l"), file("a/h", b"x")].concat(),
        [linked(Link, "a/l", there), linked(HardLink, "a/h", "a/l/secret")].concat(),
        linked(HardLink, "a/h", &secret),
        linked(HardLink, "a/h", "../outside/secret"),
        linked(HardLink, "a/h", "a/../../outside/secret"),
        [linked(Link, "a/l", there), linked(HardLink, "a/l/h", "a/f")].concat(),
        [linked(Link, "a/l", there), linked(Link, "a/l/m", "x")].concat(),
        file("there/x", b"hostile"),
        directory("there/"),
        linked(HardLink, "a/h", "there/secret"),
        of_kind(b'3', &entry(File, "a/null")),
        of_kind(b'4', &entry(File, "a/disk")),
        [directory("a"), file("a", b"a file for a directory")].concat(),
        [file("a/f", b""), directory("a/f/"), file("a/f/x", b"")].concat(),
        tar::header(&Entry { size: 4, ..entry(File, "") }),
        tar::header(&entry(Directory, "")),
        file("a\0b", b"x"),
    ];
    let mut refused = 0;
    for (number, archive) in archives.iter().enumerate() {
        for names in [Names::Kept, Names::Renamed("a".into()), Names::Content] {
            let inside = place.path().join("inside");
            fs::create_dir(&inside).unwrap();
            symlink(&outside, inside.join("there")).unwrap();
            fs::create_dir(inside.join("a")).unwrap();
            let result = unpack(
                &mut ended(std::slice::from_ref(archive)).as_slice(),
                &inside,
                names.clone(),
            );
            refused += u32::from(result.is_err());
            assert_eq!(tree(&outside), before, "archive {number} {names:?}");
            let found: Vec<_> =
                fs::read_dir(place.path()).unwrap().map(|item| item.unwrap().file_name()).collect();
            assert_eq!(found.len(), 2, "archive {number} {names:?}: {found:?}");
            assert!(!tree(&inside).keys().any(|name| name.contains(".vmm-cp")), "archive {number}");
            fs::remove_dir_all(inside).unwrap();
        }
    }
    assert!(refused > 40, "{refused}");
}

/// F3: what is in the way is said, in words that no archive can choose.
#[test]
fn refusals_say_why_and_are_fit_for_a_terminal() {
    let place = tempfile::tempdir().unwrap();
    let said = |archive: &[Vec<u8>]| {
        let result = unpack(&mut ended(archive).as_slice(), place.path(), Names::Kept);
        result.unwrap_err().to_string()
    };
    symlink("/etc", place.path().join("l")).unwrap();
    fs::create_dir(place.path().join("d")).unwrap();
    fs::write(place.path().join("f"), "").unwrap();
    assert!(said(&[file("l/x", b"")]).contains("a symbolic link is in the way"));
    assert!(said(&[directory("l")]).contains("a symbolic link is in the way"));
    assert!(said(&[file("../x", b"")]).contains("leads upwards"));
    assert!(said(&[file("d", b"")]).contains("a directory already"));
    assert!(said(&[directory("f")]).contains("no directory"));
    assert!(said(&[of_kind(b'3', &entry(EntryKind::File, "x"))]).contains("device"));
    assert!(said(&[vec![7; BLOCK]]).contains("not a tar stream"));
    let text = said(&[file("../\x1b]0;title\x07\u{9b}2J\n", b"")]);
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(said(&[file(&format!("../{}", "x".repeat(60_000)), b"")]).len() < 2000);
    let old = CopyError::file(b"x", Errno::NOSYS).to_string();
    assert!(old.contains("openat2") && old.contains("5.6"), "{old}");
}

/// F3: sizes that are no content's, ends too early, and a file that was there before.
#[test]
fn file_that_is_not_whole_has_no_name() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("a"), "before").unwrap();
    let before = tree(place.path());
    for size in [10, 513, 1 << 20, 1 << 40, u64::MAX] {
        for name in ["a", "new"] {
            let mut bytes = tar::header(&Entry { size, ..entry(EntryKind::File, name) });
            bytes.extend(b"only this");
            let error = unpack(&mut bytes.as_slice(), place.path(), Names::Kept).unwrap_err();
            assert!(matches!(error, CopyError::Stream(_)), "{error}");
            assert!(error.to_string().contains("ends too early"), "{error}");
            assert_eq!(tree(place.path()), before, "{size}");
        }
    }
    let error = unpack(&mut file("a", b"")[..100].as_ref(), place.path(), Names::Kept);
    assert!(matches!(error, Err(CopyError::Stream(_))));
    let bytes = [file("a", b"after"), vec![0; BLOCK]].concat();
    unpack(&mut bytes.as_slice(), place.path(), Names::Kept).unwrap();
    assert_eq!(fs::read(place.path().join("a")).unwrap(), b"after");
}

/// What somebody sends for ever.
struct Endless<'a>(&'a [u8], &'a [u8]);

impl Read for Endless<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            self.0 = self.1;
        }
        self.0.read(room)
    }
}

/// F3: headers about the next entry without a next entry, names without end, bytes behind the end.
#[test]
fn streams_without_end_are_given_up() {
    let place = tempfile::tempdir().unwrap();
    let zeros = [0; BLOCK];
    let mut comment = tar::header(&entry(EntryKind::File, &"n".repeat(120)));
    comment.truncate(2 * BLOCK);
    let long = of_kind(b'L', &Entry { size: 1 << 30, ..entry(EntryKind::File, "x") });
    for (what, first, again) in [
        ("zeros", &zeros[..], &zeros[..]),
        ("headers", &comment, &comment),
        ("a name", &long, &zeros),
        ("nonsense", &zeros, b"x"),
    ] {
        let result = unpack(&mut Endless(first, again), place.path(), Names::Kept);
        assert!(matches!(result, Err(CopyError::Stream(_))), "{what}");
    }
    assert_eq!(tree(place.path()), BTreeMap::new());
    // The same directory for ever is one directory to remember.
    let again = directory("d/").repeat(20_000);
    unpack(&mut ended(&[again]).as_slice(), place.path(), Names::Kept).unwrap();
    assert_eq!(tree(place.path()).len(), 1);
}

/// F3: directories swapped for links, by somebody else, while files go into them.
#[test]
fn directories_swapped_for_links_lead_nowhere() {
    let place = tempfile::tempdir().unwrap();
    let (inside, outside) = (place.path().join("inside"), place.path().join("outside"));
    for directory in [&inside, &outside, &inside.join("d"), &inside.join("spare")] {
        fs::create_dir(directory).unwrap();
    }
    symlink(&outside, inside.join("link")).unwrap();
    let bytes =
        ended(&[directory("d/"), file("d/x", b"x"), linked(EntryKind::HardLink, "d/y", "d/x")]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let exchange = |one: &str, other: &str| {
                let directory = handle(&inside);
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&directory, one, &directory, other, flags).unwrap();
            };
            while !done.load(Ordering::Relaxed) {
                exchange("d", "link");
                exchange("d", "link");
            }
        });
        let tried = (0..500).map(|_| unpack(&mut bytes.as_slice(), &inside, Names::Kept).is_ok());
        let good = tried.filter(|good| *good).count();
        done.store(true, Ordering::Relaxed);
        assert!(good < 500, "never swapped");
    });
    assert_eq!(tree(&outside), BTreeMap::new());
}

#[test]
fn owners_that_are_none_are_refused() {
    let place = tempfile::tempdir().unwrap();
    for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
        for kind in [EntryKind::File, EntryKind::Link, EntryKind::Directory, EntryKind::Fifo] {
            let link = b"x".to_vec();
            let bytes = ended(&[tar::header(&Entry { uid, gid, link, ..entry(kind, "x") })]);
            let (directory, links) = (handle(place.path()), Links::Refused);
            let target = Target { directory, links, names: Names::Kept, owners: true };
            assert!(receive(target, &mut bytes.as_slice()).is_err(), "{kind:?}");
        }
    }
}

#[test]
fn links_are_followed_when_the_root_is_all_there_is() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("usr")).unwrap();
    symlink("usr", place.path().join("bin")).unwrap();
    let (directory, links) = (handle(place.path()), Links::Followed);
    let target = Target { directory, links, names: Names::Kept, owners: false };
    receive(target, &mut ended(&[file("./bin/x", b"x")]).as_slice()).unwrap();
    assert_eq!(fs::read(place.path().join("usr/x")).unwrap(), b"x");
}

#[test]
fn owners_and_links_at_the_top_are_as_asked() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("f"), "text").unwrap();
    symlink("f", place.path().join("l")).unwrap();
    let first = |follow| {
        let mut bytes = vec![];
        let path = place.path().join("l");
        let source = Source {
            open: &|flags| open(&path, flags | OFlags::CLOEXEC, Mode::empty()),
            name: "name".as_bytes(),
            follow,
            owner: Some((1, 2)),
            one_file_system: true,
        };
        send(&source, &mut bytes).unwrap();
        tar::next(&mut bytes.as_slice()).unwrap().unwrap()
    };
    let link = first(false);
    assert_eq!((link.kind, link.link.as_slice()), (EntryKind::Link, &b"f"[..]));
    let file = first(true);
    assert_eq!((file.kind, file.size, file.uid, file.gid), (EntryKind::File, 4, 1, 2));
    assert_eq!(file.name, std::ffi::OsStr::new("name").as_bytes());
    let error = send(
        &Source {
            open: &|flags| open("/dev/null", flags, Mode::empty()),
            name: b"null",
            follow: true,
            owner: None,
            one_file_system: false,
        },
        &mut vec![],
    );
    assert!(error.unwrap_err().to_string().contains("neither file nor directory"));
}
