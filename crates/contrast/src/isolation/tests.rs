//! Verdicts on answers that were made up: each of them both ways.

use serde_json::{Value, json};

use super::answers::{Answers, Bomb, Hog, read};
use super::compare::{Line, compare, unexpected};
use super::judge::Kind;
use super::{Attack, Felt, Seen, Side, Surface};

/// What the probe says on a host.
fn host() -> Value {
    json!({
        "facts": {
            "kernel": {
                "release": "6.1", "boot_id": "aa", "command_line": "root=/dev/vda", "uptime_seconds": 100.0,
                "modules": 7, "dmesg": "yes", "symbol_addresses": true, "clocksource": "tsc",
            },
            "identity": {
                "hostname": "host",
                "namespaces": {"pid": "pid:[1]", "mnt": "mnt:[1]", "net": "net:[1]", "time": "time:[1]"},
            },
            "processes": {"count": 90, "names": []},
            "devices": {"count": 150, "names": ["kvm"]},
            "block_devices": {"count": 1, "names": ["vda"]},
            "network_interfaces": {"count": 2, "names": ["eth0", "lo"]},
            "mounts": {"count": 30},
            "rights": {"effective": ["A", "B", "C"], "seccomp": 0},
            "sysctls": {"kernel/panic": "yes", "vm/drop_caches": "yes"},
            "limits": {
                "memory": {"seen_bytes": 4_u64 << 30, "enforced": null},
                "processes": {"seen": "32768", "enforced": null},
                "processors": {"seen": 2, "enforced": null},
            },
        },
        "syscalls": {"counts": {"reachable": 340, "refused": 0, "absent": 6, "untried": 15}},
        "escapes": {
            "kexec": {"leads_to": "another kernel", "how": "called kexec_load", "verdict": "possible", "answer": "EINVAL"},
            "clock": {"leads_to": "the time", "how": "called settimeofday", "verdict": "possible", "answer": "done"},
        },
    })
}

/// `host` with other values at these places.
fn with(changes: &[(&str, Value)]) -> Value {
    let mut answers = host();
    for (place, value) in changes {
        *answers.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value.clone();
    }
    answers
}

/// What it says in a container.
fn inside() -> Vec<(&'static str, Value)> {
    vec![
        ("/facts/identity/hostname", json!("box")),
        ("/facts/identity/namespaces/pid", json!("pid:[2]")),
        ("/facts/identity/namespaces/mnt", json!("mnt:[2]")),
        ("/facts/identity/namespaces/net", json!("net:[2]")),
        ("/facts/kernel/dmesg", json!("ENOENT")),
        ("/facts/kernel/symbol_addresses", json!(false)),
        ("/facts/kernel/uptime_seconds", json!(110.2)),
        ("/facts/devices", json!({"count": 14, "names": ["null"]})),
        ("/facts/rights", json!({"effective": ["A"], "seccomp": 2})),
        ("/facts/sysctls", json!({"kernel/panic": "EROFS"})),
        ("/facts/limits/memory/enforced", json!("536870912")),
        ("/syscalls/counts/reachable", json!(290)),
        (
            "/escapes/kexec",
            json!({"leads_to": "x", "how": "called it", "verdict": "refused", "answer": "EPERM"}),
        ),
        (
            "/escapes/clock",
            json!({"leads_to": "x", "how": "called it", "verdict": "refused", "answer": "EPERM"}),
        ),
    ]
}

/// What it says in a machine.
fn machine() -> Vec<(&'static str, Value)> {
    let mut changes = inside();
    changes.extend([
        ("/facts/kernel/boot_id", json!("bb")),
        ("/facts/kernel/release", json!("6.12")),
        ("/facts/kernel/command_line", json!("quiet")),
        ("/facts/kernel/modules", json!(0)),
        ("/facts/kernel/uptime_seconds", json!(0.4)),
    ]);
    changes
}

fn seen(answers: &Value, between: [f64; 2]) -> Side {
    let answers: Answers = read(answers).unwrap();
    Side { seen: Ok(Seen { answers, between }), ..Side::unknown("not tried") }
}

/// The host, `container` and `vm` compared; those two were seen ten seconds after the host.
fn lines(container: &[(&str, Value)], vm: &[(&str, Value)]) -> Vec<Line> {
    let later = [1010.0, 1010.5];
    let (container, vm) = (with(container), with(vm));
    compare(&seen(&host(), [1000.0, 1000.4]), &seen(&container, later), &seen(&vm, later))
}

fn find<'l>(lines: &'l [Line], id: &str) -> &'l Line {
    lines.iter().find(|line| line.id == id).unwrap_or_else(|| panic!("{id}"))
}

#[test]
fn container_and_machine_are_told_apart_line_by_line() {
    let lines = lines(&inside(), &machine());
    for (id, container, vm) in [
        ("boot-id", Kind::Shared, Kind::Own),
        ("kernel-release", Kind::Shared, Kind::Own),
        ("uptime", Kind::Shared, Kind::Own),
        ("command-line", Kind::Shared, Kind::Own),
        ("modules", Kind::Shared, Kind::Own),
        ("dmesg", Kind::Refused, Kind::Refused),
        ("kallsyms", Kind::Refused, Kind::Refused),
        ("processes", Kind::Own, Kind::Own),
        ("devices", Kind::Reduced, Kind::Own),
        ("disks", Kind::Shared, Kind::Own),
        ("mounts", Kind::Own, Kind::Own),
        ("interfaces", Kind::Own, Kind::Own),
        ("hostname", Kind::Own, Kind::Own),
        ("clock", Kind::Shared, Kind::Own),
        ("capabilities", Kind::Reduced, Kind::OwnOnly),
        ("filter", Kind::Reduced, Kind::Reduced),
        ("system-calls", Kind::Reaches, Kind::OwnOnly),
        ("sysctls", Kind::Refused, Kind::Refused),
        ("memory", Kind::Shared, Kind::Own),
        ("process-limit", Kind::Shared, Kind::Own),
        ("processors", Kind::Shared, Kind::Own),
        ("escape-kexec", Kind::Refused, Kind::Refused),
    ] {
        let line = find(&lines, id);
        assert_eq!((line.container.verdict, line.vm.verdict), (container, vm), "{line:?}");
        assert!(line.how.len() > 5 && !line.container.says.is_empty(), "{line:?}");
    }
    assert_eq!(find(&lines, "boot-id").container.says, "shares the host's kernel");
    assert_eq!(find(&lines, "boot-id").vm.says, "a kernel of its own");
    assert_eq!(find(&lines, "uptime").vm.says, "was started 110 s after the host");
    assert_eq!(
        find(&lines, "memory").container.value.as_deref(),
        Some("4096 MiB seen, limit 512 MiB")
    );
    assert_eq!(unexpected(&lines), Vec::<String>::new());
}

#[test]
fn no_container_at_all_is_seen_as_such() {
    let lines = lines(&[("/facts/kernel/uptime_seconds", json!(110.0))], &[]);
    for (id, kind) in [
        ("dmesg", Kind::Reaches),
        ("kallsyms", Kind::Reaches),
        ("processes", Kind::Shared),
        ("devices", Kind::Shared),
        ("mounts", Kind::Shared),
        ("interfaces", Kind::Shared),
        ("hostname", Kind::Shared),
        ("clock", Kind::Reaches),
        ("capabilities", Kind::Reaches),
        ("filter", Kind::Reaches),
        ("sysctls", Kind::Reaches),
        ("escape-kexec", Kind::Reaches),
        ("escape-clock", Kind::Reaches),
    ] {
        assert_eq!(find(&lines, id).container.verdict, kind, "{id}");
    }
    let sysctls = &find(&lines, "sysctls").container;
    assert_eq!(sysctls.value.as_deref(), Some("kernel/panic, vm/drop_caches"));
    // A machine that is none is worse than a container that is none.
    assert_eq!(unexpected(&lines), ["boot-id", "escape-clock", "escape-kexec"]);
}

#[test]
fn what_a_machine_may_do_it_does_to_itself() {
    let mut vm = vec![("/facts/kernel/boot_id", json!("bb"))];
    vm.push(("/escapes/kexec", host()["escapes"]["kexec"].clone()));
    let lines = lines(&inside(), &vm);
    for id in ["dmesg", "kallsyms", "clock", "capabilities", "filter", "sysctls", "escape-kexec"] {
        assert_eq!(find(&lines, id).vm.verdict, Kind::OwnOnly, "{id}");
        assert!(find(&lines, id).vm.says.ends_with("of its own kernel"), "{id}");
    }
    // Its own kernel or not: nobody is to replace it.
    assert!(unexpected(&lines).contains(&"escape-kexec".to_owned()));
}

#[test]
fn what_is_not_known_is_no_verdict() {
    let nothing = [
        ("/facts/kernel", json!({})),
        ("/facts/rights", json!({})),
        ("/facts/sysctls", json!({})),
        ("/facts/devices", json!(null)),
        ("/syscalls/counts", json!({})),
    ];
    let lines = lines(&nothing, &machine());
    for id in
        ["boot-id", "uptime", "dmesg", "clock", "capabilities", "filter", "system-calls", "sysctls"]
    {
        let line = find(&lines, id);
        assert_eq!(line.container.verdict, Kind::Unknown, "{line:?}");
    }
    assert_eq!(find(&lines, "devices").container.verdict, Kind::Refused);
    assert_eq!(find(&lines, "kernel-release").container.verdict, Kind::Refused);
}

#[test]
fn column_that_failed_has_no_verdict_in_any_line() {
    let host_side = seen(&host(), [0.0, 1.0]);
    let lines = compare(&host_side, &Side::unknown("no\x1bruntime"), &Side::unknown("no KVM"));
    assert!(lines.len() > 20);
    assert_eq!(find(&lines, "memory-hog").container.says, "not measured: no\u{fffd}runtime");
    for line in &lines {
        assert_eq!((line.container.verdict, line.vm.verdict), (Kind::Unknown, Kind::Unknown));
        assert!(line.container.says.starts_with("not measured: "), "{line:?}");
        assert_eq!((&line.container.value, line.container.expected), (&None, None), "{line:?}");
    }
    let lines = compare(&Side::unknown("gone"), &host_side, &host_side);
    assert_eq!(find(&lines, "boot-id").vm.says, "not measured: the host's column has failed");
}

#[test]
fn names_from_inside_make_no_identifiers_of_their_own() {
    let mut many = with(&inside());
    let escape = many["escapes"]["kexec"].clone();
    for number in 0..500 {
        many["escapes"][format!("\x1b[2J {number} <b>")] = escape.clone();
    }
    let side = seen(&many, [0.0, 1.0]);
    let lines = compare(&side, &side, &side);
    assert!(lines.len() < 100, "{}", lines.len());
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    assert!(lines.iter().all(|line| line.id.chars().all(plain)));
    assert!(!lines.iter().any(|line| line.what.contains('\x1b')));
}

fn side(hog: Hog, bomb: Bomb, felt: Felt) -> Side {
    let attack = |said| Attack { said, felt };
    Side {
        hog: Ok(attack(hog)),
        bomb: Ok(Attack { said: bomb, felt }),
        ..seen(&with(&inside()), [0.0, 1.0])
    }
}

#[test]
fn attacks_are_contained_or_not_and_the_host_felt_them_or_not() {
    let mib = |count: u64| count << 20;
    let stopped = Hog { bound_bytes: mib(768), reached_bytes: mib(496), ended_by: Some(9) };
    let free = Hog { bound_bytes: mib(768), reached_bytes: mib(768), ended_by: None };
    let refused = Bomb { bound: 1000, made: 255, refused: Some("EAGAIN".to_owned()) };
    let all = Bomb { bound: 1000, made: 1000, refused: None };
    let verdicts = |container: Side, vm: Side| {
        let lines = compare(&seen(&host(), [0.0, 1.0]), &container, &vm);
        let wrong = unexpected(&lines).join(" ");
        let says = |line: &Line| [line.container.says.clone(), line.vm.says.clone()];
        ([says(find(&lines, "memory-hog")), says(find(&lines, "fork-bomb"))].concat(), wrong)
    };
    let felt = |threads, kills| Felt { threads, oom_kills: Some(kills) };
    let (says, wrong) = verdicts(
        side(stopped.clone(), refused, felt(256, 1)),
        side(stopped, all.clone(), felt(3, 0)),
    );
    assert_eq!(says[0], "was ended at 496 MiB by the host's kernel");
    assert_eq!(says[1], "was ended at 496 MiB, and the host's kernel had nothing to do with it");
    assert_eq!(says[2], "refused after 255 (EAGAIN); the host had 256 threads more");
    assert_eq!(says[3], "its 1000 are its own kernel's; the host had 3 threads more");
    assert!(!wrong.contains("memory-hog") && !wrong.contains("fork-bomb"), "{wrong}");
    let open = side(free, all, felt(1000, 0));
    let (says, wrong) = verdicts(open.clone(), open);
    assert_eq!(says[0], "got all 768 MiB it asked for");
    assert_eq!(says[3], "made all 1000; the host had 1000 threads more");
    assert!(wrong.contains("memory-hog") && wrong.contains("fork-bomb"), "{wrong}");
}

#[test]
fn fewer_calls_of_the_host_are_less_of_its_kernel() {
    let surface = |calls: &[&str]| Surface {
        calls: calls.iter().map(|name| ((*name).to_owned(), 3)).collect(),
        ..Surface::default()
    };
    let side = |calls: &[&str]| Side { surface: Ok(surface(calls)), ..Side::unknown("not tried") };
    let host = seen(&host(), [0.0, 1.0]);
    let cells = |container: &[&str], vm: &[&str]| {
        let lines = compare(&host, &side(container), &side(vm));
        let line = find(&lines, "host-calls");
        (line.container.clone(), line.vm.clone())
    };
    let (container, vm) = cells(&["read", "write", "openat"], &["ioctl", "read"]);
    assert_eq!((container.verdict, vm.verdict), (Kind::Reaches, Kind::Reduced));
    assert_eq!(vm.says, "different ones by the monitor in its place, fewer than the container's 3");
    let (container, vm) = cells(&["read"], &["ioctl", "read"]);
    assert_eq!((container.value.as_deref(), vm.verdict), (Some("1"), Kind::Reaches));
}
