//! Debian packages the developer commands need on this machine.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;

/// Installs those of `packages` that are missing; says which before it does. Silent when all are
/// present.
///
/// # Errors
/// This is not a Debian system, or apt fails.
pub(crate) fn ensure(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("packages: installing {}", missing.join(" "));
    for package in &missing {
        refresh_lists_for(package)?;
    }
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(missing);
    // Package lists older than the archive name files that are gone; fresh ones cure that.
    if apt_get(&install).is_err() {
        apt_get(&["update"])?;
        apt_get(&install)?;
    }
    Ok(())
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
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("run dpkg-query: the set-up needs a Debian system")?;
    // The status is non-zero as soon as one package is unknown, so only the listing counts.
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(absent_from(&listing, packages))
}

fn absent_from<'a>(listing: &str, packages: &[&'a str]) -> Vec<&'a str> {
    let installed =
        |package: &str| listing.lines().any(|line| line == format!("{package} installed"));
    let mut absent: Vec<_> =
        packages.iter().copied().filter(|package| !installed(package)).collect();
    absent.sort_unstable();
    absent.dedup();
    absent
}

/// Fetches apt's package lists unless they offer `package`; a new machine has none.
///
/// # Errors
/// apt is missing or cannot fetch them.
pub(crate) fn refresh_lists_for(package: &str) -> Result<()> {
    let show = Command::new("apt-cache").args(["show", package]).output();
    if show.context("run apt-cache: the set-up needs a Debian system")?.status.success() {
        return Ok(());
    }
    apt_get(&["update"])
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut line = vec![];
    if !is_root() {
        line.push("sudo");
    }
    line.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    line.extend(["-o", "DPkg::Lock::Timeout=600", "-o", "Dpkg::Use-Pty=0"]);
    line.extend(arguments);
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
    fn only_fully_installed_packages_count_as_present() {
        let listing = "kmod installed\nfio config-files\n";
        assert_eq!(absent_from(listing, &["kmod", "strace", "fio", "fio"]), ["fio", "strace"]);
    }

    #[test]
    fn a_package_every_debian_has_is_not_missing() {
        assert_eq!(missing(&["dpkg", "no-such-package-here"]).unwrap(), ["no-such-package-here"]);
    }
}
