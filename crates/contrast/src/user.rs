//! Who an image's process runs as, looked up in its root file system.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};

use crate::workload::User;

/// Bytes of a list of users that are read.
const MAX_LIST: u64 = 1 << 20;

/// The numbers of `text`, which is empty (root) or `user[:group]`, each a name or a number.
///
/// # Errors
/// The image has no such user or group.
pub fn find(text: &str, rootfs: &Path) -> Result<User, String> {
    let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
    let mut found = User::default();
    if !user.is_empty() {
        let list = read(rootfs, "etc/passwd");
        let entry = list.lines().map(fields).find(|fields| named(fields, user));
        let known = entry.and_then(|fields| Some((number(&fields, 2)?, number(&fields, 3)?)));
        let (uid, gid) = known
            .or_else(|| Some((user.parse().ok()?, 0)))
            .ok_or_else(|| format!("the image has no user {user}"))?;
        found = User { uid, gid };
    }
    if let Some(group) = group {
        let list = read(rootfs, "etc/group");
        let entry = list.lines().map(fields).find(|fields| named(fields, group));
        let gid = entry.and_then(|fields| number(&fields, 2)).or_else(|| group.parse().ok());
        found.gid = gid.ok_or_else(|| format!("the image has no group {group}"))?;
    }
    Ok(found)
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

/// Whether an entry is that of `wanted`, by name or by number.
fn named(fields: &[&str], wanted: &str) -> bool {
    fields.first() == Some(&wanted) || fields.get(2) == Some(&wanted)
}

fn number(fields: &[&str], index: usize) -> Option<u32> {
    fields.get(index)?.parse().ok()
}

/// A file of the image. Links in it lead nowhere but into it; what cannot be read is empty.
fn read(rootfs: &Path, name: &str) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let root = open(rootfs, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat2(&root, name, flags, Mode::empty(), ResolveFlags::IN_ROOT)
            .or_else(|_| openat2(CWD, "/dev/null", flags, Mode::empty(), ResolveFlags::empty()))?;
        let mut bytes = vec![];
        File::from(file).take(MAX_LIST).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn users_are_those_of_the_image() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:33:44::/:\n")
            .unwrap();
        fs::write(root.path().join("etc/group"), "web:x:44:\nlog:x:55:\n").unwrap();
        let find = |text: &str| find(text, root.path()).map(|user| (user.uid, user.gid));
        assert_eq!(find(""), Ok((0, 0)));
        assert_eq!(find("web"), Ok((33, 44)));
        assert_eq!(find("33"), Ok((33, 44)));
        assert_eq!(find("web:log"), Ok((33, 55)));
        assert_eq!(find("7:8"), Ok((7, 8)));
        assert_eq!(find("nobody").unwrap_err(), "the image has no user nobody");
        assert_eq!(find("web:no").unwrap_err(), "the image has no group no");
    }

    #[test]
    fn list_that_is_a_link_out_of_the_image_is_none() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("etc/passwd")).unwrap();
        assert!(find("daemon", root.path()).is_err());
    }
}
