use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use tempfile::TempDir;

use super::*;
use crate::container::testing::spec;

fn containers() -> (TempDir, Containers) {
    let top = tempfile::tempdir().expect("temporary directory");
    let paths = Paths { data: top.path().join("data"), runtime: top.path().join("run") };
    let containers = Containers::open(paths).expect("opened");
    (top, containers)
}

fn count(path: PathBuf) -> usize {
    fs::read_dir(path)
        .expect("directory")
        .filter(|e| e.as_ref().is_ok_and(|e| e.path().is_dir()))
        .count()
}

/// Nothing of a container is left, once somebody has looked.
#[track_caller]
fn assert_none(containers: &Containers) {
    assert_eq!(containers.list().expect("listed").len(), 0);
    assert_eq!(count(containers.paths().containers()), 0);
    assert_eq!(count(containers.paths().runtime.clone()), 0);
}

#[test]
fn container_is_found_by_name_identifier_and_beginning() {
    let (_top, containers) = containers();
    let (one, _lock) = containers.create(spec("one")).expect("made");
    let (_two, _other) = containers.create(spec("two")).expect("made");
    let id = one.spec().id.clone();
    for key in ["one", id.as_str(), id.short()] {
        assert_eq!(containers.find(key).expect(key).0.spec(), one.spec());
    }
    for key in ["", "three", "../one", "/"] {
        assert!(matches!(containers.find(key), Err(ContainerError::NoSuch(_))), "{key}");
    }
}

#[test]
fn sockets_of_a_container_are_found_without_its_specification() {
    let (_top, containers) = containers();
    let (one, lock) = containers.create(spec("one")).expect("made");
    let (_two, _other) = containers.create(spec("two")).expect("made");
    for key in ["one", one.spec().id.as_str(), one.spec().id.short()] {
        assert_eq!(containers.sockets(key).expect(key).as_deref(), Some(one.sockets()));
    }
    assert_eq!(containers.sockets("three").expect("looked"), None);
    assert_eq!(containers.sockets("").expect("looked"), None);
    one.remove(&lock).expect("removed");
    assert_eq!(containers.sockets("one").expect("looked"), None);
}

/// P1: a power cut took the text of the lock, which is never waited for.
#[test]
fn container_whose_lock_says_nothing_is_found_by_its_name() {
    let (_top, containers) = containers();
    let (one, _lock) = containers.create(spec("one")).expect("made");
    fs::write(one.file(LOCK), "").expect("emptied");
    assert_eq!(containers.find("one").expect("known").0.spec(), one.spec());
    assert_eq!(containers.sockets("one").expect("known").as_deref(), Some(one.sockets()));
}

#[test]
fn beginning_of_two_identifiers_is_no_container() {
    let (_top, containers) = containers();
    let made: Vec<_> =
        (0..17).map(|n| containers.create(spec(&format!("name{n}"))).expect("made")).collect();
    let first = |(container, _): &(Container, Lock)| container.spec().id.as_str()[..1].to_owned();
    let mut digits: Vec<_> = made.iter().map(first).collect();
    digits.sort();
    let twice = digits.windows(2).find(|pair| pair[0] == pair[1]).expect("17 of 16 digits");
    let key = &twice[0];
    assert!(matches!(containers.find(key), Err(ContainerError::Ambiguous(_))), "{key}");
    assert_eq!(containers.sockets(key).expect("looked"), None);
}

#[test]
fn name_is_given_once() {
    let (_top, containers) = containers();
    let (one, lock) = containers.create(spec("web")).expect("made");
    let error = containers.create(spec("web")).expect_err("taken").to_string();
    assert!(error.contains(one.spec().id.short()), "{error}");
    assert_eq!(count(containers.paths().containers()), 1);
    one.remove(&lock).expect("removed");
    containers.create(spec("web")).expect("free again");
}

#[test]
fn container_without_keeper_is_found_to_have_ended() {
    let (_top, containers) = containers();
    let (container, lock) = containers.create(spec("one")).expect("made");
    let running = Status::Running { started: Timestamp::now(), keeper: 1 };
    container.set_status(&running).expect("written");
    assert_eq!(containers.find("one").expect("there").1, running);
    drop(lock);
    let (_, status) = containers.find("one").expect("there");
    assert!(matches!(&status, Status::Exited { code: 255, error: Some(_), .. }), "{status:?}");
    assert_eq!(containers.find("one").expect("there").1, status, "once is enough");
    assert_eq!(count(containers.paths().runtime.clone()), 0);
}

#[test]
fn container_to_be_removed_is_removed_when_its_keeper_is_dead() {
    let (_top, containers) = containers();
    let spec = Spec { auto_remove: true, ..spec("one") };
    let (_container, lock) = containers.create(spec).expect("made");
    assert_eq!(containers.list().expect("listed").len(), 1);
    drop(lock);
    assert_none(&containers);
}

/// P2: it stands in nobody's way, also when nothing but further containers is asked for.
#[test]
fn name_of_a_dead_container_that_was_to_be_removed_is_free() {
    let (_top, containers) = containers();
    for auto_remove in [true, true, false] {
        let spec = Spec { auto_remove, ..spec("one") };
        let (_container, lock) = containers.create(spec).expect("made");
        drop(lock);
    }
    assert!(matches!(containers.create(spec("one")), Err(ContainerError::NameTaken { .. })));
}

#[test]
fn group_that_cannot_be_removed_hides_no_container() {
    let (top, containers) = containers();
    let (container, lock) = containers.create(spec("one")).expect("made");
    let group = top.path().join("group");
    fs::create_dir_all(group.join("held")).expect("made");
    container.note_group(&group).expect("noted");
    drop(lock);
    for _ in 0..2 {
        let found = containers.find("one").expect("known");
        assert!(matches!(found.1, Status::Exited { code: 255, .. }), "{:?}", found.1);
    }
    let lock = container.try_lock().expect("no error").expect("free");
    assert!(container.remove(&lock).is_err());
    fs::remove_dir(group.join("held")).expect("let go");
    container.remove(&lock).expect("removed");
    drop(lock);
    assert_none(&containers);
}

/// P2: whatever part of the making or the removal was interrupted, nothing is left.
#[test]
fn halves_of_containers_are_removed() {
    let (_top, containers) = containers();
    let (container, lock) = containers.create(spec("one")).expect("made");
    fs::remove_file(container.file(SPEC)).expect("interrupted");
    assert_eq!(containers.list().expect("listed").len(), 0);
    assert_eq!(count(containers.paths().containers()), 1, "somebody is at it");
    drop(lock);
    assert_none(&containers);
}

/// P2: a torn file is no reason to fail.
#[test]
fn torn_status_counts_as_not_yet_said() {
    let (_top, containers) = containers();
    let (container, _lock) = containers.create(spec("one")).expect("made");
    fs::write(container.file(STATUS), b"{\"state\":\"run").expect("torn");
    assert_eq!(container.status().expect("read"), Status::Created);
    assert!(containers.find("one").is_ok());
}

#[test]
fn container_that_its_keeper_removed_is_waited_for_no_longer() {
    let (_top, containers) = containers();
    let (container, lock) = containers.create(spec("one")).expect("made");
    container.remove(&lock).expect("removed");
    assert!(container.wait_for_keeper().expect("no error").is_none());
}

/// P2: a power cut leaves any part of any file, or a file of nothing. What was torn is no container any more,
/// or one that has ended; the others are as they were.
#[test]
fn files_torn_anywhere_never_keep_a_command_from_its_work() {
    let (_top, containers) = containers();
    let (_other, _held) = containers.create(spec("other")).expect("made");
    for name in [SPEC, STATUS, GROUP] {
        let (container, lock) = containers.create(spec("one")).expect("made");
        let running = Status::Running { started: Timestamp::now(), keeper: 1 };
        container.set_status(&running).expect("written");
        container.note_group(Path::new("/sys/fs/cgroup/no/such/group")).expect("written");
        let whole = fs::read(container.file(name)).expect("read");
        drop(lock);
        for len in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
            fs::write(container.file(name), &whole[..len]).expect("torn");
            let listed = containers.list().expect("listed");
            let names: Vec<_> = listed.iter().map(|(c, _)| c.spec().name.as_str()).collect();
            if name == SPEC {
                assert_eq!(names, ["other"], "{len}");
                make_private(&container.directory).expect("made again");
            } else {
                assert_eq!(names, ["other", "one"], "{name} {len}");
                assert!(matches!(listed[1].1, Status::Exited { .. }), "{name} {len}");
            }
        }
        let left = Lock::wait(&container.file(LOCK)).expect("free");
        container.remove(&left).expect("removed");
    }
    assert_eq!(count(containers.paths().containers()), 1);
}

/// P7: a file that cannot be read is not taken for a torn one.
#[test]
fn file_that_cannot_be_read_is_an_error_and_stays() {
    let (_top, containers) = containers();
    let (container, lock) = containers.create(spec("one")).expect("made");
    drop(lock);
    fs::rename(container.file(SPEC), container.file("kept")).expect("moved");
    fs::create_dir(container.file(SPEC)).expect("a directory cannot be read");
    assert!(matches!(containers.list(), Err(ContainerError::File { .. })));
    fs::remove_dir(container.file(SPEC)).expect("still there");
    fs::rename(container.file("kept"), container.file(SPEC)).expect("still there");
    assert_eq!(containers.list().expect("listed").len(), 1);
}

/// L6: commands that look at containers while others make and remove them.
#[test]
fn containers_that_come_and_go_disturb_nobody() {
    let (_top, containers) = containers();
    let cycles = |name: &str| {
        for _ in 0..300 {
            let (container, lock) = containers.create(spec(name)).expect("made");
            container.set_status(&Status::Created).expect("written");
            container.remove(&lock).expect("removed");
        }
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let makers = ["one", "two"].map(|name| scope.spawn(move || cycles(name)));
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    containers.list().expect("listed");
                }
            });
        }
        let joined = makers.map(thread::ScopedJoinHandle::join);
        done.store(true, Relaxed);
        assert!(joined.iter().all(Result::is_ok));
    });
    assert_none(&containers);
}

/// L6: of several that remove a container at once each finds it gone or removes it.
#[test]
fn container_is_removed_by_several_at_once() {
    let (_top, containers) = containers();
    for _ in 0..100 {
        let (container, lock) = containers.create(spec("one")).expect("made");
        let remove = || {
            if let Some(lock) = container.wait_for_keeper().expect("no error") {
                container.remove(&lock).expect("removed");
            }
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(remove);
            }
            drop(lock);
        });
        assert_eq!(count(containers.paths().containers()), 0);
    }
}
