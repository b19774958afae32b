//! What happens when it goes wrong in the middle: killed, crashed, out of space, several at once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

mod support;

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::*;
use vmm_image::store::{Prune, Roots, check_rootfs, digest_of};

/// A layout with an image that keeps the program busy for a while: layers of text that compresses well,
/// two of them shared by both images.
fn busy(place: &Place) -> (Image, Image) {
    let text = |seed: usize| (0..15_000).flat_map(move |n| format!("{seed} {n}\n").into_bytes());
    let layer = |seed: usize| tar(&[(&format!("file{seed}"), &text(seed).collect::<Vec<_>>())]);
    let layers: Vec<Vec<u8>> = (0..4).map(layer).collect();
    let images = [Image::of_tars(&layers[..3]), Image::of_tars(&layers[1..])];
    layout(&place.path("images"), &[("a", &images[0]), ("b", &images[1])]);
    let [a, b] = images;
    (a, b)
}

/// Every image that has a name is whole, and every blob is what its name says.
fn assert_sound(place: &Place) {
    let store = place.store();
    for image in store.list().unwrap() {
        check_rootfs(&image).unwrap();
        assert!(
            image.blobs.iter().all(|blob| place.paths().blobs().join(blob.digest.hex()).exists())
        );
    }
    for entry in std::fs::read_dir(place.paths().blobs()).into_iter().flatten() {
        let path = entry.unwrap().path();
        let found = digest_of(&std::fs::read(&path).unwrap()).hex();
        assert_eq!(path.file_name().unwrap().to_str().unwrap(), found);
    }
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// I18, P1, P2: killed at any instant, a pull leaves a store in which all that can be found is whole; the
/// next pull succeeds, and what was left over can be pruned.
#[test]
fn pull_that_is_killed_at_any_instant_leaves_a_sound_store() {
    let place = Place::new();
    let (image, _) = busy(&place);
    let start = Instant::now();
    place.pull(&["oci:images:a"]);
    let whole = start.elapsed();
    let reference = std::fs::read_dir(place.paths().rootfs()).unwrap().next().unwrap().unwrap();
    let expected = std::fs::read(reference.path()).unwrap();
    let mut begun = 0;
    for round in 0..60_u32 {
        std::fs::remove_dir_all(place.path("data")).unwrap_or_default();
        let mut child = place.command(&["oci:images:a"]).spawn().unwrap();
        std::thread::sleep(whole * round / 55);
        kill(&mut child);
        begun += usize::from(place.unfinished() > 0);
        assert_sound(&place);
        if round % 10 == 0 {
            place.pull(&["oci:images:a"]);
            assert_sound(&place);
        }
        for entry in std::fs::read_dir(place.paths().rootfs()).into_iter().flatten() {
            assert_eq!(std::fs::read(entry.unwrap().path()).unwrap(), expected, "{round}");
        }
        // The parts of it end with it, or soon after.
        let end = Instant::now() + Duration::from_secs(5);
        while place.unfinished() > 0 && Instant::now() < end {
            place.store().prune(Prune::default(), || Ok(Roots::new())).unwrap();
        }
        assert_eq!(place.unfinished(), 0, "{round}");
    }
    assert!(begun > 5, "only {begun} were killed in the middle");
    assert_eq!(place.pull(&["oci:images:a"])["id"], serde_json::json!(image.id()));
}

/// I18: pulls of the same layers at once share the work, also when one of them is killed.
#[test]
fn pulls_at_once_share_their_layers_and_survive_each_other() {
    let place = Place::new();
    let (a, b) = busy(&place);
    for killed in [false, true] {
        std::fs::remove_dir_all(place.path("data")).unwrap_or_default();
        let start = |tag: &str| place.command(&[&format!("oci:images:{tag}")]).spawn().unwrap();
        let mut first = start("a");
        let others: Vec<Child> = ["a", "b", "b", "a"].map(start).into();
        if killed {
            std::thread::sleep(Duration::from_millis(150));
            kill(&mut first);
        } else {
            assert!(first.wait().unwrap().success());
        }
        for child in others {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", told(&output));
        }
        assert_sound(&place);
        let mut ids: Vec<_> = place.store().list().unwrap().iter().map(|image| image.id).collect();
        let mut expected = vec![a.id(), b.id()];
        expected.sort();
        ids.sort();
        assert_eq!(ids, expected);
        // One that is killed while it waits for another may leave an empty file.
        place.store().prune(Prune::default(), || Ok(Roots::new())).unwrap();
        assert_eq!(place.unfinished(), 0);
    }
}

/// The process that `parent` has started to do a part of its work, and the name of the part.
fn stage_of(parent: u32) -> Option<(u32, String)> {
    let children = format!("/proc/{parent}/task/{parent}/children");
    let child = std::fs::read_to_string(children).ok()?.split_whitespace().next()?.parse().ok()?;
    let words = std::fs::read_to_string(format!("/proc/{child}/cmdline")).ok()?;
    let mut words = words.trim_end_matches('\0').rsplit('\0');
    let part = words.next()?.to_owned();
    (words.next()? == "stage").then_some((child, part))
}

fn status_of(process: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{process}/status")).ok()
}

/// Calls `act` again and again with the process that does the part of the work, until it has acted, and
/// returns what the pull ends with.
fn watch(
    place: &Place,
    part: &str,
    mut act: impl FnMut(u32) -> Option<()>,
) -> std::process::Output {
    let mut child = place.command(&["oci:images:a"]).spawn().unwrap();
    let mut acted = false;
    while child.try_wait().unwrap().is_none() {
        if let Some((stage, _)) = stage_of(child.id()).filter(|(_, name)| name == part && !acted) {
            acted = act(stage).is_some();
        }
    }
    assert!(acted, "the {part} was too fast");
    child.wait_with_output().unwrap()
}

/// Layers that take a moment to unpack.
fn large(place: &Place) {
    let image = Image::of_tars(&[tar(&[("zeros", &vec![0; 96 << 20])])]);
    layout(&place.path("images"), &[("a", &image)]);
}

/// I19: whatever reads a stranger's bytes has no privileges, few system calls and limits.
#[test]
fn what_reads_a_stranger_s_bytes_is_confined() {
    let place = Place::new();
    large(&place);
    for part in ["fetch", "convert"] {
        std::fs::remove_dir_all(place.path("data")).unwrap_or_default();
        let output = watch(&place, part, |stage| {
            let status = status_of(stage).filter(|status| status.contains("\nSeccomp:\t2\n"))?;
            let limits = std::fs::read_to_string(format!("/proc/{stage}/limits")).ok()?;
            assert!(status.contains("\nNoNewPrivs:\t1\n"), "{status}");
            let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"))?;
            let kept = u64::from_str_radix(capabilities, 16).unwrap();
            // Root reads layouts of other users.
            let most = if part == "fetch" { 1 << 2 } else { 0 };
            assert_eq!(kept & !most, 0, "{status}");
            let limit = |name| limits.lines().find(|line: &&str| line.starts_with(name)).unwrap();
            let core = limit("Max core file size");
            assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
            for name in ["Max address space", "Max file size", "Max cpu time"] {
                assert!(!limit(name).contains("unlimited"), "{limits}");
            }
            Some(())
        });
        assert!(output.status.success(), "{}", told(&output));
    }
}

/// I19: a converter that crashes is an error that says so, and nothing of the image is kept.
#[test]
fn converter_that_dies_is_reported_with_what_it_was_doing() {
    let place = Place::new();
    large(&place);
    let signals = [(Signal::ABORT, "SIGABRT"), (Signal::KILL, "SIGKILL"), (Signal::SYS, "SIGSYS")];
    for (signal, name) in signals {
        std::fs::remove_dir_all(place.path("data")).unwrap_or_default();
        let output = watch(&place, "convert", |stage| {
            kill_process(Pid::from_raw(stage.cast_signed()).unwrap(), signal).ok()
        });
        let told = told(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(&format!("the converter died of {name}")), "{told}");
        assert!(
            told.contains("while unpacking layer ") || told.contains("while beginning"),
            "{told}"
        );
        assert!(place.store().list().unwrap().is_empty());
        assert_eq!(place.unfinished(), 0);
        assert_eq!(std::fs::read_dir(place.paths().rootfs()).unwrap().count(), 0);
    }
}

/// P7: a disk that fills up, or cannot be written, is one sentence, and nothing half is kept.
#[test]
fn full_disk_is_an_error_with_a_hint_and_leaves_nothing() {
    let place = Place::new();
    busy(&place);
    std::fs::create_dir(place.path("small")).unwrap();
    let script = r#"mount -t tmpfs -o size=$1 none small && mkdir -m 700 small/data || exit 99
        VMM_DATA=$PWD/small/data "$2" pull -q oci:images:a; echo " status $?"; find small -type f -size +0"#;
    for size in ["50k", "120k", "300k"] {
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", size])
            .arg(env!("CARGO_BIN_EXE_vmm-image"))
            .current_dir(place.directory.path())
            .output()
            .unwrap();
        let told = told(&output);
        assert!(told.contains("No space left on device"), "{size}: {told}");
        assert!(told.contains("vmm system prune") && told.contains("status 1"), "{size}: {told}");
        assert!(!told.contains("/tmp/") && !told.contains(".erofs"), "{size}: {told}");
    }
}

/// A directory of another user, and one that others can write to, are not believed.
#[test]
fn store_that_others_can_write_is_refused() {
    let place = Place::new();
    busy(&place);
    place.pull(&["oci:images:a"]);
    let images = place.paths().images();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(&images, 0o777);
    let output = place.command(&["oci:images:a"]).output().unwrap();
    assert!(told(&output).contains("others can write to it"), "{}", told(&output));
    mode(&images, 0o700);
    place.pull(&["oci:images:a"]);
}
