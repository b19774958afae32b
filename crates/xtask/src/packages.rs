//! Debian packages the developer commands need on this machine.
//!
//! A name is one of this machine's architecture, or `NAME:ARCHITECTURE`.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::command;
use crate::debian::SUITE;

/// How apt is told to install.
const INSTALL: &[&str] = &["install", "--no-install-recommends"];

/// Installs those of `packages` that are missing; says which before it does. Silent when all are
/// present.
///
/// # Errors
/// This is not a Debian system, or apt fails.
pub(crate) fn ensure(packages: &[&str]) -> Result<()> {
    if missing(packages)?.is_empty() {
        return Ok(());
    }
    // apt decides what to do before it waits for another apt, whose half-done work then misleads it.
    let _lock = Cache::of_user()?.lock("packages")?;
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("packages: installing {}", missing.join(" "));
    for package in &missing {
        offer(package)?;
    }
    // Package lists older than the archive name files that are gone; fresh ones cure that.
    if install(&missing).is_err() {
        apt_get(&["update"])?;
        install(&missing)?;
    }
    Ok(())
}

/// Installs `packages` and removes nothing, as what a developer has installed is not ours to remove. What is in the
/// way, because it is of another release than they are, is taken from theirs instead.
fn install(packages: &[&str]) -> Result<()> {
    let others = in_the_way(packages)?;
    let mut line = [INSTALL, &["--yes", "--no-remove"], packages].concat();
    if !others.is_empty() {
        eprintln!("packages: taking {} as well, from this release of Debian", others.join(" "));
        line.push("--allow-downgrades");
    }
    let others: Vec<_> = others.iter().map(|name| format!("{name}/{SUITE}")).collect();
    line.extend(others.iter().map(String::as_str));
    apt_get(&line)
}

/// What apt would remove for the sake of `packages`.
fn in_the_way(packages: &[&str]) -> Result<Vec<String>> {
    let mut apt = Command::new("apt-get");
    apt.args(INSTALL).arg("--simulate").args(packages).env("LC_ALL", "C.UTF-8");
    // If it fails, so will the installation, and say why.
    let output = apt.output().context("run apt-get: the set-up needs a Debian system")?;
    Ok(removed(&String::from_utf8_lossy(&output.stdout)))
}

/// The packages that a simulation removes, from lines like `Remv qemu-utils [1:10.0.2]`.
fn removed(simulation: &str) -> Vec<String> {
    let removal = |line: &str| Some(line.strip_prefix("Remv ")?.split(' ').next()?.to_owned());
    simulation.lines().filter_map(removal).collect()
}

/// Packages needed to build files owned by root as an ordinary user; nothing for root itself.
pub(crate) fn for_unprivileged_builds() -> &'static [&'static str] {
    if is_root() { &[] } else { &["fakeroot", "uidmap"] }
}

/// Whether this process may do as root does.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let native = command::stdout(Command::new("dpkg").arg("--print-architecture"))?;
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package}:${Architecture} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("run dpkg-query: the set-up needs a Debian system")?;
    // The status is non-zero as soon as one package is unknown, so only the listing counts.
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(absent_from(&listing, String::from_utf8_lossy(&native).trim(), packages))
}

/// Which of `packages` a machine of the architecture `native` lacks. One without an architecture suits all.
fn absent_from<'a>(listing: &str, native: &str, packages: &[&'a str]) -> Vec<&'a str> {
    let installed = |package: &str| {
        let (name, arch) = package.split_once(':').unwrap_or((package, native));
        let forms = [arch, "all"].map(|arch| format!("{name}:{arch} installed"));
        listing.lines().any(|line| forms.iter().any(|form| form == line))
    };
    let mut absent: Vec<_> =
        packages.iter().copied().filter(|package| !installed(package)).collect();
    absent.sort_unstable();
    absent.dedup();
    absent
}

/// Has apt know `package`: adds its architecture to those of this machine, and fetches the package lists
/// unless they have it; a new machine has none.
///
/// # Errors
/// apt is missing or cannot fetch them.
pub(crate) fn offer(package: &str) -> Result<()> {
    if let Some((_, arch)) = package.split_once(':') {
        add_architecture(arch)?;
    }
    let show = Command::new("apt-cache").args(["show", package]).output();
    if show.context("run apt-cache: the set-up needs a Debian system")?.status.success() {
        return Ok(());
    }
    apt_get(&["update"])
}

/// Lets packages of `arch` be installed beside those of this machine.
fn add_architecture(arch: &str) -> Result<()> {
    let known = command::stdout(Command::new("dpkg").arg("--print-foreign-architectures"))?;
    let native = command::stdout(Command::new("dpkg").arg("--print-architecture"))?;
    let known = String::from_utf8_lossy(&[known, native].concat()).into_owned();
    if known.lines().any(|line| line == arch) {
        return Ok(());
    }
    as_root(&["dpkg", "--add-architecture", arch])
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut line = vec!["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"];
    line.extend(["-o", "DPkg::Lock::Timeout=600", "-o", "Dpkg::Use-Pty=0"]);
    line.extend(arguments);
    as_root(&line)
}

fn as_root(line: &[&str]) -> Result<()> {
    let mut line = line.to_vec();
    if !is_root() {
        line.insert(0, "sudo");
    }
    let [program, rest @ ..] = line.as_slice() else { bail!("empty command") };
    let mut command = Command::new(program);
    // Standard output belongs to the results of the command that needed the packages.
    command.args(rest).stdout(std::io::stderr());
    command::run_visibly(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_simulation_removes_is_in_the_way() {
        let simulation = "Reading package lists...\nRemv qemu-utils [1:10.0.2~bpo12+1]\n\
                          Inst libfdt1 (1.6.1-4 Debian:12 [amd64])\nRemv rustc:arm64 [1.63]\n";
        assert_eq!(removed(simulation), ["qemu-utils", "rustc:arm64"]);
    }

    #[test]
    fn only_fully_installed_packages_count_as_present() {
        let listing = "kmod:amd64 installed\nfio:amd64 config-files\n";
        let packages = ["kmod", "strace", "fio", "fio"];
        assert_eq!(absent_from(listing, "amd64", &packages), ["fio", "strace"]);
    }

    #[test]
    fn package_of_another_architecture_does_not_stand_in() {
        let listing = "libc6:arm64 installed\nkernel-source:all installed\n";
        let packages = ["libc6", "libc6:arm64", "kernel-source", "kernel-source:arm64"];
        assert_eq!(absent_from(listing, "amd64", &packages), ["libc6"]);
    }

    #[test]
    fn a_package_every_debian_has_is_not_missing() {
        assert_eq!(missing(&["dpkg", "no-such-package-here"]).unwrap(), ["no-such-package-here"]);
    }
}
