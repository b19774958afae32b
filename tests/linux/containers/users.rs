//! A user without root: an ordinary number, directories of its own, the right to open `/dev/kvm`, and
//! nothing else.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::pty::Pty;
use super::services::fetch;
use super::world::{Ran, eventually, kernel, processes, run};
use crate::guest::artifact;
use crate::user_net::connect_host;

/// Numbers that nobody else has.
const USER: u32 = 4711;
/// The group that may use `/dev/kvm`, as `kvm` is with distributions.
const KVM: u32 = 4712;

struct User {
    home: TempDir,
    runtime: PathBuf,
}

impl User {
    fn new() -> Self {
        let device = Path::new("/dev/kvm");
        chown(device, Some(0), Some(KVM)).expect("owner");
        fs::set_permissions(device, fs::Permissions::from_mode(0o660)).expect("mode");
        let home = tempfile::Builder::new().prefix("home").tempdir_in("/home").expect("home");
        let runtime = home.path().join("run");
        fs::create_dir(&runtime).expect("directory");
        for path in [home.path(), &runtime] {
            chown(path, Some(USER), Some(USER)).expect("owner");
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("mode");
        }
        Self { home, runtime }
    }

    /// `vmm` as this user, who has its own directories by the rules of XDG.
    fn vmm(&self, args: &[&str]) -> Command {
        self.vmm_of_groups(&KVM.to_string(), args)
    }

    fn vmm_of_groups(&self, groups: &str, args: &[&str]) -> Command {
        let user = USER.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--inh-caps=-all"]);
        command.args(if groups.is_empty() {
            vec!["--clear-groups"]
        } else {
            vec!["--groups", groups]
        });
        command.arg("vmm").args(args);
        command.env("HOME", self.home.path()).env("XDG_RUNTIME_DIR", &self.runtime);
        command.env("VMM_KERNEL", kernel());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        run(&mut self.vmm(args), b"")
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        self.run(args).success().trim_end().to_owned()
    }

    fn import(&self) {
        let layout = format!("oci:{}", artifact("images/busybox").display());
        self.ok(&["pull", "--quiet", "--name", "busybox", &layout]);
    }

    /// Its processes, with who they are.
    fn processes(&self) -> Vec<(u32, String)> {
        let home = self.home.path().to_str().expect("text");
        let found =
            processes(|_, line, environment| line.contains(home) || environment.contains(home));
        let owner = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default().to_owned()
        };
        found.iter().map(|pid| (*pid, owner(pid))).collect()
    }
}

/// All of it, as a person does it: an image, a shell on a terminal, a port that others reach.
#[test]
fn user_without_root_has_a_terminal_and_a_published_port() {
    connect_host();
    let user = User::new();
    user.import();
    assert_eq!(user.ok(&["images"]).lines().count(), 2);
    let line = ["run", "-it", "--rm", "--name", "box", "-p", "127.0.0.1:8095:80", "busybox", "sh"];
    let mut shell = Pty::start(&user.vmm(&line), 33, 101);
    shell.until("# ");
    shell.type_in(
        b"id -u; stty size; cat /proc/1/comm; touch /x; stat -c %u:%a /etc/shadow; echo ok$?\n",
    );
    let seen = shell.until("ok0\n");
    assert!(seen.contains("\n0\n33 101\nsh\n0:"), "{seen}");
    shell.type_in(b"while :; do printf 'HTTP/1.0 200 OK\\r\\n\\r\\nhello from inside\\n' | nc -l -p 80 > /dev/null; done &\n");
    shell.until("# ");
    assert!(fetch(8095, "/").ends_with("hello from inside\n"));
    // Nothing of it runs as anybody else: command, keeper, monitor, passt.
    let running = user.processes();
    let own = format!("\t{USER}\t{USER}\t{USER}\t{USER}");
    let others: Vec<_> = running.iter().filter(|(_, owner)| *owner != own).collect();
    assert!(running.len() >= 3 && others.is_empty(), "{running:?}");
    assert!(user.ok(&["ps"]).contains("127.0.0.1:8095"), "{}", user.ok(&["ps"]));
    shell.type_in(b"exit 3\n");
    assert_eq!(shell.finish().1, 3);
    assert_eq!(user.ok(&["ps", "-aq"]), "");
    eventually("its processes are gone", || user.processes().is_empty());
    // What it made is where it belongs, and for nobody else.
    let data = user.home.path().join(".local/share/vmm");
    let mode = fs::metadata(&data).expect("directory").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "{mode:o}");
    assert_eq!(fs::read_dir(user.runtime.join("vmm")).expect("sockets").count(), 0);
}

/// Owners are root inside and the user outside, unless they are asked for; what the user may not read or write stays
/// as it is.
#[test]
fn user_without_root_copies_into_a_container_and_out_of_it() {
    let user = User::new();
    user.import();
    let script = "sleep 1000";
    user.ok(&["run", "-d", "--network", "none", "--name", "box", "busybox", "sh", "-c", script]);
    let site = user.home.path().join("site");
    let file = site.join("page");
    fs::create_dir(&site).expect("directory");
    fs::write(&file, "content\n".repeat(100_000)).expect("file");
    for path in [&site, &file] {
        chown(path, Some(USER), Some(USER)).expect("owner");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("mode");
    let path = |name: &str| user.home.path().join(name).to_str().expect("text").to_owned();
    user.ok(&["cp", &path("site"), "box:/srv"]);
    user.ok(&["cp", "-a", &path("site"), "box:/kept"]);
    let stat = ["exec", "box", "stat", "-c", "%u:%g %a %s", "/srv/page", "/kept/page"];
    assert_eq!(user.ok(&stat), format!("0:0 640 800000\n{USER}:{USER} 640 800000"));
    let line = "chown 33:33 /srv/page; chmod 4755 /srv/page; ln -s page /srv/link";
    user.ok(&["exec", "box", "sh", "-c", line]);
    user.ok(&["cp", "-a", "box:/srv", &path("out")]);
    let found = fs::metadata(user.home.path().join("out/page")).expect("copied");
    assert_eq!((found.uid(), found.gid()), (USER, USER));
    assert_eq!(fs::read(&file).expect("file"), fs::read(path("out/page")).expect("copied"));
    assert_eq!(fs::read_link(path("out/link")).expect("link").to_str(), Some("page"));
    // Not with the rights of anybody else.
    let secret = user.home.path().join("secret");
    fs::write(&secret, "of root").expect("file");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("mode");
    for (from, to) in [(path("secret").as_str(), "box:/x"), ("box:/srv/page", "/root/page")] {
        let refused = user.run(&["cp", from, to]);
        assert_eq!(refused.status, 1, "{}", refused.err());
        assert!(refused.err().contains("Permission denied"), "{}", refused.err());
    }
    assert!(!Path::new("/root/page").exists());
    user.ok(&["rm", "-f", "box"]);
}

/// The message is about what is missing, and what to do about it.
#[test]
fn user_who_may_not_use_kvm_is_told_so() {
    let user = User::new();
    user.import();
    let line = ["run", "--rm", "--network", "none", "busybox", "true"];
    let refused = run(&mut user.vmm_of_groups("", &line), b"");
    assert_eq!(refused.status, 125, "{}", refused.err());
    let told = refused.err();
    assert!(told.contains("/dev/kvm") && told.contains("vmm doctor"), "{told}");
    // The images and containers of root are not this user's.
    let mut others = user.vmm(&["ps"]);
    let refused = run(others.env("VMM_DATA", "/var/lib/vmm"), b"");
    assert_eq!(refused.status, 125, "{}", refused.err());
}
