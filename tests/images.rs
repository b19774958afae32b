//! `vmm pull`, `vmm images`, `vmm rmi`, `vmm system`: what a user sees of the store.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]

mod support;

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use support::layout::{self, place};

/// `vmm` in a directory and a store of its own.
fn vmm(dir: &TempDir, args: &[&str]) -> Output {
    let mut command = Command::new(layout::vmm());
    command.current_dir(dir).args(args).env("VMM_DATA", dir.path().join("data"));
    command.env("VMM_RUNTIME", dir.path().join("run"));
    command.stdin(Stdio::null()).output().expect("vmm runs")
}

fn stdout(dir: &TempDir, args: &[&str]) -> String {
    let output = vmm(dir, args);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Runs what fails, and returns its error and hint.
fn refused(dir: &TempDir, args: &[&str]) -> (String, String) {
    let output = vmm(dir, args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{args:?}: {stderr}");
    assert!(!stderr.contains('\u{1b}'), "{args:?}: {stderr}");
    let line = |start: &str| {
        let found = stderr.lines().find_map(|line| line.strip_prefix(start));
        found.unwrap_or_default().to_owned()
    };
    let error = line("vmm: ");
    assert!(!error.is_empty(), "{args:?}: {stderr}");
    (error, line("hint: "))
}

#[test]
fn image_is_pulled_listed_and_removed() {
    let dir = place("v1");
    assert_eq!(stdout(&dir, &["images"]).lines().count(), 1, "only the head");
    let names = ["--name", "app:1", "--name", "other", "--name", "host:5000/third"];
    let id = stdout(&dir, &[&["pull", "oci:images:v1"], &names[..]].concat());
    let id = id.trim();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");

    let table = stdout(&dir, &["images"]);
    let lines: Vec<_> = table.lines().collect();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[0]), ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]);
    assert_eq!(lines.len(), 4, "{table}");
    let app = words(lines.iter().find(|line| line.starts_with("app ")).unwrap());
    assert_eq!(app[1..3], ["1", &id[7..19]]);
    assert!(table.contains("years ago") && !table.contains('\u{1b}'), "{table}");
    assert_eq!(stdout(&dir, &["images", "-q", "other"]), format!("{}\n", &id[7..19]));
    assert_eq!(stdout(&dir, &["images", "-q", "app"]), format!("{}\n", &id[7..19]));
    assert_eq!(stdout(&dir, &["images", "-q", "app:2"]), "");

    let list: Value = serde_json::from_str(&stdout(&dir, &["images", "--format", "json"])).unwrap();
    assert_eq!(list[0]["id"], json!(id));
    assert_eq!(list[0]["config"]["cmd"], json!(["/hello"]));
    assert_eq!(list[0]["created"], json!(1_706_702_400));

    assert_eq!(stdout(&dir, &["rmi", "app:1"]), "untagged: app:1\n");
    let (error, hint) = refused(&dir, &["rmi", &id[7..19]]);
    assert!(error.contains("has several names") && hint.contains("--force"), "{error} {hint}");
    let removed = stdout(&dir, &["rmi", "--force", &id[7..19]]);
    assert!(removed.ends_with(&format!("deleted: {id}\n")), "{removed}");
    assert_eq!(stdout(&dir, &["images", "-q"]), "");
}

#[test]
fn space_is_shown_and_given_back() {
    let dir = place("v1");
    stdout(&dir, &["pull", "-q", "oci:images", "--name", "app"]);
    std::fs::write(dir.path().join("data/images/tmp/left"), [1; 100_000]).unwrap();
    let usage: Value =
        serde_json::from_str(&stdout(&dir, &["system", "df", "--format", "json"])).unwrap();
    assert_eq!(usage["images"]["count"], json!(1));
    assert!(usage["unfinished"]["bytes"].as_u64().unwrap() >= 100_000, "{usage}");
    assert!(stdout(&dir, &["system", "df"]).contains("RECLAIMABLE"));
    // Nobody has agreed.
    let asked = vmm(&dir, &["system", "prune"]);
    let question = String::from_utf8(asked.stderr).unwrap();
    assert!(asked.status.success() && question.ends_with("[y/N] \n"), "{question:?}");
    assert!(dir.path().join("data/images/tmp/left").exists());
    assert!(stdout(&dir, &["system", "prune", "--force"]).contains("reclaimed: "));
    assert!(!dir.path().join("data/images/tmp/left").exists());
    assert_eq!(stdout(&dir, &["images", "-q"]).lines().count(), 1);
    assert!(stdout(&dir, &["system", "prune", "--force", "--all"]).starts_with("deleted: sha256:"));
    assert_eq!(stdout(&dir, &["images", "-q"]), "");
}

/// A9: every name that is none, and every image that is not here, is one clear line with status 125.
#[test]
fn images_that_cannot_be_are_one_clear_line() {
    let dir = place("v1");
    let long = "a".repeat(300);
    for (args, sign) in [
        (["pull", "../x"], "no host of a registry"),
        (["pull", "UPPER"], "no name of an image"),
        (["pull", "a:\u{1b}[2J"], "no tag"),
        (["pull", "\u{e9}"], "no name of an image"),
        (["pull", &long], "longer than 255"),
        (["pull", "oci:missing"], "No such file"),
        (["pull", "oci:images:v2"], "has no image `v2`"),
        (["rmi", "missing"], "no image `missing`"),
        (["rmi", "../x"], "no host of a registry"),
        (["images", "a b"], "no name of an image"),
    ] {
        let (error, _) = refused(&dir, &args);
        assert!(error.contains(sign), "{args:?}: {error}");
    }
    let (_, hint) = refused(&dir, &["rmi", "missing"]);
    assert!(hint.contains("vmm images"), "{hint}");
    assert_eq!(vmm(&dir, &["pull", "-rf"]).status.code(), Some(125));
    assert_eq!(stdout(&dir, &["images", "-q"]), "");
}

/// Whatever becomes of the container, which has no kernel here, its image is pulled as `--pull` says.
#[test]
fn image_of_a_container_is_pulled_by_the_policy() {
    let dir = place("v1");
    let run = ["run", "--rm", "--kernel", "missing", "--network", "none"];
    let with = |more: &[&'static str]| [&run[..], more].concat();
    let (error, hint) = refused(&dir, &with(&["--pull", "never", "oci:images", "true"]));
    assert!(error.contains("no image `oci:images`") && hint.contains("vmm pull"), "{error} {hint}");
    assert_eq!(stdout(&dir, &["images", "-q"]), "");
    let (error, _) = refused(&dir, &with(&["oci:missing", "true"]));
    assert!(error.contains("pull oci:missing: "), "{error}");
    refused(&dir, &with(&["oci:images", "true"]));
    assert_eq!(stdout(&dir, &["images", "-q"]).lines().count(), 1);
    refused(&dir, &with(&["--pull", "always", "oci:images:v1", "true"]));
    assert_eq!(stdout(&dir, &["images"]).lines().count(), 3);
}

/// What appears on a terminal of the kind `terminal` while an image is pulled; `more` ends the shell's command line.
fn pulled_on_a_terminal(dir: &TempDir, terminal: &str, more: &str) -> String {
    let line = format!("'{}' pull oci:images {more}", layout::vmm().display());
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.current_dir(dir).env("TERM", terminal).env("VMM_DATA", dir.path().join(terminal));
    let output = command.stdin(Stdio::null()).output().expect("script, of util-linux");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn progress_is_drawn_on_terminals_alone() {
    let dir = place("v1");
    let seen = pulled_on_a_terminal(&dir, "xterm", "");
    assert!(
        seen.contains('\u{1b}') && seen.contains("=====") && seen.contains(" B / "),
        "{seen:?}"
    );
    assert!(seen.contains("sha256:"), "{seen:?}");
    // Lines where a bar cannot be drawn, as in a file.
    let plain = pulled_on_a_terminal(&dir, "dumb", "");
    assert!(!plain.contains('\u{1b}') && !plain.contains("====="), "{plain:?}");
    pulled_on_a_terminal(&dir, "linux", "2> told");
    let told = std::fs::read_to_string(dir.path().join("told")).unwrap();
    for text in [&plain, &told] {
        assert!(text.contains("done") && !text.contains("====="), "{text:?}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
    let quiet = pulled_on_a_terminal(&dir, "vt100", "--quiet");
    assert_eq!(quiet.trim_end().len(), 71, "{quiet:?}");
}

/// A cause is said once.
#[test]
fn store_that_cannot_be_made_is_told_with_its_cause() {
    let dir = place("v1");
    std::fs::write(dir.path().join("data"), "").unwrap();
    let (error, _) = refused(&dir, &["images"]);
    assert_eq!(error.matches("Not a directory").count(), 1, "{error}");
}

/// An ELF kernel that says nothing about itself, and whose place is beyond all memory.
fn kernel_beyond_memory() -> Vec<u8> {
    const PLACE: u64 = 1 << 40;
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    let word = |bytes: &mut Vec<u8>, value: u64, len: usize| {
        bytes.extend(&value.to_le_bytes()[..len]);
    };
    // Type, machine, version, entry, program headers, sections, flags, and the sizes of all those.
    for (value, len) in [(2, 2), (62, 2), (1, 4), (PLACE, 8), (64, 8), (0, 8), (0, 4)] {
        word(&mut bytes, value, len);
    }
    for value in [64, 56, 1, 64, 0, 0] {
        word(&mut bytes, value, 2);
    }
    // A loaded segment: type, flags, offset, addresses, sizes, alignment.
    for (value, len) in [(1, 4), (5, 4), (0, 8), (PLACE, 8), (PLACE, 8), (120, 8), (120, 8), (1, 8)]
    {
        word(&mut bytes, value, len);
    }
    bytes
}

/// The container's kernel does not boot, but what there is of the container may be looked at.
#[test]
fn image_of_a_container_stays_until_the_container_is_removed() {
    let dir = place("v1");
    std::fs::write(dir.path().join("kernel"), kernel_beyond_memory()).unwrap();
    let run = ["run", "--name", "c1", "--kernel", "kernel", "--network", "none", "oci:images", "x"];
    let failed = vmm(&dir, &run);
    assert_eq!(failed.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("boot: "), "{failed:?}");
    let (error, hint) = refused(&dir, &["rmi", "oci:images"]);
    assert!(error.contains("used by container c1") && hint.contains("--force"), "{error} {hint}");
    assert!(stdout(&dir, &["rmi", "--force", "oci:images"]).starts_with("untagged: "));
    assert!(stdout(&dir, &["images"]).contains("<none>"));
    stdout(&dir, &["rm", "c1"]);
    assert!(stdout(&dir, &["system", "prune", "--force"]).starts_with("deleted: sha256:"));
}
