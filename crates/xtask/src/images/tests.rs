//! The images are what the tests of containers take them for, as umoci and GNU tar read them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::Command;

use serde_json::Value;

use super::*;
use crate::command;

fn layout(name: Name) -> PathBuf {
    let forms = name.ensure(&Cache::of_user().unwrap(), Arch::X86_64).unwrap();
    forms.into_iter().next().unwrap().path
}

/// The standard output of `umoci` with `arguments` and the image of `layout`.
fn umoci(arguments: &[&str], layout: &Path) -> String {
    let image = format!("{}:{}", layout.display(), layout::TAG);
    let mut umoci = Command::new("umoci");
    let printed = command::stdout(umoci.args(arguments).args(["--image", &image])).unwrap();
    String::from_utf8(printed).unwrap()
}

/// The blob that `descriptor` names.
fn blob(layout: &Path, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
    serde_json::from_slice(&fs::read(layout.join("blobs").join(digest)).unwrap()).unwrap()
}

fn configuration(layout: &Path) -> Value {
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let manifest = blob(layout, &index["manifests"][0]);
    blob(layout, &manifest["config"])
}

/// The root file system of an image, unpacked by umoci as the calling user.
struct Unpacked(tempfile::TempDir);

impl Unpacked {
    fn new(layout: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().join("bundle");
        let mut umoci = Command::new("umoci");
        umoci.args(["unpack", "--rootless", "--image"]);
        umoci.arg(format!("{}:{}", layout.display(), layout::TAG)).arg(bundle);
        command::run(&mut umoci).unwrap();
        Self(directory)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join("bundle/rootfs").join(path)
    }

    fn names(&self, path: &str) -> Vec<String> {
        let list = fs::read_dir(self.path(path)).unwrap();
        let name = |item: std::io::Result<fs::DirEntry>| item.unwrap().file_name();
        let mut names: Vec<_> =
            list.map(|item| String::from_utf8(name(item).into_encoded_bytes()).unwrap()).collect();
        names.sort();
        names
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn inode(&self, path: &str) -> u64 {
        self.path(path).symlink_metadata().unwrap().ino()
    }
}

#[test]
fn every_layout_has_one_image_whose_blobs_are_what_they_are_called() {
    let cache = Cache::of_user().unwrap();
    let layers = BTreeMap::from([
        ("busybox", 1),
        ("debian", 1),
        ("python", 2),
        ("nginx", 3),
        ("layers", 30),
        ("built", 6),
        ("built-zstd", 6),
    ]);
    let forms = suite(&cache, Arch::X86_64).unwrap();
    let layouts: Vec<_> = forms.iter().filter(|form| form.path.is_dir()).collect();
    assert_eq!(layouts.len(), layers.len());
    for Form { name, path } in layouts {
        let list = command::stdout(Command::new("umoci").args(["list", "--layout"]).arg(path));
        assert_eq!(list.unwrap(), b"latest\n", "{name}");
        let stat: Value = serde_json::from_str(&umoci(&["stat", "--json"], path)).unwrap();
        let history = stat["history"].as_array().unwrap();
        let full = history.iter().filter(|step| !step["layer"].is_null());
        assert_eq!(Some(&full.count()), layers.get(name.as_str()), "{name}");
        let blobs = path.join("blobs/sha256");
        let sums = command::stdout(
            Command::new("sh").args(["-c", "cd \"$1\" && sha256sum *", "sums"]).arg(&blobs),
        );
        for line in String::from_utf8(sums.unwrap()).unwrap().lines() {
            let (sum, file) = line.split_once("  ").unwrap();
            assert_eq!(sum, file, "{name}");
            assert_eq!(blobs.join(file).metadata().unwrap().mode() & 0o444, 0o444, "{name}");
        }
    }
}

#[test]
fn archives_hold_the_image_that_the_layout_holds() {
    let forms = Name::Built.ensure(&Cache::of_user().unwrap(), Arch::X86_64).unwrap();
    let member = |name: &str, member: &str| {
        let form = forms.iter().find(|form| form.name == name).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--to-stdout", "--file"]).arg(&form.path).arg(member);
        serde_json::from_slice::<Value>(&command::stdout(&mut tar).unwrap()).unwrap()
    };
    let layers = configuration(&forms[0].path)["rootfs"]["diff_ids"].clone();
    assert_eq!(layers.as_array().unwrap().len(), 6);
    let index = member(built::OCI_ARCHIVE, "index.json");
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "latest");
    let manifest = member(built::DOCKER_ARCHIVE, "manifest.json");
    assert_eq!(manifest[0]["RepoTags"][0], "docker.io/library/built:latest");
    let config = member(built::DOCKER_ARCHIVE, manifest[0]["Config"].as_str().unwrap());
    assert_eq!(config["rootfs"]["diff_ids"], layers);
}

#[test]
fn dockerfile_leaves_its_marks() {
    let layout = layout(Name::Built);
    let configuration = configuration(&layout);
    let config = &configuration["config"];
    assert_eq!(config["User"], "app");
    assert_eq!(config["WorkingDir"], "/opt/app");
    assert_eq!(config["Entrypoint"], serde_json::json!(["entry"]));
    assert_eq!(config["Cmd"], serde_json::json!(["one", "two words", ""]));
    assert_eq!(config["StopSignal"], "SIGUSR1");
    let environment: Vec<_> = config["Env"].as_array().unwrap().iter().collect();
    assert!(environment.contains(&&"GREETING=hello world".into()), "{environment:?}");
    assert!(environment.contains(&&"EMPTY=".into()), "{environment:?}");
    let root = Unpacked::new(&layout);
    assert_eq!(root.names("opt/app"), ["bin", "greeting", "old"]);
    assert_eq!(root.names("opt/app/old"), ["other"]);
    assert!(root.names("home").is_empty());
    assert!(root.text("etc/group").contains("\nstaff:x:50:user,app\n"));
}

#[test]
fn layers_change_those_below_them() {
    let root = Unpacked::new(&layout(Name::Layers));
    let kept = ["links", "opaque", "reborn", "was-directory", "was-file", "was-link"];
    assert_eq!(root.names("t"), kept);
    assert_eq!(root.names("t/opaque"), ["new", "old"]);
    assert_eq!(root.text("t/opaque/old"), "again\n");
    assert_eq!(root.text("t/reborn/inside"), "again\n");
    assert_eq!(root.text("t/was-directory"), "above\n");
    assert_eq!(root.text("t/was-file/inside"), "above\n");
    assert_eq!(root.text("t/was-link"), "above\n");
    assert!(!root.path("t/was-link").is_symlink());
    let links = ["apart", "one", "symbolic", "symbolic-too", "three"];
    assert_eq!(root.names("t/links"), links);
    assert_eq!(root.inode("t/links/one"), root.inode("t/links/three"));
    assert_eq!(root.text("t/links/apart"), "apart\n");
    assert_eq!(root.text("t/links/three"), "linked\n");
    assert_eq!(root.inode("t/links/symbolic"), root.inode("t/links/symbolic-too"));
    assert_eq!(root.text("steps/last"), "23\n");
    // The odd ones, and `last`.
    assert_eq!(root.names("steps").len(), 13);
}

#[test]
fn odd_nodes_survive_an_unpacking() {
    let root = Unpacked::new(&layout(Name::Layers));
    let metadata = |path: &str| root.path(path).symlink_metadata().unwrap();
    assert_eq!(metadata("o/setuid").mode() & 0o7777, 0o4755);
    assert_eq!(metadata("o/shared").mode() & 0o7777, 0o2775);
    assert_eq!(metadata("o/sticky").mode() & 0o7777, 0o1777);
    assert!(metadata("o/fifo").file_type().is_fifo());
    assert_eq!(metadata("o/fine").mtime_nsec(), 123_456_789);
    assert_eq!(metadata("o/future").mtime(), 4_102_444_800);
    let sparse = fs::read(root.path("o/sparse")).unwrap();
    assert_eq!(sparse.len() as u64, 64 << 20);
    assert!(sparse.starts_with(b"start\0") && sparse.ends_with(b"\0end"));
    assert_eq!(&sparse[1 << 20..(1 << 20) + 7], b"middle\0");
    assert_eq!(fs::read_link(root.path("o/absolute")).unwrap(), Path::new("/etc/passwd"));
    let names = root.names("o");
    assert!(names.contains(&"a name\nof two lines, grün".to_owned()), "{names:?}");
    assert!(names.contains(&"n".repeat(255)), "{names:?}");
    let mut value = vec![0; 64];
    let size = rustix::fs::lgetxattr(root.path("x/many"), "user.bin", &mut value).unwrap();
    assert_eq!(&value[..size], b"a\0b\nc=d\xff");
}

#[test]
fn python_layer_has_its_tests_and_nothing_of_this_machine() {
    let layout = layout(Name::Python);
    let stat: Value = serde_json::from_str(&umoci(&["stat", "--json"], &layout)).unwrap();
    let steps = stat["history"].as_array().unwrap();
    let layer = steps.iter().rfind(|step| !step["layer"].is_null()).unwrap();
    let digest = layer["layer"]["digest"].as_str().unwrap().replace(':', "/");
    let mut tar = Command::new("tar");
    tar.args(["--list", "--gzip", "--file"]).arg(layout.join("blobs").join(digest));
    let list = String::from_utf8(command::stdout(&mut tar).unwrap()).unwrap();
    let has = |path: &str| list.lines().any(|line| line == path);
    assert!(has("./usr/lib/python3.11/test/test_subprocess.py"));
    assert!(has("./usr/lib/python3.11/test/test_json/test_decode.py"));
    assert!(has("./usr/bin/python3"));
    assert!(!has("./etc/resolv.conf") && !has("./.before") && !has("./etc/passwd"), "{list}");
    assert!(!list.contains("/test/test_os.py"), "{list}");
}
