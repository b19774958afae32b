//! The invariants of the tree that no compiler checks.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the library and their ranks: a module uses only modules of a lower rank.
const RANKS: [(&str, u8); 15] = [
    ("cli", 6),
    ("container", 5),
    ("control", 4),
    ("machine", 3),
    ("doctor", 3),
    ("preflight", 3),
    ("kvm", 2),
    ("arch", 1),
    ("devices", 1),
    ("config", 0),
    ("bus", 0),
    ("memory", 0),
    ("listener", 0),
    ("metrics", 0),
    ("rate_limiter", 0),
];

/// Lines of a source file, tests aside, at most.
const FILE_LINES: usize = 600;
/// Lines of a function at most.
const FUNCTION_LINES: usize = 60;
/// The recipe that may be longer, and by how much.
const RECIPE: (&str, usize) = ("build", 80);

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below `dir`, relative to the root.
fn rust_files(dir: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut pending = vec![root().join(dir)];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    files.sort();
    assert!(!files.is_empty(), "no Rust files in {dir}");
    files
}

fn source(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The text before the file's unit tests, if they are in it.
fn production(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod tests {").map_or(text, |end| &text[..end])
}

fn is_test(path: &Path) -> bool {
    ["tests.rs", "testing.rs"].iter().any(|name| path.ends_with(name))
        || path.components().any(|part| part.as_os_str() == "tests")
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn module_of(path: &Path) -> Option<&str> {
    path.components().nth(1)?.as_os_str().to_str().map(|name| name.trim_end_matches(".rs"))
}

fn rank(module: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

/// The modules a line of code names after `crate::`.
fn modules_named(line: &str) -> Vec<&str> {
    let names = line.split("crate::").skip(1);
    names.filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()).collect()
}

#[test]
fn every_module_has_a_rank_and_every_rank_a_module() {
    let lib = source(Path::new("src/lib.rs"));
    let declared: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    for module in &declared {
        assert!(rank(module).is_some(), "module {module} has no rank");
        assert!(lib.contains(&format!("[`{module}`]")), "{module} is not in the map of lib.rs");
    }
    for (module, _) in RANKS {
        assert!(declared.contains(&module), "{module} has a rank but does not exist");
    }
}

#[test]
fn modules_use_only_modules_of_a_lower_rank() {
    let mut broken = Vec::new();
    for path in rust_files("src") {
        let Some(own) = module_of(&path).filter(|own| !["lib", "main"].contains(own)) else {
            continue;
        };
        let own_rank = rank(own).unwrap_or_else(|| panic!("{} has no rank", path.display()));
        let text = source(&path);
        for (number, line) in code_lines(production(&text)) {
            for used in modules_named(line).into_iter().filter(|used| *used != own) {
                if rank(used).is_none_or(|rank| rank >= own_rank) {
                    broken.push(format!("{}:{}: {own} uses {used}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn only_the_contract_of_arch_asks_for_the_target_architecture() {
    let contract = Path::new("src/arch/mod.rs");
    assert!(source(contract).contains("target_arch"), "nothing chooses the architecture");
    let files = ["src", "crates", "tests", "examples", "fuzz"].into_iter().flat_map(rust_files);
    // This file looks for what it may not have.
    for path in files.filter(|path| path != contract && !path.ends_with(file!())) {
        let text = source(&path);
        assert!(!text.contains("target_arch"), "{} asks for the architecture", path.display());
    }
}

#[test]
fn unsafe_code_is_announced_and_every_block_argued() {
    for path in rust_files("src").into_iter().chain(rust_files("crates")) {
        let text = source(&path);
        assert!(!text.contains("allow(unsafe_code)"), "{} allows unsafe code", path.display());
        if text.contains("#![expect(unsafe_code)]") {
            let announced = text.lines().any(|line| line.starts_with("// UNSAFETY: "));
            assert!(announced, "{} does not say why it is unsafe", path.display());
        }
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in code_lines(&text) {
            if line.contains("unsafe {") || line.trim_start().starts_with("unsafe impl") {
                let above = &lines[number.saturating_sub(8)..number];
                let argued = above.iter().any(|line| line.contains("SAFETY:"));
                assert!(argued, "{}:{}: no SAFETY comment", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn files_and_functions_stay_small() {
    let mut broken = Vec::new();
    let files = rust_files("src").into_iter().chain(rust_files("crates"));
    for path in files.filter(|path| !is_test(path)) {
        let text = source(&path);
        let lines = production(&text).lines().count();
        if lines > FILE_LINES {
            broken.push(format!("{}: {lines} lines", path.display()));
        }
        for (name, lines) in functions(production(&text)) {
            let cap = if name == RECIPE.0 { RECIPE.1 } else { FUNCTION_LINES };
            if lines > cap {
                broken.push(format!("{}: fn {name} has {lines} lines", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Names and lengths of the functions of a formatted file: from `fn` to the brace that closes
/// it at the same indentation.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let Some(name) = trimmed.split("fn ").nth(1).filter(|_| is_function(trimmed)) else {
            continue;
        };
        let name = name.split(['(', '<']).next().unwrap_or(name);
        let close = format!("{}}}", &line[..line.len() - trimmed.len()]);
        let one_line = trimmed.ends_with('}');
        let length = lines[start..].iter().position(|line| one_line || **line == close);
        found.push((name, length.unwrap_or(usize::MAX - 1) + 1));
    }
    found
}

fn is_function(line: &str) -> bool {
    let starts =
        ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "const fn ", "pub const fn "];
    starts.iter().any(|start| line.starts_with(start)) && !line.ends_with(';')
}

#[test]
fn functions_are_measured() {
    let text = "impl X {\n    pub fn a(&self) -> u8 {\n        if x {\n        }\n        1\n    }\n}\nfn b() {}\n";
    assert_eq!(functions(text), [("a", 5), ("b", 1)]);
}

/// What reads a stranger's bytes from the network or from an archive is in a program of its own.
#[test]
fn monitor_links_nothing_that_speaks_to_registries_or_reads_layers() {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["tree", "--offline", "--package", "vmm", "--edges", "normal", "--prefix", "none"]);
    let output = cargo.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"vmm-image"), "{tree}");
    for name in ["indicatif", "landlock", "ring", "rustls", "ruzstd", "sha2", "ureq"] {
        assert!(!names.contains(&name), "vmm is built with {name}");
    }
}

#[test]
fn no_test_is_switched_off_and_nothing_is_left_to_do() {
    let signs = [concat!("#[ign", "ore"), concat!("to", "do!("), concat!("unimple", "mented!(")];
    for path in ["src", "crates", "tests"].into_iter().flat_map(rust_files) {
        let text = source(&path);
        for sign in signs {
            assert!(!text.contains(sign), "{} contains {sign}", path.display());
        }
    }
}

#[test]
fn the_map_is_short_and_names_every_module() {
    let map = source(Path::new("ARCHITECTURE.md"));
    assert!(map.lines().count() <= 150, "ARCHITECTURE.md has {} lines", map.lines().count());
    for (module, _) in RANKS {
        assert!(map.contains(&format!("`{module}`")), "ARCHITECTURE.md does not name {module}");
    }
}
