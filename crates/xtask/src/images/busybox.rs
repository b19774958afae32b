//! The smallest image one can work in: a static BusyBox and the accounts it needs.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;

use super::layout::Layout;
use super::tar::{Node, Tar};
use crate::arch::Arch;
use crate::cache::Key;
use crate::debian;

const DIRECTORIES: &[&str] =
    &["bin", "dev", "etc", "home", "proc", "sbin", "sys", "usr", "usr/bin", "var", "var/tmp"];

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
user:x:1000:1000:user:/home/user:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
";

/// `user` has two further groups, so that a test sees whether they are found.
const GROUP: &str = "\
root:x:0:
daemon:x:1:
audio:x:29:user
www-data:x:33:
staff:x:50:user
user:x:1000:
nogroup:x:65534:
";

const SHADOW: &str = "root:*::0:99999:7:::\nuser:*::0:99999:7:::\n";

/// The search path of the image, as docker's own images have it.
pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the image is made from, apart from BusyBox itself.
pub(crate) fn key() -> Key {
    Key::new()
        .with("directories", DIRECTORIES.join(" "))
        .with("passwd", PASSWD)
        .with("group", GROUP)
        .with("shadow", SHADOW)
        .with("path", PATH)
}

/// Makes the image at `layout`.
///
/// # Errors
/// apt or umoci fail.
pub(crate) fn build(arch: Arch, entry: &Path, layout: &Path) -> Result<()> {
    let (busybox, applets) = debian::busybox(arch, &entry.join("package"))?;
    let image = Layout::create(layout, arch)?;
    image.layer(|tar| write(tar, &busybox, &applets))?;
    image.configure(&[("env", PATH), ("cmd", "sh"), ("workingdir", "/")])?;
    image.finish()
}

fn write<W: Write>(tar: &mut Tar<W>, busybox: &[u8], applets: &str) -> io::Result<()> {
    for directory in DIRECTORIES {
        tar.add(&Node::directory(directory))?;
    }
    tar.add(&Node::directory("root").mode(0o700))?;
    tar.add(&Node::directory("home/user").owner(1000, 1000))?;
    tar.add(&Node::directory("tmp").mode(0o1777))?;
    tar.add(&Node::file("bin/busybox", busybox).mode(0o755))?;
    for applet in applets.lines().filter(|name| *name != "busybox") {
        let path = format!("bin/{applet}");
        tar.add(&Node::hard_link(&path, "bin/busybox").mode(0o755))?;
    }
    tar.add(&Node::link("usr/bin/env", "../../bin/env"))?;
    tar.add(&Node::file("etc/passwd", PASSWD.as_bytes()))?;
    tar.add(&Node::file("etc/group", GROUP.as_bytes()))?;
    tar.add(&Node::file("etc/shadow", SHADOW.as_bytes()).mode(0o640))
}
