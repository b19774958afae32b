//! Images wherever they come from: each kind of source, named on the command line of `vmm run`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use vmm_image::platform::Platform;

use super::registry;
use super::world::{World, run};
use crate::guest::artifact;

/// Runs a shell's `script` in a container of `image`; how it ended and what it printed.
fn shell(world: &World, image: &str, script: &str) -> (i32, String) {
    let ran = world.run(&["run", "--rm", "--network", "none", image, "sh", "-c", script]);
    assert_eq!(ran.err(), "", "{image}");
    (ran.status, ran.out())
}

#[test]
fn smallest_image_runs_and_ends_as_its_command() {
    let world = World::new();
    let seen = shell(&world, "busybox", "uname -m; cat /proc/1/comm; exit 7");
    assert_eq!(seen, (7, format!("{}\nsh\n", std::env::consts::ARCH)));
    world.assert_nothing_left();
}

/// Programs with an interpreter of their own, and their libraries.
#[test]
fn image_of_a_distribution_runs_its_own_programs() {
    let world = World::new();
    let script =
        ". /etc/os-release; echo $ID; dpkg --print-architecture; perl -e 'print 6 * 7'; exit 3";
    let architecture = Platform::host().architecture;
    assert_eq!(shell(&world, "debian", script), (3, format!("debian\n{architecture}\n42")));
}

/// The image that a Dockerfile made has an entry point of its own, which shows what it was given.
#[test]
fn every_kind_of_file_is_run_as_it_is_named() {
    let world = World::new();
    let run = |source: &str, file: &str| {
        let image = format!("{source}:{}", artifact(file).display());
        let ran = world.run(&["run", "--rm", "--quiet", "--network", "none", &image]);
        assert_eq!(ran.err(), "", "{image}");
        ran.success()
    };
    let seen = run("oci", "images/built");
    assert!(seen.contains("hello world") && seen.contains("two words"), "{seen}");
    for (source, file) in [
        ("oci", "images/built-zstd"),
        ("oci-archive", "images/built.oci.tar"),
        ("docker-archive", "images/built.docker.tar"),
    ] {
        assert_eq!(run(source, file), seen, "{source} {file}");
    }
    // All are the same layers, and so the same file system.
    let files = fs::read_dir(world.data().join("images/rootfs")).expect("file systems");
    assert_eq!(files.count(), 5, "four that were there, and one");
}

/// A registry with the image `busybox`.
struct Registry(registry::Registry);

impl Registry {
    fn start(place: &Path, login: bool) -> Self {
        let registry = Self(registry::Registry::start(place, login, None));
        registry.push();
        registry
    }

    /// Puts the image in, as the distribution specification has it.
    fn push(&self) {
        let layout = artifact("images/busybox");
        let blob = |entry: &Value| {
            let digest = entry["digest"].as_str().expect("digest").to_owned();
            let path = layout.join("blobs").join(digest.replace(':', "/"));
            (digest, path)
        };
        let read = |path: &Path| -> Value {
            serde_json::from_slice(&fs::read(path).expect("file")).expect("JSON")
        };
        let (_, manifest_file) = blob(&read(&layout.join("index.json"))["manifests"][0]);
        let manifest = read(&manifest_file);
        let layers = manifest["layers"].as_array().expect("layers");
        for entry in layers.iter().chain([&manifest["config"]]) {
            let (digest, path) = blob(entry);
            let line = "place=$(curl -sf -u test:secret -X POST -D - \"$1/blobs/uploads/\" | tr -d '\\r' | sed -n 's/^Location: //p') && curl -sf -u test:secret -T \"$3\" \"$place&digest=$2\"";
            self.curl(line, &[&digest, path.to_str().expect("text")]);
        }
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let line = "curl -sf -u test:secret -H \"Content-Type: $2\" -T \"$3\" \"$1/manifests/1\"";
        self.curl(line, &[kind, manifest_file.to_str().expect("text")]);
    }

    fn curl(&self, line: &str, args: &[&str]) {
        let place = format!("http://127.0.0.1:{}/v2/group/box", self.0.port);
        let mut command = Command::new("sh");
        run(command.args(["-c", line, "sh", &place]).args(args), b"").success();
    }
}

/// With and without a password, which is docker's.
#[test]
fn image_of_a_registry_is_run_by_its_name() {
    let world = World::new();
    for login in [false, true] {
        let registry = Registry::start(&world.data().join(format!("registry-{login}")), login);
        let host = format!("localhost:{}", registry.0.port);
        let image = format!("{host}/group/box:1");
        let line = ["run", "--rm", "--network", "none", &image, "echo", "from a registry"];
        let docker: PathBuf = world.data().join("docker");
        let run = || run(world.vmm(&line).env("DOCKER_CONFIG", &docker), b"");
        if login {
            let refused = run();
            assert_eq!(refused.status, 125, "{}", refused.err());
            assert!(refused.err().contains(&format!("pull {image}")), "{}", refused.err());
            assert!(refused.err().contains("does not allow access"), "{}", refused.err());
            let auth = json!({"auths": {host: {"auth": "dGVzdDpzZWNyZXQ="}}});
            fs::create_dir(&docker).expect("directory");
            fs::write(docker.join("config.json"), auth.to_string()).expect("login");
        }
        assert_eq!(run().success(), "from a registry\n");
        drop(registry);
        // It is here now, and the registry is not asked again.
        assert_eq!(run().success(), "from a registry\n");
    }
}
