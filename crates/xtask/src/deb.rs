//! `cargo xtask deb`: the Debian package, which has all that users get: programs, kernels, pages. cargo-deb makes it
//! of a tree that is laid out here, and of what `Cargo.toml` says under `package.metadata.deb`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::arch::Arch;
use crate::artifacts::{self, Artifact};
use crate::cache::{Cache, Key};
use crate::workspace::{self, Profile};
use crate::{command, docs, kernel};

/// The version of cargo-deb that the recipe was tried with.
const CARGO_DEB: &str = "3.8.0";

/// Where the tree is laid out, below the workspace: `Cargo.toml` names it.
const TREE: &str = "target/deb/tree";

/// What of the workspace is in the package as it is, and where.
const FILES: &[(&str, &str)] = &[
    ("usr/share/doc/vmm/README.md", "README.md"),
    ("usr/share/doc/vmm/ARCHITECTURE.md", "ARCHITECTURE.md"),
    ("usr/share/doc/vmm/CHANGELOG.md", "CHANGELOG.md"),
    ("usr/share/doc/vmm/docs", "docs"),
    ("usr/share/doc/vmm/examples/vmm.toml", "resources/vmm.toml"),
];

/// What to package.
#[derive(Args)]
pub(crate) struct DebArgs {
    /// The architecture of the machines it is for
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
}

/// Makes the package, leaves it in target/deb, and prints where it is.
///
/// # Errors
/// As [`ensure`]; or it cannot be written there.
pub(crate) fn run(arguments: &DebArgs) -> Result<()> {
    let made = ensure(&Cache::of_user()?, arguments.arch)?;
    let directory = workspace::root().join("target/deb");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let name = format!("vmm_{}_{}.deb", env!("CARGO_PKG_VERSION"), arguments.arch.debian());
    let package = directory.join(name);
    fs::copy(&made, &package).with_context(|| format!("write {}", package.display()))?;
    println!("{}", package.display());
    Ok(())
}

/// The package for `arch`, made when there is none of what the workspace builds now.
///
/// # Errors
/// Something that goes into it does not build, or cargo-deb fails.
pub(crate) fn ensure(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    let contents = contents(arch)?;
    let mut key = Key::new().with("cargo-deb", CARGO_DEB);
    for path in ["Cargo.toml", "examples/reference.rs", "resources/deb/copyright"] {
        key = key.with(path, artifacts::identity(&workspace::root().join(path))?);
    }
    for file in &contents {
        key = key.with(file.path(), artifacts::identity(file.source())?);
    }
    let entry = cache.short_lived_entry(&arch.kind("deb"), &key, |entry| {
        let tool = cargo_deb(cache)?;
        let tree = workspace::root().join(TREE);
        // Packages of several architectures are made of one tree, one after the other.
        let _lock = cache.lock("deb-tree")?;
        lay_out(&tree, &contents)?;
        package(&tool, arch, &entry.join("vmm.deb"))
    })?;
    Ok(entry.join("vmm.deb"))
}

/// What goes into the package, but for the pages that the command line describes itself by.
fn contents(arch: Arch) -> Result<Vec<Artifact>> {
    let mut list = vec![];
    for program in workspace::build_programs(arch, Profile::Release)? {
        let directory = if program.name == "vmm" { "usr/bin" } else { "usr/libexec/vmm" };
        list.push(artifacts::artifact(&format!("{directory}/{}", program.name), program.path));
    }
    for flavour in artifacts::FLAVOURS {
        let image = kernel::ensure(flavour, arch)?.image();
        list.push(artifacts::artifact(&format!("usr/lib/vmm/vmlinux-{flavour}"), image));
    }
    for (place, source) in FILES {
        list.extend(artifacts::files(place, workspace::root().join(source))?);
    }
    Ok(list)
}

fn lay_out(tree: &Path, contents: &[Artifact]) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("remove {}", tree.display()))?;
    }
    for file in contents {
        artifacts::place(file.source(), &tree.join(file.path()))?;
    }
    let pages = tree.with_file_name("reference");
    docs::reference(&pages)?;
    for page in artifacts::files("", pages)? {
        let place = tree.join(place_of(page.path()));
        artifacts::place(page.source(), &place)?;
    }
    Ok(())
}

/// Where a page of the command line belongs, by its name.
fn place_of(page: &str) -> String {
    let page = page.trim_start_matches('/');
    match Path::new(page).extension().and_then(|extension| extension.to_str()) {
        Some("bash") => "usr/share/bash-completion/completions/vmm".to_owned(),
        Some("fish") => format!("usr/share/fish/vendor_completions.d/{page}"),
        Some("1") => format!("usr/share/man/man1/{page}"),
        _ => format!("usr/share/zsh/vendor-completions/{page}"),
    }
}

/// cargo-deb, installed into the cache once.
fn cargo_deb(cache: &Cache) -> Result<PathBuf> {
    let key = Key::new().with("version", CARGO_DEB);
    let entry = cache.entry("cargo-deb", &key, |entry| {
        eprintln!("deb: installing cargo-deb {CARGO_DEB}");
        let mut cargo = workspace::cargo();
        // Not in the workspace, whose flags and targets are not those of tools.
        cargo.current_dir("/").args(["install", "--quiet", "--locked", "--version", CARGO_DEB]);
        command::run_visibly(cargo.arg("--root").arg(entry).arg("cargo-deb"))
    })?;
    Ok(entry.join("bin/cargo-deb"))
}

fn package(tool: &Path, arch: Arch, file: &Path) -> Result<()> {
    let mut command = Command::new(tool);
    command.current_dir(workspace::root()).args(["--no-build", "--no-strip", "--locked"]);
    command.args(["--target", arch.target(), "--output"]).arg(file);
    command::run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_lie_where_debian_looks_for_them() {
        let places = [
            ("/vmm.bash", "usr/share/bash-completion/completions/vmm"),
            ("/_vmm", "usr/share/zsh/vendor-completions/_vmm"),
            ("/vmm.fish", "usr/share/fish/vendor_completions.d/vmm.fish"),
            ("/vmm-run.1", "usr/share/man/man1/vmm-run.1"),
        ];
        assert!(places.iter().all(|(page, place)| place_of(page) == *place));
    }

    #[test]
    fn every_directory_of_the_package_is_named_in_the_manifest() {
        let manifest = fs::read_to_string(workspace::root().join("Cargo.toml")).unwrap();
        let places = ["vmm.bash", "_vmm", "vmm.fish", "vmm.1"].map(place_of);
        let files = FILES.iter().map(|(place, _)| (*place).to_owned());
        for place in places.into_iter().chain(files) {
            let tops: Vec<_> = place.split('/').take(2).collect();
            let line = format!("[\"{TREE}/{}/", tops.join("/"));
            assert!(manifest.contains(&line), "{place}: no {line}");
        }
    }
}
