//! Images made by code, and the program run on them.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by several tests, which fail by a panic"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use vmm_image::digest::Digest;
use vmm_image::store::{Store, StorePaths, digest_of};

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A tar archive of these files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        header.set_entry_type(tar::EntryType::Regular);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image, every part of which a test may change before it is written.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// The layers as they are stored.
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) config: Value,
    /// Put into the manifest after it was made.
    pub(crate) patch: Vec<(&'static str, Value)>,
}

impl Image {
    /// An image of layers with one file each, which has `text` in it.
    pub(crate) fn new(text: &str, layers: usize) -> Self {
        let tars = (0..layers).map(|n| tar(&[(&format!("file{n}"), text.as_bytes())]));
        Self::of_tars(&tars.collect::<Vec<_>>())
    }

    pub(crate) fn of_tars(tars: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<Digest> = tars.iter().map(|tar| digest_of(tar)).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2024-01-31T12:00:00Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/file0"], "Labels": {"a": "b"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self { layers: tars.iter().map(|tar| gzip(tar)).collect(), config, patch: Vec::new() }
    }

    pub(crate) fn config_bytes(&self) -> Vec<u8> {
        self.config.to_string().into_bytes()
    }

    pub(crate) fn id(&self) -> Digest {
        digest_of(&self.config_bytes())
    }

    pub(crate) fn manifest(&self) -> Vec<u8> {
        let config = descriptor(CONFIG, &self.config_bytes());
        let layers: Vec<Value> = self.layers.iter().map(|layer| descriptor(LAYER, layer)).collect();
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        for (pointer, value) in &self.patch {
            *manifest.pointer_mut(pointer).unwrap() = value.clone();
        }
        manifest.to_string().into_bytes()
    }

    /// All blobs, the manifest last.
    pub(crate) fn blobs(&self) -> Vec<Vec<u8>> {
        let mut blobs = self.layers.clone();
        blobs.push(self.config_bytes());
        blobs.push(self.manifest());
        blobs
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest_of(bytes), "size": bytes.len()})
}

pub(crate) fn write_blob(layout: &Path, bytes: &[u8]) {
    let directory = layout.join("blobs/sha256");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(digest_of(bytes).hex()), bytes).unwrap();
}

/// Writes an OCI layout.
pub(crate) fn layout(path: &Path, images: &[(&str, &Image)]) {
    let mut entries = Vec::new();
    for (tag, image) in images {
        image.blobs().iter().for_each(|blob| write_blob(path, blob));
        let mut entry = descriptor(MANIFEST, &image.manifest());
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        entries.push(entry);
    }
    write_index(path, &json!({"schemaVersion": 2, "manifests": entries}));
}

pub(crate) fn write_index(path: &Path, index: &Value) {
    std::fs::create_dir_all(path).unwrap();
    std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    std::fs::write(path.join("index.json"), index.to_string()).unwrap();
}

/// Packs a layout into a tar file.
pub(crate) fn archive(layout: &Path, file: &Path) {
    let mut builder = tar::Builder::new(std::fs::File::create(file).unwrap());
    builder.append_dir_all(".", layout).unwrap();
    builder.finish().unwrap();
}

/// What `docker save` writes: configuration, layers as they are given, `manifest.json`.
pub(crate) fn docker_archive(file: &Path, images: &[(&[&str], &Image)], layers: &[Vec<u8>]) {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut list = Vec::new();
    for (tags, image) in images {
        let config = format!("{}.json", image.id().hex());
        let names: Vec<String> =
            layers.iter().map(|layer| format!("{}/layer.tar", digest_of(layer).hex())).collect();
        list.push(json!({"Config": config, "RepoTags": tags, "Layers": names}));
        files.push((config, image.config_bytes()));
        files.extend(names.into_iter().zip(layers.iter().cloned()));
    }
    files.push(("manifest.json".to_owned(), Value::from(list).to_string().into_bytes()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    std::fs::write(file, tar(&files)).unwrap();
}

/// A store of its own, and a directory for images.
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn paths(&self) -> StorePaths {
        StorePaths::new(self.path("data"))
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(self.paths()).unwrap()
    }

    /// `vmm-image pull` with these arguments, not started yet.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmm-image"));
        command.arg("pull").args(args).current_dir(self.directory.path());
        command.env("VMM_DATA", self.path("data")).env("DOCKER_CONFIG", self.path("docker"));
        for proxy in
            ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy", "all_proxy"]
        {
            command.env_remove(proxy);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Pulls, and returns what was pulled.
    pub(crate) fn pull(&self, args: &[&str]) -> Value {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", told(&output));
        answer(&output)["pulled"].clone()
    }

    /// Fails to pull, and returns the error. Nothing of it is in the store.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", told(&output));
        let error = answer(&output)["error"]["what"].as_str().unwrap().to_owned();
        assert!(!error.chars().any(char::is_control), "{error:?}");
        assert!(self.store().list().unwrap().is_empty(), "{args:?}");
        assert_eq!(self.unfinished(), 0, "{args:?}: {error}");
        error
    }

    /// Files that are not finished.
    pub(crate) fn unfinished(&self) -> usize {
        std::fs::read_dir(self.paths().temporary()).map_or(0, Iterator::count)
    }
}

pub(crate) fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{} {} {}", output.status, text(&output.stdout), text(&output.stderr))
}

fn answer(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told(output)))
}
