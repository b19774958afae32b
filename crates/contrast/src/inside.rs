//! An image with the probe in it: the same static program, in the same surroundings, in every arm.
//!
//! The image is made of the user's own: its files and configuration, and a directory more. Whatever can run an image
//! can run the probe then, a container as well as a machine, and nothing is put into anything that runs.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};
use vmm_image::client::{self, ClientError, Pull};
use vmm_image::digest::Digest;
use vmm_image::store::{ImageRecord, Store, StoreError, check_rootfs};

use crate::rootfs::{self, RootfsError};

/// The program that is put in, found beside this one.
pub const PROBE: &str = "vmm-probe";
/// The directory that holds it and that anybody may write to: where it begins.
pub const DIRECTORY: &str = "/.probe";
/// The program inside.
pub const PROGRAM: &str = "/.probe/vmm-probe";

/// Why there is no such image.
#[derive(Debug, thiserror::Error)]
pub enum InsideError {
    /// A program that belongs to this one is not there, or fails.
    #[error(transparent)]
    Program(#[from] ClientError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image cannot be unpacked.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// A file cannot be read or made.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was taken in is gone.
    #[error("the image with the probe was removed while it was made; try again")]
    Gone,
}

/// `image` with the probe in it, and what was done for that. It stays in the store, under a name that says what it
/// was made of, so that it is made once.
///
/// # Errors
/// The image cannot be unpacked, or taken in again.
pub fn image(store: &Store, image: &ImageRecord) -> Result<(ImageRecord, String), InsideError> {
    let path = client::find_program(PROBE)?;
    let probe = fs::read(&path).map_err(file(&path))?;
    let name = name(image, digest(&probe));
    let usable = |found: &ImageRecord| check_rootfs(found).is_ok();
    if let Some(found) = store.find_by_text(&name)?.filter(usable) {
        return Ok((found, format!("the image with the probe in it was there, as {name}")));
    }
    let (root, _) = rootfs::ensure(image, store.paths().data())?;
    let layout = Layout::new(store.paths().data())?;
    layout.fill(image, &root, &probe).map_err(file(&layout.0))?;
    let reference = format!("oci:{}", layout.0.display());
    let what = Pull { reference, names: vec![name.clone()], quiet: true, ..Pull::default() };
    let pulled = client::pull(store.paths(), &what)?;
    let found = store.find_by_text(&pulled.id.to_string())?.ok_or(InsideError::Gone)?;
    Ok((found, format!("the image with the probe in it was made; it stays, as {name}")))
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> InsideError {
    let path = path.to_owned();
    |source| InsideError::File { path, source }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// What the image is called: by what is in it.
fn name(image: &ImageRecord, probe: Digest) -> String {
    format!("localhost/{PROBE}:{}-{}", image.id.short(), probe.short())
}

/// An OCI image layout on its way into the store, removed afterwards.
struct Layout(PathBuf);

impl Layout {
    fn new(data: &Path) -> Result<Self, InsideError> {
        let path = data.join(format!("cache/with-probe-{}", std::process::id()));
        let layout = Self(path.clone());
        fs::create_dir_all(path.join("blobs/sha256")).map_err(file(&path))?;
        Ok(layout)
    }

    fn fill(&self, image: &ImageRecord, root: &Path, probe: &[u8]) -> io::Result<()> {
        let (layer, size) = self.layer(root, probe)?;
        let layers = json!([{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer.to_string(),
            "size": size,
        }]);
        let config = self.document("config", &config(image, layer))?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
        let manifest = self.document("manifest", &manifest)?;
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(self.0.join("index.json"), index.to_string())?;
        fs::write(self.0.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
    }

    /// Adds a document; its descriptor.
    fn document(&self, what: &str, value: &Value) -> io::Result<Value> {
        let text = value.to_string();
        let digest = digest(text.as_bytes());
        fs::write(self.blob(digest), &text)?;
        let kind = format!("application/vnd.oci.image.{what}.v1+json");
        Ok(json!({ "mediaType": kind, "digest": digest.to_string(), "size": text.len() }))
    }

    fn blob(&self, digest: Digest) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.hex())
    }

    /// Adds the only layer: everything that is in `root`, and the probe; its digest and size.
    fn layer(&self, root: &Path, probe: &[u8]) -> io::Result<(Digest, u64)> {
        let path = self.0.join("layer");
        let out = Hashed { file: File::create(&path)?, hash: Sha256::new(), size: 0 };
        let mut tar = Builder::new(io::BufWriter::with_capacity(1 << 20, out));
        pack(&mut tar, root)?;
        let header = |kind, mode, size: usize| {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(size as u64);
            header
        };
        let mut directory = header(EntryType::Directory, 0o1777, 0);
        tar.append_data(&mut directory, DIRECTORY.trim_start_matches('/'), io::empty())?;
        let mut program = header(EntryType::Regular, 0o755, probe.len());
        tar.append_data(&mut program, PROGRAM.trim_start_matches('/'), probe)?;
        let Hashed { hash, size, .. } =
            tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        let digest = Digest::from_bytes(hash.finalize().into());
        fs::rename(&path, self.blob(digest))?;
        Ok((digest, size))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // Nothing is left to do about one that stays.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The configuration of `image`, but for where a process begins, with one layer.
fn config(image: &ImageRecord, layer: Digest) -> Value {
    let own = &image.config;
    json!({
        "architecture": own.architecture,
        "os": own.os,
        "variant": own.variant,
        "config": {
            "Env": own.env,
            "User": own.user,
            "WorkingDir": DIRECTORY,
            "Cmd": [PROGRAM],
            "Labels": own.labels,
        },
        "rootfs": { "type": "layers", "diff_ids": [layer.to_string()] },
    })
}

/// Packs all of a directory, without following any link.
fn pack(tar: &mut Builder<impl Write>, root: &Path) -> io::Result<()> {
    let mut pending = vec![PathBuf::new()];
    let mut linked = HashMap::new();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(root.join(&directory))? {
            let name = directory.join(entry?.file_name());
            if pack_one(tar, root, &name, &mut linked)? {
                pending.push(name);
            }
        }
    }
    Ok(())
}

/// Packs one file, `linked` being those that have other names; whether it is a directory.
fn pack_one(
    tar: &mut Builder<impl Write>,
    root: &Path,
    name: &Path,
    linked: &mut HashMap<(u64, u64), PathBuf>,
) -> io::Result<bool> {
    let path = root.join(name);
    let found = fs::symlink_metadata(&path)?;
    let mut header = Header::new_gnu();
    header.set_metadata(&found);
    if !geteuid().is_root() {
        // Who is not root has unpacked everything as their own.
        header.set_uid(0);
        header.set_gid(0);
    }
    let kind = found.file_type();
    let place = (found.dev(), found.ino());
    if let Some(first) = linked.get(&place) {
        header.set_entry_type(EntryType::Link);
        header.set_size(0);
        tar.append_link(&mut header, name, first)?;
    } else if kind.is_symlink() {
        tar.append_link(&mut header, name, fs::read_link(&path)?)?;
    } else if kind.is_file() {
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(&path)?;
        tar.append_data(&mut header, name, io::Read::take(file, found.len()))?;
        if found.nlink() > 1 {
            linked.insert(place, name.to_owned());
        }
    } else if kind.is_dir() || kind.is_fifo() {
        tar.append_data(&mut header, name, io::empty())?;
    }
    Ok(kind.is_dir())
}

/// A file whose digest is known when it is written.
struct Hashed {
    file: File,
    hash: Sha256,
    size: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn layer_has_everything_as_it_is_and_the_probe() {
        let root = tempfile::tempdir().unwrap();
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("bin")).unwrap();
        fs::write(root.path().join("bin/tool"), "tool").unwrap();
        let mode = fs::Permissions::from_mode(0o4755);
        fs::set_permissions(root.path().join("bin/tool"), mode).unwrap();
        symlink("/etc/shadow", root.path().join("link")).unwrap();
        fs::hard_link(root.path().join("bin/tool"), root.path().join("bin/same")).unwrap();
        let layout = Layout::new(data.path()).unwrap();
        let (digest, size) = layout.layer(root.path(), b"probe").unwrap();
        let bytes = fs::read(layout.blob(digest)).unwrap();
        assert_eq!((super::digest(&bytes), bytes.len() as u64), (digest, size));
        let mut found = vec![];
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let header = entry.header();
            let target = entry.link_name().unwrap().map(|link| link.display().to_string());
            let name = entry.path().unwrap().display().to_string();
            let mode = header.mode().unwrap() & 0o7777;
            found.push((name, mode, target.unwrap_or(text)));
        }
        found.sort();
        let names: Vec<_> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, [".probe", ".probe/vmm-probe", "bin", "bin/same", "bin/tool", "link"]);
        assert_eq!((found[0].1, found[1].1, found[4].1), (0o1777, 0o755, 0o4755));
        let mut texts: Vec<_> = found.iter().map(|(.., text)| text.as_str()).collect();
        // Which of its names comes first is the file system's business.
        texts.sort_unstable_by_key(|text| text.starts_with("bin/"));
        let other = texts.pop().unwrap();
        assert!(["bin/same", "bin/tool"].contains(&other), "{other}");
        assert_eq!(texts, ["", "probe", "", "tool", "/etc/shadow"]);
        let path = layout.0.clone();
        drop(layout);
        assert!(!path.exists());
    }
}
