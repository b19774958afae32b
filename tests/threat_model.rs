//! The page about the threat model names tests that exist, and all that carry the id of a case.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The cases that must be covered.
const REQUIRED: [(char, RangeInclusive<u8>); 18] = [
    ('K', 1..=11),
    ('M', 1..=12),
    ('Q', 1..=25),
    ('B', 1..=18),
    ('N', 1..=11),
    ('V', 1..=12),
    ('F', 3..=3),
    ('F', 6..=6),
    ('S', 1..=7),
    ('I', 1..=19),
    ('J', 3..=3),
    ('L', 1..=1),
    ('L', 3..=3),
    ('L', 5..=6),
    ('P', 1..=2),
    ('P', 6..=7),
    ('P', 10..=10),
    ('A', 9..=9),
];

/// A row of the tables of cases; a row without an id goes on with the one above.
#[derive(Debug)]
struct Row {
    id: String,
    place: String,
    tests: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rows() -> Vec<Row> {
    let page = fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let (_, cases) = page.split_once("## Cases").unwrap();
    let mut id = String::new();
    let mut rows = Vec::new();
    for line in cases.lines().filter(|line| line.starts_with('|') && line.contains('`')) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, own, _, place, tests, _] = cells[..] else { panic!("{line}") };
        if !own.is_empty() {
            id = own.to_owned();
        }
        let tests = tests.split(", ").map(|test| test.trim_matches('`').to_owned()).collect();
        rows.push(Row { id: id.clone(), place: place.to_owned(), tests });
    }
    rows
}

/// A test as its source has it.
struct Test {
    file: PathBuf,
    doc: String,
}

/// Every test of the tree by its name.
fn tests() -> BTreeMap<String, Vec<Test>> {
    let mut found: BTreeMap<String, Vec<Test>> = BTreeMap::new();
    let mut pending = vec![root().join("src"), root().join("tests"), root().join("crates")];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let file = path.strip_prefix(root()).unwrap();
            for (name, doc) in tests_in(&text) {
                found.entry(name).or_default().push(Test { file: file.to_owned(), doc });
            }
        }
    }
    found
}

/// Names and documentation of the functions with the attribute `#[test]`.
fn tests_in(text: &str) -> Vec<(String, String)> {
    let (mut found, mut doc, mut is_test) = (Vec::new(), String::new(), false);
    for line in text.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            doc.push_str(words);
        } else if line.starts_with("#[") {
            is_test |= line == "#[test]";
        } else {
            let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            if let (true, Some(name)) = (is_test, name) {
                found.push((name.to_owned(), doc.clone()));
            }
            (doc, is_test) = (String::new(), false);
        }
    }
    found
}

/// Whether a test in `file` runs at the place a row names.
fn runs_at(file: &Path, place: &str) -> bool {
    let linux = file.starts_with("tests/linux");
    match place {
        "Linux" => linux,
        "guest" => file.starts_with("tests") && !linux,
        "unit" => {
            let whole = ["tests/cli.rs", "tests/images.rs"].map(Path::new).contains(&file);
            whole || file.starts_with("src") || file.starts_with("crates")
        }
        other => panic!("no such place: {other}"),
    }
}

#[test]
fn every_test_the_page_names_exists_where_it_says() {
    let tests = tests();
    for row in rows() {
        for name in &row.tests {
            let files = tests.get(name).unwrap_or_else(|| panic!("{}: no test {name}", row.id));
            let there = files.iter().any(|test| runs_at(&test.file, &row.place));
            assert!(there, "{}: {name} does not run at `{}`", row.id, row.place);
        }
    }
}

/// A promise that is kept names tests that exist, and one that is not says so.
#[test]
fn every_promise_names_tests_or_is_not_kept_yet() {
    let page = fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let (_, promises) = page.split_once("\n## Promises\n").unwrap();
    let (promises, _) = promises.split_once("\n## ").unwrap();
    let (tests, mut count) = (tests(), 0);
    for line in promises.lines().filter(|line| line.starts_with("| PR")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, id, _, how, shown, _] = cells[..] else { panic!("{line}") };
        let named: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert_eq!(named.is_empty(), how.starts_with("Not yet"), "{id}");
        named.iter().for_each(|name| assert!(tests.contains_key(*name), "{id}: no test {name}"));
        count += 1;
    }
    assert_eq!(count, 6);
}

#[test]
fn every_required_case_has_a_test() {
    let rows = rows();
    for (letter, numbers) in REQUIRED {
        for number in numbers.clone() {
            let id = format!("{letter}{number}");
            assert!(rows.iter().any(|row| row.id == id), "{id} is not on the page");
        }
    }
}

/// Whether `doc` begins with the id of a case that is required, such as `Q7`.
fn names_a_required_case(doc: &str) -> bool {
    REQUIRED.iter().any(|(letter, numbers)| {
        let rest = doc.trim_start().strip_prefix(*letter).unwrap_or_default();
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().is_ok_and(|number| numbers.contains(&number))
    })
}

#[test]
fn every_test_of_a_required_case_is_on_the_page() {
    let rows = rows();
    let on_page = |name: &String| rows.iter().any(|row| row.tests.contains(name));
    let missing: Vec<String> = tests()
        .into_iter()
        .filter(|(_, tests)| tests.iter().any(|test| names_a_required_case(&test.doc)))
        .map(|(name, _)| name)
        .filter(|name| !on_page(name))
        .collect();
    assert!(missing.is_empty(), "add to docs/threat-model.md: {missing:?}");
}

#[test]
fn ids_are_found_at_the_start_of_a_comment_alone() {
    assert!(names_a_required_case(" Q1-Q5: any table"));
    assert!(names_a_required_case(" K10."));
    assert!(!names_a_required_case(" J9: not required"));
    assert!(!names_a_required_case(" The Q1 in the middle"));
}
