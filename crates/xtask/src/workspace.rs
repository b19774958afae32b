//! This workspace: where it is, and what cargo builds from it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::arch::Arch;
use crate::{command, cross};

/// How to build `vmm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build, with assertions.
    Dev,
    /// What users get.
    Release,
}

/// A program cargo built.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// The name of its target.
    pub(crate) name: String,
    /// The program.
    pub(crate) path: PathBuf,
}

/// A test target that plain `cargo test` leaves out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GuestTest {
    /// The package it belongs to.
    pub(crate) package: String,
    /// The name of the target.
    pub(crate) name: String,
}

/// A program of tests that cargo built, and where it would run it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TestProgram {
    /// The program.
    pub(crate) path: PathBuf,
    /// The directory of its package.
    pub(crate) package: PathBuf,
}

/// The root directory of the workspace.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable for what it runs; the other is where this program was built.
    let running = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = running.filter(|path| path.ends_with("crates/xtask"));
    let here = here.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    here.ancestors().nth(2).map_or(here.clone(), Path::to_owned)
}

/// `cargo`, to be run in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    forget_package(&mut command);
    command
}

/// Keeps from `command` what cargo told this program of its own package: build scripts that ask for the same of theirs
/// would take it for a change.
pub(crate) fn forget_package(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
}

/// Builds the `vmm` command alone, for this machine, and returns its path. Cargo's progress goes to
/// standard error.
///
/// # Errors
/// It does not build.
pub(crate) fn build_vmm(profile: Profile) -> Result<PathBuf> {
    Ok(build_program(Arch::native()?, profile, "vmm", "vmm")?.path)
}

/// Builds the program `name` of `package` alone, for `arch`.
///
/// # Errors
/// It does not build.
pub(crate) fn build_program(
    arch: Arch,
    profile: Profile,
    package: &str,
    name: &str,
) -> Result<Program> {
    let built = build_targets(arch, profile, &["--package", package, "--bin", name])?;
    built.into_iter().next().with_context(|| format!("cargo built no program named {name}"))
}

/// Builds `vmm` and the programs it finds beside itself, for `arch`: all of the workspace but this one.
///
/// # Errors
/// They do not build.
pub(crate) fn build_programs(arch: Arch, profile: Profile) -> Result<Vec<Program>> {
    let mut programs = vec![];
    // One by one: built together, they would get the features that any of them asks for.
    for package in packages_with_programs(&metadata()?) {
        programs.extend(build_targets(arch, profile, &["--package", &package, "--bins"])?);
    }
    Ok(programs)
}

/// Builds all programs of the workspace but this one for this machine, in one go and with assertions. Tests of several
/// packages find them beside their own.
///
/// # Errors
/// They do not build.
pub(crate) fn build_programs_together() -> Result<()> {
    let selection = ["build", "--workspace", "--exclude", env!("CARGO_PKG_NAME"), "--bins"];
    build(Arch::native()?, &selection).map(drop)
}

fn build_targets(arch: Arch, profile: Profile, targets: &[&str]) -> Result<Vec<Program>> {
    let release: &[&str] = if profile == Profile::Release { &["--release"] } else { &[] };
    Ok(executables(&build(arch, &[&["build"], targets, release].concat())?))
}

/// The test targets that declare `test = false`: those that boot guests.
///
/// # Errors
/// cargo cannot read the workspace.
pub(crate) fn guest_tests() -> Result<Vec<GuestTest>> {
    Ok(undeclared_tests(&metadata()?))
}

/// Builds the programs of `tests` for `arch`.
///
/// # Errors
/// They do not build.
pub(crate) fn build_guest_tests(arch: Arch, tests: &[GuestTest]) -> Result<Vec<Program>> {
    let mut arguments = vec!["test", "--no-run"];
    for test in tests {
        arguments.extend(["--package", &test.package, "--test", &test.name]);
    }
    let mut programs = executables(&build(arch, &arguments)?);
    programs.retain(|program| tests.iter().any(|test| test.name == program.name));
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    anyhow::ensure!(programs.len() == tests.len(), "cargo did not build all of {tests:?}");
    Ok(programs)
}

/// Builds the test targets `names` of the package `vmm` for `arch`, and the program `vmm` that they run, whose path
/// they have built in.
///
/// # Errors
/// They do not build.
pub(crate) fn build_tests_of_vmm(arch: Arch, names: &[&str]) -> Result<(Vec<Program>, PathBuf)> {
    let mut arguments = vec!["test", "--no-run", "--package", "vmm"];
    for name in names {
        arguments.extend(["--test", name]);
    }
    let messages = build(arch, &arguments)?;
    let (tests, others): (Vec<_>, Vec<_>) = executables(&messages)
        .into_iter()
        .partition(|program| names.contains(&program.name.as_str()));
    anyhow::ensure!(tests.len() == names.len(), "cargo did not build all of {names:?}");
    let monitor = others.into_iter().map(|program| program.path);
    let monitor =
        monitor.into_iter().find(|path| path.ends_with("vmm")).context("vmm was not built")?;
    Ok((tests, monitor))
}

/// Builds the unit tests of `packages` for `arch`, of all but this one if there are none; each program has the name of
/// its file.
///
/// # Errors
/// They do not build.
pub(crate) fn build_unit_tests(arch: Arch, packages: &[&str]) -> Result<Vec<Program>> {
    let mut arguments = vec!["test", "--no-run", "--lib", "--bins"];
    if packages.is_empty() {
        arguments.extend(["--workspace", "--exclude", env!("CARGO_PKG_NAME")]);
    }
    packages.iter().for_each(|package| arguments.extend(["--package", package]));
    let mut programs = executables(&build(arch, &arguments)?);
    for program in &mut programs {
        // A library and a program of one package have one name.
        let file = program.path.file_name().unwrap_or_default();
        program.name = file.to_string_lossy().into_owned();
    }
    Ok(programs)
}

/// Builds all tests of the workspace that plain `cargo test` runs, for this machine; those of the documentation
/// are built when they run. First come programs of their own, which wait for what they start, then unit tests.
///
/// # Errors
/// They do not build.
pub(crate) fn build_native_tests() -> Result<Vec<TestProgram>> {
    let messages = build(Arch::native()?, &["test", "--no-run", "--workspace"])?;
    Ok(test_programs(&messages))
}

/// What cargo knows about the packages of the workspace.
fn metadata() -> Result<Value> {
    let mut metadata = cargo();
    metadata.args(["metadata", "--no-deps", "--format-version", "1"]);
    Ok(serde_json::from_slice(&command::stdout(&mut metadata)?)?)
}

/// Runs cargo with `arguments` for `arch`, showing its diagnostics; returns its messages.
fn build(arch: Arch, arguments: &[&str]) -> Result<Vec<Value>> {
    let mut cargo = cross::cargo(arch)?;
    cargo.args(arguments).arg("--message-format=json-render-diagnostics");
    let line = command::describe(&cargo);
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start `{line}`"))?;
    anyhow::ensure!(output.status.success(), "`{line}` failed ({})", output.status);
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    messages.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn executables(messages: &[Value]) -> Vec<Program> {
    let program = |message: &Value| {
        let path = message.get("executable")?.as_str()?;
        let name = message.get("target")?.get("name")?.as_str()?;
        Some(Program { name: name.to_owned(), path: OsString::from(path).into() })
    };
    messages.iter().filter_map(program).collect()
}

fn test_programs(messages: &[Value]) -> Vec<TestProgram> {
    let program = |message: &Value| {
        let is_test = message.get("profile")?.get("test")?.as_bool()?;
        let path = PathBuf::from(message.get("executable")?.as_str()?);
        let package = Path::new(message.get("manifest_path")?.as_str()?).parent()?.to_owned();
        let is_unit_test = !is_kind(message.get("target")?, "test");
        is_test.then_some((is_unit_test, TestProgram { path, package }))
    };
    let mut programs: Vec<_> = messages.iter().filter_map(program).collect();
    programs.sort_by_key(|(is_unit_test, _)| *is_unit_test);
    programs.into_iter().map(|(_, program)| program).collect()
}

fn undeclared_tests(metadata: &Value) -> Vec<GuestTest> {
    let mut tests = vec![];
    for package in list(metadata, "packages") {
        for target in list(package, "targets") {
            if is_kind(target, "test") && target.get("test") == Some(&Value::Bool(false)) {
                tests.push(GuestTest { package: name(package), name: name(target) });
            }
        }
    }
    tests
}

/// The packages that users get programs from, which this one is not.
fn packages_with_programs(metadata: &Value) -> Vec<String> {
    let has_program = |package: &&Value| list(package, "targets").iter().any(|t| is_kind(t, "bin"));
    let packages = list(metadata, "packages").iter().filter(has_program).map(name);
    packages.filter(|name| name != env!("CARGO_PKG_NAME")).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn name(value: &Value) -> String {
    value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn is_kind(target: &Value, kind: &str) -> bool {
    list(target, "kind").iter().any(|found| found == kind)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn guest_tests_are_the_test_targets_cargo_test_leaves_out() {
        let metadata = json!({"packages": [{"name": "vmm", "targets": [
            {"name": "vmm", "kind": ["bin"], "test": false},
            {"name": "boot", "kind": ["test"], "test": false},
            {"name": "architecture", "kind": ["test"], "test": true},
        ]}]});
        let expected = GuestTest { package: "vmm".into(), name: "boot".into() };
        assert_eq!(undeclared_tests(&metadata), [expected]);
    }

    #[test]
    fn every_package_with_a_program_is_built_but_this_one() {
        let metadata = json!({"packages": [
            {"name": "vmm", "targets": [{"name": "vmm", "kind": ["lib"]}, {"kind": ["bin"]}]},
            {"name": "vmm-protocol", "targets": [{"name": "vmm_protocol", "kind": ["lib"]}]},
            {"name": "xtask", "targets": [{"name": "xtask", "kind": ["bin"]}]},
            {"name": "vmm-agent", "targets": [{"name": "vmm-agent", "kind": ["bin"]}]},
        ]});
        assert_eq!(packages_with_programs(&metadata), ["vmm", "vmm-agent"]);
    }

    #[test]
    fn programs_are_found_among_cargo_messages() {
        let messages = [
            json!({"reason": "build-script-executed", "package_id": "x"}),
            json!({"target": {"name": "vmm"}, "executable": null}),
            json!({"target": {"name": "vmm"}, "executable": "/t/vmm"}),
        ];
        let expected = Program { name: "vmm".into(), path: "/t/vmm".into() };
        assert_eq!(executables(&messages), [expected]);
    }

    #[test]
    fn programs_of_their_own_come_before_unit_tests_and_what_they_start_is_none_of_them() {
        let message = |kind: &str, test: bool, name: &str| {
            json!({"reason": "compiler-artifact", "manifest_path": "/w/p/Cargo.toml",
                "target": {"kind": [kind]}, "profile": {"test": test}, "executable": name})
        };
        let messages = [
            message("lib", true, "/t/unit"),
            message("bin", false, "/t/vmm"),
            message("test", true, "/t/cli"),
            json!({"reason": "build-finished"}),
        ];
        let program = |path: &str| TestProgram { path: path.into(), package: "/w/p".into() };
        assert_eq!(test_programs(&messages), [program("/t/cli"), program("/t/unit")]);
    }

    #[test]
    fn cargo_is_told_nothing_of_this_package() {
        let told = cargo();
        let is_removed =
            |name: &str| told.get_envs().any(|(own, value)| own == name && value.is_none());
        // Cargo told them this program.
        assert!(is_removed("CARGO_PKG_NAME") && is_removed("CARGO_MANIFEST_DIR"));
    }

    #[test]
    fn root_holds_the_workspace() {
        assert!(root().join("Cargo.lock").is_file());
    }
}
