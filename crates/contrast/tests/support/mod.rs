//! A store with one image, and runtimes that are scripts.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;

use serde_json::Value;
use tempfile::TempDir;
use vmm_image::config::ImageConfig;
use vmm_image::digest::Digest;
use vmm_image::platform::Platform;
use vmm_image::reference::Reference;
use vmm_image::rootfs::{Layer, Limits, build};
use vmm_image::store::{NewNames, Record, RootfsName, Store, StorePaths, digest_of};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_vmm-contrast");

/// A runtime that prints what a command would.
pub(crate) const GOOD: &str = "echo hello";

/// A world of its own: a store with the image `box`, a search path, a place for files.
pub(crate) struct World {
    directory: TempDir,
}

impl World {
    /// A world in which these runtimes are installed, each a name and a shell script of what `run` does.
    pub(crate) fn new(runtimes: &[(&str, &str)]) -> Self {
        let world = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(world.path("bin")).unwrap();
        for (name, script) in runtimes {
            let text = format!(
                "#!/bin/sh\ncase \"$1\" in --version) echo {name} 1.0; exit;; esac\n\
                 case \"$3\" in delete) touch {}; exit;; esac\n{script}\n",
                world.path("deleted").display()
            );
            fs::write(world.path("bin").join(name), text).unwrap();
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(world.path("bin").join(name), mode).unwrap();
        }
        let mut tar = tar::Builder::new(vec![]);
        add_file(&mut tar, "file", 0o644, b"hello");
        world.add_image("box", tar);
        world
    }

    /// A file of this world.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Adds an image with these files.
    pub(crate) fn add_image(&self, name: &str, tar: tar::Builder<Vec<u8>>) {
        let tar = tar.into_inner().unwrap();
        let paths = StorePaths::new(self.path("data"));
        for directory in [paths.rootfs(), paths.records(), paths.temporary()] {
            fs::create_dir_all(directory).unwrap();
        }
        let diff_id = digest_of(&tar).to_bytes();
        let rootfs = RootfsName::new(digest_of(&tar));
        let path = paths.rootfs().join(rootfs.as_str());
        let file = File::options().create_new(true).read(true).write(true).open(path).unwrap();
        let layer = Layer { compressed: &tar[..], diff_id };
        let size = build([Ok(layer)], &Limits::default(), &file).unwrap().bytes;
        let id: Digest = digest_of(name.as_bytes());
        let Platform { architecture, os, .. } = Platform::host();
        let cmd = vec!["/file".to_owned()];
        let config = ImageConfig { cmd, architecture, os, ..ImageConfig::default() };
        let (created, blobs, version) = (None, vec![], Record::VERSION);
        let mut names = NewNames::default();
        names.add(&name.parse::<Reference>().unwrap());
        let record = Record { version, id, config, rootfs, size, created, blobs };
        Store::open(paths).unwrap().add(&record, &names).unwrap();
    }

    /// `vmm bench WORDS`, to be started.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        command.arg("bench").args(words).env("PATH", path).env("VMM_DATA", self.path("data"));
        command.env_remove("VMM_PROGRAM").env("TMPDIR", self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `vmm contrast WORDS`, to be started; what stands for machines is the runtime `vmm`.
    pub(crate) fn contrast(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        command.arg("contrast").args(words).env("PATH", path).env("VMM_DATA", self.path("data"));
        command.env("VMM_PROGRAM", self.path("bin/vmm")).env("TMPDIR", self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `vmm bench startup WORDS box`.
    pub(crate) fn startup(&self, words: &[&str]) -> Output {
        let words = [&["startup"], words, &["box"]].concat();
        self.command(&words).output().unwrap()
    }

    /// The report of `vmm bench startup WORDS box` as JSON.
    pub(crate) fn report(&self, words: &[&str]) -> Value {
        let output = self.startup(&[&["--format", "json"], words].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", output.status);
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// The programs of other packages that `vmm contrast` and `vmm bench` find beside themselves. Who runs tests of several
/// packages at once has built them, lest one test replaces what another uses.
pub(crate) fn build_programs() {
    static ONCE: Once = Once::new();
    if std::env::var_os("VMM_PROGRAMS_BUILT").is_some() {
        return;
    }
    ONCE.call_once(|| {
        for package in ["vmm-probe", "vmm-image"] {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--package", package, "--bin", package]);
            assert!(cargo.status().unwrap().success());
        }
    });
}

/// Adds a file to a layer.
pub(crate) fn add_file(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, name, content).unwrap();
}

/// The arm of this name in a report.
pub(crate) fn arm<'r>(report: &'r Value, name: &str) -> &'r Value {
    let arms = report.get("arms").and_then(Value::as_array).unwrap();
    arms.iter().find(|arm| arm["name"] == name).unwrap()
}

/// A file of the repository.
pub(crate) fn resource(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../resources").join(name)
}

/// What a command said and how it ended.
pub(crate) fn said(output: &Output) -> String {
    format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr))
}
