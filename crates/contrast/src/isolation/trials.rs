//! Lines of what was tried from outside: attacks, and what is asked of the host's kernel meanwhile.

use super::answers::{Bomb, Hog, shown};
use super::compare::{Cell, Line};
use super::judge::{Kind, Verdict};
use super::rules::{LIMITS, SURFACE};
use super::{Attack, Side, Surface};

/// Who takes all there is.
pub(super) fn attacks(host: &Side, container: &Side, vm: &Side) -> [Line; 2] {
    let hog = |side: &Side| match &side.hog {
        Ok(attack) => attacked(&mib(attack.said.reached_bytes), &hog(attack)),
        Err(why) => Cell::unknown(why),
    };
    let bomb = |side: &Side| match &side.bomb {
        Ok(attack) => attacked(&attack.said.made.to_string(), &bomb(attack)),
        Err(why) => Cell::unknown(why),
    };
    let line = |id: &str, what: &str, how: &str, container, vm| Line {
        id: id.to_owned(),
        group: LIMITS.to_owned(),
        what: what.to_owned(),
        how: how.to_owned(),
        host: host.hog.as_ref().err().map(|why| shown(why)),
        container,
        vm,
    };
    [
        line(
            "memory-hog",
            "a process that takes memory",
            "took and used 16 MiB at a time, 768 at most, where 512 are allowed; what the host felt: oom_kill of its \
             /proc/vmstat",
            hog(container),
            hog(vm),
        ),
        line(
            "fork-bomb",
            "processes without end",
            "made processes until one was refused, 1000 at most, where a container may have 256; what the host \
             felt: the threads in its /proc/loadavg",
            bomb(container),
            bomb(vm),
        ),
    ]
}

fn attacked(value: &str, verdict: &Verdict) -> Cell {
    let expected = verdict.kind == Kind::Contained;
    Cell::new(Some(value), verdict, Some(expected))
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn hog(attack: &Attack<Hog>) -> Verdict {
    let Hog { bound_bytes, reached_bytes, ended_by } = attack.said;
    if ended_by.is_none() && reached_bytes >= bound_bytes {
        return Verdict::new(
            Kind::NotContained,
            format!("got all {} it asked for", mib(bound_bytes)),
        );
    }
    let by = match attack.felt.oom_kills {
        Some(0) => ", and the host's kernel had nothing to do with it",
        Some(_) => " by the host's kernel",
        None => "",
    };
    Verdict::new(Kind::Contained, format!("was ended at {}{by}", mib(reached_bytes)))
}

fn bomb(attack: &Attack<Bomb>) -> Verdict {
    let (Bomb { made, refused, .. }, threads) = (&attack.said, attack.felt.threads);
    let felt = format!("the host had {threads} threads more");
    match refused {
        Some(error) => {
            Verdict::new(Kind::Contained, format!("refused after {made} ({error}); {felt}"))
        }
        None if threads < made / 2 => {
            Verdict::new(Kind::Contained, format!("its {made} are its own kernel's; {felt}"))
        }
        None => Verdict::new(Kind::NotContained, format!("made all {made}; {felt}")),
    }
}

/// What a container and a machine use of the host's kernel.
pub(super) fn surfaces(container: &Side, vm: &Side) -> [Line; 2] {
    let line = |id: &str, what: &str, how: &str, get: fn(&Surface) -> usize| {
        let count = |side: &Side| side.surface.as_ref().map(get).map_err(Clone::clone);
        let (inside, monitor) = (count(container), count(vm));
        Line {
            id: id.to_owned(),
            group: SURFACE.to_owned(),
            what: what.to_owned(),
            how: how.to_owned(),
            host: None,
            container: used(&inside, None, "by its own process"),
            vm: used(&monitor, inside.as_ref().ok(), "by the monitor in its place"),
        }
    };
    [
        line(
            "host-calls",
            "system calls of the host in use",
            "ptrace(2) on the container's process, or on all threads of the monitor of its machine, while the same \
             work was done inside; how many different ones",
            |surface| surface.calls.len(),
        ),
        line(
            "host-ioctls",
            "requests of ioctl in use",
            "the same, and the second argument of each ioctl(2)",
            |surface| surface.ioctls.len(),
        ),
    ]
}

fn used(count: &Result<usize, String>, other: Option<&usize>, by: &str) -> Cell {
    let count = match count {
        Ok(count) => count,
        Err(why) => return Cell::unknown(why),
    };
    let (kind, than) = match other {
        Some(other) if count < other => {
            (Kind::Reduced, format!(", fewer than the container's {other}"))
        }
        Some(other) => (Kind::Reaches, format!(", the container's are {other}")),
        None => (Kind::Reaches, String::new()),
    };
    let verdict = Verdict::new(kind, format!("different ones {by}{than}"));
    Cell::new(Some(&count.to_string()), &verdict, None)
}
