//! Users and groups, looked up in files of the image.
//!
//! The rules are docker's: a number need not be listed; a name must be. Without a group of its own a
//! user gets the one of its line, and those whose lines list it.

use std::io::Read;

use rustix::fs::FileType;
use rustix::fs::{Mode, OFlags, fstat, open};
use vmm_protocol::Refusal;

use crate::error::Failure;

/// Longer files are none that an image is expected to have.
const MAX_BYTES: u64 = 4 << 20;
/// The kernel's limit of further groups.
const MAX_GROUPS: usize = 65_536;

/// Who a process runs as.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// A line of passwd.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// A line of group.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Looks `wanted` (`name|uid[:group|gid]`, root when empty) and `further` groups up in the image that is
/// this process's root.
pub(crate) fn find(wanted: &str, further: &[String]) -> Result<User, Failure> {
    resolve(wanted, further, &text("/etc/passwd"), &text("/etc/group"))
}

/// The content of a file of the image; empty when there is none that makes sense. It is never waited
/// for: what is no regular file is not read.
fn text(path: &str) -> String {
    let read = || {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open(path, flags, Mode::empty()).ok()?;
        if FileType::from_raw_mode(fstat(&file).ok()?.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// As [`find`], with the contents of the files.
fn resolve(wanted: &str, further: &[String], passwd: &str, group: &str) -> Result<User, Failure> {
    let (name, own_group) = wanted.split_once(':').unwrap_or((wanted, ""));
    let name = if name.is_empty() { "0" } else { name };
    let number = id(name);
    let account = passwd
        .lines()
        .filter_map(account)
        .find(|account| account.name == name || number == Some(account.uid));
    let uid = account.as_ref().map(|account| account.uid).or(number);
    let uid = uid.ok_or_else(|| missing("user", name, "passwd"))?;
    let listed = account.as_ref().map(|account| account.name);
    let mut user = User {
        uid,
        gid: account.as_ref().map_or(0, |account| account.gid),
        groups: vec![],
        home: account.map_or("/", |account| account.home).to_owned(),
    };
    if own_group.is_empty() {
        user.groups = listed.map(|name| memberships(name, group)).unwrap_or_default();
    } else {
        user.gid = group_id(own_group, group)?;
    }
    for name in further {
        user.groups.push(group_id(name, group)?);
    }
    // So that giving up the further groups gives no rights that the own one lacks.
    if !user.groups.contains(&user.gid) {
        user.groups.insert(0, user.gid);
    }
    user.groups.truncate(MAX_GROUPS);
    Ok(user)
}

fn group_id(name: &str, group: &str) -> Result<u32, Failure> {
    let number = id(name);
    let listed = group
        .lines()
        .filter_map(self::group)
        .find(|group| group.name == name || number == Some(group.gid));
    listed.map(|group| group.gid).or(number).ok_or_else(|| missing("group", name, "group"))
}

fn memberships(name: &str, group: &str) -> Vec<u32> {
    let lists = |group: &Group<'_>| group.members.split(',').any(|member| member == name);
    group.lines().filter_map(self::group).filter(lists).map(|group| group.gid).collect()
}

fn missing(noun: &str, name: &str, file: &str) -> Failure {
    let what = format!("unable to find {noun} {name}: no matching entries in {file} file");
    Failure::new(Refusal::NoSuchUser, what)
}

/// A number of a user or group: what does not fit 31 bits is none.
fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse::<i32>().ok()).flatten()?;
    u32::try_from(number).ok()
}

/// Lines that make no sense are no accounts.
fn account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.split(':');
    let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let home = fields.nth(1).filter(|home| home.starts_with('/')).unwrap_or("/");
    (!name.is_empty()).then_some(())?;
    Some(Account { name, uid: id(uid)?, gid: id(gid)?, home })
}

fn group(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
    (!name.is_empty()).then_some(())?;
    Some(Group { name, gid: id(gid)?, members: fields.next().unwrap_or("") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::fs::CWD;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # comment\nbroken\n:x:9:9::/:\nbig:x:4294967296:1::/big:\n\
        web:x:33:33:www:/var/www:/usr/sbin/nologin\n1000:x:7:8::/seven:\nodd:x:1000:1000:::\n";
    const GROUP: &str =
        "root:x:0:\nbin:x:1:root,web\nweb:x:33:\nodd::44:web\nx:y\naudio:x:63:root\n";

    fn find(wanted: &str, further: &[&str]) -> Result<User, Failure> {
        let further: Vec<String> = further.iter().map(|&name| name.to_owned()).collect();
        resolve(wanted, &further, PASSWD, GROUP)
    }

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User { uid, gid, groups: groups.to_vec(), home: home.to_owned() }
    }

    #[test]
    fn users_are_found_as_docker_finds_them() {
        for (wanted, expected) in [
            ("", user(0, 0, &[0, 1, 63], "/root")),
            ("root", user(0, 0, &[0, 1, 63], "/root")),
            ("web", user(33, 33, &[33, 1, 44], "/var/www")),
            ("33", user(33, 33, &[33, 1, 44], "/var/www")),
            ("web:audio", user(33, 63, &[63], "/var/www")),
            ("web:7", user(33, 7, &[7], "/var/www")),
            (":web", user(0, 33, &[33], "/root")),
            ("5000", user(5000, 0, &[0], "/")),
            ("5000:6000", user(5000, 6000, &[6000], "/")),
            // A name goes with its line even when it looks like a number; the first line wins.
            ("1000", user(7, 8, &[8], "/seven")),
            ("odd", user(1000, 1000, &[1000], "/")),
        ] {
            assert_eq!(find(wanted, &[]).unwrap(), expected, "{wanted}");
        }
        assert_eq!(find("33", &["63", "77", "root"]).unwrap().groups, [33, 1, 44, 63, 77, 0]);
    }

    #[test]
    fn users_that_do_not_exist_are_refused() {
        for wanted in
            ["nobody", "big", "4294967296", "2147483648", "-1", "+1", "root:none", "a:b:c"]
        {
            let failure = find(wanted, &[]).unwrap_err();
            assert_eq!(failure.kind, Refusal::NoSuchUser, "{wanted}");
        }
        assert!(find("root", &["none"]).is_err());
    }

    #[test]
    fn image_without_files_has_root_and_numbers() {
        assert_eq!(resolve("", &[], "", "").unwrap(), user(0, 0, &[0], "/"));
        assert_eq!(resolve("7", &[], "", "").unwrap(), user(7, 0, &[0], "/"));
        assert!(resolve("root", &[], "", "").is_err());
    }

    /// I5: a file of the image may be as large as the image.
    #[test]
    fn of_an_absurd_file_no_more_is_read_than_makes_sense() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwd");
        let path = path.to_str().unwrap();
        let early = "early:x:5:5::/:\n";
        let rest = "\n".repeat(usize::try_from(MAX_BYTES).unwrap() - early.len());
        std::fs::write(path, format!("{early}{rest}late:x:6:6::/:\n")).unwrap();
        std::fs::File::options().append(true).open(path).unwrap().set_len(1 << 40).unwrap();
        let read = text(path);
        assert_eq!(read.len() as u64, MAX_BYTES);
        assert_eq!(resolve("early", &[], &read, "").unwrap().uid, 5);
        assert!(resolve("late", &[], &read, "").is_err());
        // What would have to be waited for is not read at all.
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        for path in [pipe.to_str().unwrap(), "/dev/zero", "/dev", "/no/such/file"] {
            assert_eq!(text(path), "", "{path}");
        }
    }

    /// I5: nobody is in more groups than the kernel takes.
    #[test]
    fn of_absurdly_many_groups_as_many_are_taken_as_there_may_be() {
        let groups: String = (0..100_000).map(|gid| format!("g{gid}:x:{gid}:web\n")).collect();
        let user = resolve("web", &[], PASSWD, &groups).unwrap();
        assert_eq!((user.gid, user.groups.len()), (33, MAX_GROUPS));
    }

    proptest! {
        #[test]
        fn any_files_give_a_user_or_a_refusal(wanted in "[a-z0-9:]{0,8}", passwd in "(?s).{0,200}", group in "(?s).{0,200}") {
            if let Ok(user) = resolve(&wanted, &[], &passwd, &group) {
                prop_assert!(user.home.starts_with('/'));
            }
        }
    }
}
