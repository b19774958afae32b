//! The small files of the store: names and records.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::record::{Names, Record};
use super::{StoreError, StorePaths};
use crate::digest::Digest;

/// Bytes of such a file, at most: more than any that is written.
const MAX_FILE: u64 = 64 << 20;

/// Refuses a directory that another user could have filled.
pub(super) fn check_owner(path: &Path) -> Result<(), StoreError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(StoreError::io("look at", path))?,
    };
    let why = if !metadata.is_dir() {
        "not a directory"
    } else if metadata.uid() != rustix::process::geteuid().as_raw() {
        "belongs to another user"
    } else if metadata.mode() & 0o022 != 0 {
        "others can write to it"
    } else {
        return Ok(());
    };
    Err(StoreError::Foreign { path: path.to_owned(), why })
}

pub(super) fn make_directories(paths: &StorePaths) -> Result<(), StoreError> {
    for path in [paths.blobs(), paths.rootfs(), paths.records(), paths.temporary()] {
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(StoreError::io("create", path))?;
    }
    Ok(())
}

/// The names; none if there is no such file yet.
pub(super) fn names(paths: &StorePaths) -> Result<Names, StoreError> {
    let path = paths.images().join("names.json");
    let names: Names = read(&path)?.unwrap_or_default();
    match names.version {
        0 | Names::VERSION => Ok(names),
        version => Err(newer(&path, version)),
    }
}

pub(super) fn write_names(paths: &StorePaths, names: &Names) -> Result<(), StoreError> {
    write(paths, &paths.images().join("names.json"), names)
}

/// The record of an image, if there is one.
pub(super) fn record(paths: &StorePaths, id: Digest) -> Result<Option<Record>, StoreError> {
    let path = paths.records().join(file_name(id));
    let Some(record): Option<Record> = read(&path)? else { return Ok(None) };
    if record.version != Record::VERSION {
        return Err(newer(&path, record.version));
    }
    if record.id != id {
        return Err(StoreError::Damaged { path, why: format!("it is about {}", record.id) });
    }
    Ok(Some(record))
}

pub(super) fn write_record(paths: &StorePaths, record: &Record) -> Result<(), StoreError> {
    write(paths, &paths.records().join(file_name(record.id)), record)
}

pub(super) fn file_name(id: Digest) -> String {
    format!("{}.json", id.hex())
}

/// The IDs of all images, sorted.
pub(super) fn ids(paths: &StorePaths) -> Result<Vec<Digest>, StoreError> {
    let mut ids: Vec<Digest> = file_names(&paths.records())?
        .iter()
        .filter_map(|name| Digest::from_hex(name.strip_suffix(".json")?))
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The image whose ID begins with `hex`, if there is one and no other.
pub(super) fn id_by_prefix(paths: &StorePaths, hex: &str) -> Result<Option<Digest>, StoreError> {
    if !super::is_hex(hex) {
        return Ok(None);
    }
    let hex = hex.to_ascii_lowercase();
    let mut fitting = ids(paths)?.into_iter().filter(|id| id.hex().starts_with(&hex));
    match (fitting.next(), fitting.next()) {
        (_, Some(_)) => Err(StoreError::Ambiguous(hex)),
        (first, None) => Ok(first),
    }
}

/// The names of the files in a directory; none if it does not exist.
pub(super) fn file_names(path: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(StoreError::io("list", path))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::io("list", path))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(StoreError::io("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| StoreError::Damaged { path: path.to_owned(), why: error.to_string() })?;
    Ok(Some(value))
}

/// Replaces `path` as a whole, durably. The lock of the store is held.
fn write(paths: &StorePaths, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let bytes =
        serde_json::to_vec(value).map_err(|error| StoreError::io("write", path)(error.into()))?;
    let temporary = paths.temporary().join("index");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&temporary).map_err(StoreError::io("create", &temporary))?;
    file.write_all(&bytes).map_err(StoreError::io("write", &temporary))?;
    file.sync_all().map_err(StoreError::io("write", &temporary))?;
    fs::rename(&temporary, path).map_err(StoreError::io("rename", &temporary))?;
    sync_directory(path)
}

/// Makes the rename to `path` durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let directory = path.parent().unwrap_or(path);
    let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(StoreError::io("write", directory))
}

fn newer(path: &Path, version: u32) -> StoreError {
    let why = format!("it has form {version}, which another version of vmm wrote");
    StoreError::Damaged { path: path.to_owned(), why }
}
