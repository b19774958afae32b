//! A small image, and `vmm` with the programs that it needs beside it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use vmm_image::platform::Platform;

/// The program `vmm`, with those that it starts beside it. Who runs tests of several packages at once has built them.
pub fn vmm() -> PathBuf {
    static BUILT: Once = Once::new();
    let path = env!("CARGO_BIN_EXE_vmm").into();
    if std::env::var_os("VMM_PROGRAMS_BUILT").is_some() {
        return path;
    }
    BUILT.call_once(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "vmm-image", "--package", "vmm-agent"]);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().expect("cargo").success());
    });
    path
}

fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(&hex), bytes).unwrap();
    json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()})
}

/// A directory with a layout `images`, in which the image `tag`, which is for this machine, has one file.
pub fn place(tag: &str) -> TempDir {
    place_for(tag, &Platform::host().architecture)
}

/// The same for machines of another architecture, in the words of images.
pub fn place_for(tag: &str, architecture: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("images");
    let layer =
        blob(&layout, "application/vnd.oci.image.layer.v1.tar", &tar("hello", tag.as_bytes()));
    let config = json!({
        "os": "linux", "architecture": architecture, "created": "2024-01-31T12:00:00Z",
        "config": {"Cmd": ["/hello"], "Labels": {"\u{1b}[2J": "x"}},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config =
        blob(&layout, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]});
    let mut entry = blob(&layout, kind, manifest.to_string().as_bytes());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    dir
}

/// A tar archive of one file.
fn tar(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000755\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend(bytes);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}
