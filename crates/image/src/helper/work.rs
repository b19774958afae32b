//! The parts of the work that read a stranger's bytes. Each runs in a process of its own, confined
//! before the first of them is looked at.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;

use super::confine::{self, Confinement};
use super::progress::{Item, Mode, Progress};
use super::stage;
use super::wire::{From, Reply, Task, Work};
use crate::digest::Digest;
use crate::fetch::{FetchError, fetch};
use crate::oci::{MAX_LAYER, MAX_LAYERS, Platform};
use crate::reference::{Local, Reference};
use crate::rootfs::{Layer, Limits, RootfsError, build};
use crate::source::registry::{Client, Options};
use crate::source::{self, Source, SourceError};
use crate::store::{Blobs, StorePaths};

const GIB: u64 = 1 << 30;
const HOUR: u64 = 3600;

/// What finding hosts and checking certificates reads.
const NETWORK_FILES: [&str; 6] =
    ["/etc", "/run/NetworkManager", "/run/resolvconf", "/run/systemd/resolve", "/lib", "/usr/lib"];

/// Does what this process was started for, and returns the answer.
pub(super) fn perform() -> Reply {
    match stage::task() {
        Err(error) => failed(&error, None),
        Ok((Task { what, bars, .. }, files)) => {
            let mode = match bars {
                Some(true) => Mode::Bars,
                Some(false) => Mode::Lines,
                None => Mode::Quiet,
            };
            let progress = Progress::new(mode);
            match what {
                Work::Convert { diff_ids } => convert(&diff_ids, files, &progress),
                Work::Fetch { data, from, platform } => {
                    bring(&StorePaths::new(data), from, &platform, &progress)
                }
            }
        }
    }
}

fn failed(error: &dyn std::error::Error, hint: Option<&str>) -> Reply {
    Reply::Failed { what: error.to_string(), hint: hint.map(str::to_owned) }
}

fn bring(paths: &StorePaths, from: From, platform: &Platform, progress: &Progress) -> Reply {
    let result = match from {
        From::Local(text) => match text.parse() {
            Ok(Reference::Local(local)) => bring_local(paths, &local, platform, progress),
            _ => return failed(&io::Error::from(io::ErrorKind::InvalidInput), None),
        },
        From::Registry { name, plain_http, credentials } => bring_registry(
            paths,
            &name,
            Options { plain_http, credentials, patience: None },
            platform,
            progress,
        ),
    };
    match result {
        Ok(reply) => reply,
        Err(error) => failed(&error, error.hint()),
    }
}

fn bring_registry(
    paths: &StorePaths,
    name: &str,
    options: Options,
    platform: &Platform,
    progress: &Progress,
) -> Result<Reply, FetchError> {
    let Ok(name) = name.parse() else {
        return Ok(failed(&io::Error::from(io::ErrorKind::InvalidInput), None));
    };
    // The certificates may be anywhere the environment says, so they are read before.
    let client = Client::new(name, options).map_err(SourceError::from)?;
    let confinement = Confinement {
        read: NETWORK_FILES.map(Into::into).into(),
        network: true,
        ..files_of(paths)
    };
    confined(&confinement, || Ok(Box::new(client.settled())), paths, platform, progress)
}

fn bring_local(
    paths: &StorePaths,
    local: &Local,
    platform: &Platform,
    progress: &Progress,
) -> Result<Reply, FetchError> {
    let confinement =
        Confinement { read: vec![local.path.clone()], others_files: true, ..files_of(paths) };
    confined(&confinement, || Ok(source::open(local)?), paths, platform, progress)
}

fn files_of(paths: &StorePaths) -> Confinement {
    Confinement {
        write: vec![paths.blobs(), paths.temporary()],
        files: true,
        memory: 2 * GIB,
        file_size: MAX_LAYER,
        seconds: 4 * HOUR,
        ..Confinement::default()
    }
}

fn confined(
    confinement: &Confinement,
    source: impl FnOnce() -> Result<Box<dyn Source>, FetchError>,
    paths: &StorePaths,
    platform: &Platform,
    progress: &Progress,
) -> Result<Reply, FetchError> {
    if let Err(error) = confine::enter(confinement) {
        return Ok(failed(&error, None));
    }
    tell("reading what the image consists of");
    let source = source()?;
    fetch(source.as_ref(), &Blobs::new(paths.clone()), platform, progress).map(Reply::Fetched)
}

fn convert(diff_ids: &[Digest], files: Vec<OwnedFd>, progress: &Progress) -> Reply {
    let limits = Limits { layers: MAX_LAYERS, ..Limits::default() };
    let confinement = Confinement {
        memory: 4 * GIB,
        file_size: limits.image_bytes + GIB,
        seconds: 2 * HOUR,
        ..Confinement::default()
    };
    if let Err(error) = confine::enter(&confinement) {
        return failed(&error, None);
    }
    let mut files = files.into_iter().map(File::from);
    let Some(output) = files.next() else {
        return failed(&io::Error::from(io::ErrorKind::InvalidInput), None);
    };
    let item = progress.task("file system".to_owned());
    let count = diff_ids.len();
    let layers = files.zip(diff_ids).enumerate().map(|(at, (file, diff_id))| {
        tell(&format!("unpacking layer {} of {count} ({diff_id})", at + 1));
        let compressed = Counted { reader: BufReader::with_capacity(128 << 10, file), item: &item };
        Ok(Layer { compressed, diff_id: diff_id.to_bytes() })
    });
    match build(layers, &limits, &output) {
        Ok(summary) => {
            item.done("done");
            Reply::Converted(summary.bytes)
        }
        Err(error) => failed(&error, rootfs_hint(&error)),
    }
}

fn rootfs_hint(error: &RootfsError) -> Option<&'static str> {
    match error {
        RootfsError::Write(source) => crate::store::io_hint(source),
        RootfsError::DiffId { .. } => {
            Some("the image contradicts itself, or a file of the store is damaged: pull it anew")
        }
        _ => None,
    }
}

/// Notes what is going on, in case it ends badly.
fn tell(what: &str) {
    // Whoever started this process is gone if it cannot be told, and this process with it.
    let _: io::Result<()> = stage::answer(&Reply::Doing(what.to_owned()));
}

/// A reader whose bytes are shown.
struct Counted<'a, R> {
    reader: R,
    item: &'a Item,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.item.add(u64::try_from(count).unwrap_or(0));
        Ok(count)
    }
}
