//! The differential test: every case in `vmm`, in runc and in crun.

use std::collections::BTreeMap;

use super::differences::{self, DIFFERENCES};
use super::runtime::{PEERS, Runtime, Subject};
use super::table::{ALONE, Alone, GROUPS, Group, Look, PROBE};
use super::world::{Ran, World};
use super::{execs, signals, terminals};

/// What was seen of a case.
pub type Seen = BTreeMap<String, String>;

/// Compares what was seen in `vmm` with what was seen in `peer`.
pub fn compare(ours: &Seen, theirs: &Seen, peer: Runtime) {
    let mut wrong = vec![];
    for (name, ours) in ours {
        let theirs = theirs.get(name).map_or("(nothing)", String::as_str);
        match (ours == theirs, differences::accepted(name, peer)) {
            (true, false) | (false, true) => {}
            (true, true) => {
                wrong.push(format!("{name}: is as in {}, against the list", peer.name()));
            }
            (false, false) => {
                wrong.push(format!("{name}:\n--- vmm\n{ours}\n--- {}\n{theirs}", peer.name()));
            }
        }
    }
    assert!(
        !ours.is_empty() && ours.len() == theirs.len(),
        "{} and {} cases",
        ours.len(),
        theirs.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Has every runtime look, and compares.
pub fn differential(peers: &[Runtime], mut look: impl FnMut(Runtime, &World) -> Seen) {
    let world = World::new();
    let ours = look(Runtime::Vmm, &world);
    let mut failed = vec![];
    for &peer in peers {
        let theirs = look(peer, &world);
        let compared = std::panic::catch_unwind(|| compare(&ours, &theirs, peer));
        failed.extend(compared.err().map(|_| peer.name()));
    }
    assert!(failed.is_empty(), "not as in {failed:?}: see above");
}

/// Runs the probes of a group in one container.
fn probe(group: &Group, runtime: Runtime, world: &World) -> Seen {
    let mut script = String::from("export LC_ALL=C\n");
    for (name, probe) in group.probes {
        script.push_str(&format!("echo '{PROBE}{name}'\n( {probe}\n) 2>&1\necho \"status $?\"\n"));
    }
    let subject = Subject::new(runtime, world, &group.options, &["sh", "-c", &script]);
    let ran = subject.run(b"");
    let text = ran.success();
    let seen = text.split(PROBE).skip(1).filter_map(|part| part.split_once('\n'));
    let seen: Seen =
        seen.map(|(name, text)| (format!("{}: {name}", group.name), text.to_owned())).collect();
    assert_eq!(seen.len(), group.probes.len(), "{}: {ran:?}", group.name);
    seen
}

fn run_alone(case: &Alone, runtime: Runtime, world: &World) -> Seen {
    let subject = Subject::new(runtime, world, &case.options, case.command);
    let Ran { status, stdout, stderr } = subject.run(&case.input());
    let text = match case.look {
        Look::All => format!("{status}\n{:x?}\n{}", digest(&stdout), digest(&stderr)),
        // Why it cannot be run is everybody's own words.
        Look::Status => format!("{status} {}", if stderr.is_empty() { "silent" } else { "told" }),
    };
    Seen::from([(case.name.to_owned(), text)])
}

/// Bytes, or what tells many of them apart from others.
fn digest(bytes: &[u8]) -> String {
    if bytes.len() <= 2048 {
        return format!("{:?}", String::from_utf8_lossy(bytes));
    }
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{} bytes, {sum:x}", bytes.len())
}

/// All cases by name.
fn names() -> Vec<String> {
    let probes = GROUPS
        .iter()
        .flat_map(|group| group.probes.iter().map(|(name, _)| format!("{}: {name}", group.name)));
    let others = [execs::NAMES, signals::NAMES, terminals::NAMES].concat();
    let alone = ALONE.iter().map(|case| case.name);
    probes.chain(alone.chain(others).map(str::to_owned)).collect()
}

#[test]
fn probes_see_what_they_see_in_runc_and_crun() {
    differential(&PEERS, |runtime, world| {
        GROUPS.iter().flat_map(|group| probe(group, runtime, world)).collect()
    });
}

#[test]
fn processes_begin_and_end_as_in_runc_and_crun() {
    differential(&PEERS, |runtime, world| {
        ALONE.iter().flat_map(|case| run_alone(case, runtime, world)).collect()
    });
}

#[test]
fn cases_are_many_and_every_accepted_difference_is_one_of_them() {
    let names = names();
    assert!(names.len() >= 80, "{} cases", names.len());
    for (position, name) in names.iter().enumerate() {
        assert!(!names[..position].contains(name), "{name} is there twice");
    }
    for difference in DIFFERENCES {
        assert!(names.iter().any(|name| name == difference.case), "{difference:?} is no case");
    }
}
