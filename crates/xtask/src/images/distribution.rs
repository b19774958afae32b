//! Images of a Debian installation: the smallest one, and others on top of it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::busybox::PATH;
use super::layout::Layout;
use super::tar::{Node, Tar};
use crate::arch::Arch;
use crate::cache::Key;
use crate::{command, debian};

/// The installation's archive, in the entry of the smallest image.
pub(crate) const ARCHIVE: &str = "debian.tar";

/// Changes whenever the way the images are made does.
const RECIPE: &str = "3";

/// Run outside the installation `$1`: removes what belongs to the machine it was made on.
const CLEAN: &str = r#"rm -f "$1/etc/hostname" "$1/etc/resolv.conf""#;

/// Run outside the installation `$1`: notes the time before packages come.
const BEFORE: &str = r#"touch "$1/.before""#;

/// Run outside the installation `$1`: archives what has changed since, and no more.
///
/// The change time tells, which no package can set. Packages remove nothing of those below them.
const DIFFERENCE: &str = r#"chroot "$1" sh -euc '
cd /
rm -f etc/hostname etc/resolv.conf
find . -xdev -mindepth 1 -newercm .before \
    ! -path "./dev*" ! -path "./proc*" ! -path "./run*" ! -path "./sys*" ! -path "./tmp*" \
    ! -path "./.*" ! -path "./var/lib/apt/lists*" ! -path "./var/cache/apt*" \
    ! -path "./var/log/*.log" -print0 | sort -z >/.changed
tar --create --file=/.layer --format=posix --numeric-owner --xattrs \
    --null --no-recursion --files-from=/.changed
'"#;

/// An installation on top of the smallest one.
pub(crate) struct Installation {
    /// The packages, with all they need.
    packages: &'static [&'static str],
    /// A script, run inside, that removes what nobody needs; without a single quote.
    prune: &'static str,
    /// Options of umoci-config(1).
    options: &'static [(&'static str, &'static str)],
    /// Symbolic links added on top: name and target.
    links: &'static [(&'static str, &'static str)],
}

/// Keeps a few of Python's own tests: all of them are as large as the rest of it.
const PRUNE_PYTHON: &str = r#"
cd /usr/lib/python3.*/
rm -r */test */tests idlelib/idle_test
find test -mindepth 1 -maxdepth 1 \
    ! -name "__*__.py" ! -name libregrtest ! -name regrtest.py ! -name support \
    ! -name subprocessdata ! -name test_json ! -name test_subprocess.py -exec rm -r {} +
"#;

/// Python, with those tests of its own that say something about where it runs.
pub(crate) const PYTHON: Installation = Installation {
    packages: &["python3", "libpython3.11-testsuite"],
    prune: PRUNE_PYTHON,
    options: &[("env", PATH), ("env", "LANG=C.UTF-8"), ("cmd", "python3")],
    links: &[],
};

/// nginx in the foreground, its logs on the standard streams.
pub(crate) const NGINX: Installation = Installation {
    packages: &["nginx"],
    prune: "",
    options: &[
        ("env", PATH),
        ("cmd", "nginx"),
        ("cmd", "-g"),
        ("cmd", "daemon off;"),
        ("exposedports", "80/tcp"),
        ("stopsignal", "SIGQUIT"),
    ],
    links: &[
        ("var/log/nginx/access.log", "/dev/stdout"),
        ("var/log/nginx/error.log", "/dev/stderr"),
    ],
};

impl Installation {
    /// What the image is made from, apart from its base.
    pub(crate) fn key(&self) -> Key {
        let words = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(a, b)| format!("{a}={b}\n")).collect::<String>()
        };
        key(Arch::X86_64)
            .with("before", BEFORE)
            .with("difference", DIFFERENCE)
            .with("packages", self.packages.join(" "))
            .with("prune", self.prune)
            .with("options", words(self.options))
            .with("links", words(self.links))
    }

    /// Makes the image at `layout`, from the installation in `archive` and its image at `base`.
    ///
    /// # Errors
    /// mmdebstrap or umoci fail.
    pub(crate) fn build(&self, archive: &Path, base: &Path, layout: &Path) -> Result<()> {
        let difference = layout.with_extension("difference.tar");
        // The installation below has all that a variant could ask for.
        let mut install = debian::mmdebstrap("custom");
        install.arg(format!("--include={}", self.packages.join(",")));
        install.arg(format!("--setup-hook=tar-in {} /", archive.display()));
        install.arg(format!("--setup-hook={BEFORE}"));
        install.arg(format!(r#"--customize-hook=chroot "$1" sh -euc '{}'"#, self.prune));
        install.arg(format!("--customize-hook={DIFFERENCE}"));
        install.arg(format!("--customize-hook=download /.layer {}", difference.display()));
        command::run(install.args(["--format=null", debian::SUITE, "/dev/null"]))?;
        let image = Layout::from_base(base, layout)?;
        image.add_layer(&difference)?;
        if !self.links.is_empty() {
            image.layer(|tar| write_links(tar, self.links))?;
        }
        image.configure(self.options)?;
        image.finish()
    }
}

/// What the smallest image is made from.
pub(crate) fn key(arch: Arch) -> Key {
    let key = Key::new().with("recipe", RECIPE).with("suite", debian::SUITE).with("clean", CLEAN);
    if arch.is_native() { key } else { key.with("unpacked", debian::unpacked_key()) }
}

/// Makes the image of Debian's smallest installation at `layout`; its archive stays in `entry`.
///
/// # Errors
/// mmdebstrap or umoci fail.
pub(crate) fn build(arch: Arch, entry: &Path, layout: &Path) -> Result<()> {
    let archive = entry.join(ARCHIVE);
    let mut install = debian::installation(arch, &[]);
    install.arg(debian::last_hook(arch, CLEAN));
    // Whatever runs a container makes its devices, and only root may unpack them.
    install.arg("--skip=output/dev");
    command::run(install.args(["--format=tar", debian::SUITE]).arg(&archive))?;
    add_empty_dev(entry, &archive)?;
    let image = Layout::create(layout, arch)?;
    // It is kept beside the layout, and adding a layer removes its archive.
    let copy = entry.join("layer.tar");
    fs::hard_link(&archive, &copy)?;
    image.add_layer(&copy)?;
    image.configure(&[("env", PATH), ("cmd", "bash")])?;
    image.finish()
}

/// Adds the directory that was skipped along with its devices.
fn add_empty_dev(entry: &Path, archive: &Path) -> Result<()> {
    let above = entry.join("above");
    fs::create_dir_all(above.join("dev"))?;
    let mut tar = Command::new("tar");
    tar.args(["--append", "--owner=0", "--group=0", "--numeric-owner", "--mode=755", "--mtime=@0"]);
    command::run(tar.arg("--file").arg(archive).arg("--directory").arg(&above).arg("./dev"))?;
    Ok(fs::remove_dir_all(&above)?)
}

fn write_links<W: Write>(tar: &mut Tar<W>, links: &[(&str, &str)]) -> io::Result<()> {
    links.iter().try_for_each(|(name, target)| tar.add(&Node::link(name, target)))
}
