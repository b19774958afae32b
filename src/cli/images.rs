//! `vmm pull`, `vmm images`, `vmm rmi`: images and the store.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;
use vmm_image::client::{self, Pull};
use vmm_image::config::ImageConfig;
use vmm_image::digest::{Digest, DigestError};
use vmm_image::reference::Name;
use vmm_image::store::{ImageRecord, Roots, Store, StoreError, StorePaths};

use super::output::print;
use super::table::{ago, bytes, json, table};
use super::{Exit, report};
use crate::container::{Container, ContainerError, Containers, Paths};

/// Form of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// A name in a registry, such as alpine or host:5000/app:1, or an image on this host:
    /// oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:TAG]
    image: String,

    /// Name of the image, in place of its path or besides that of its registry; repeatable
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,

    /// What the image is for, such as linux/arm64 [default: this machine]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,

    /// Speak to the registry without encryption
    #[arg(long)]
    plain_http: bool,

    /// Print no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct ImagesArgs {
    /// Only images of this name, with or without a tag
    name: Option<String>,

    /// Print only IDs
    #[arg(short, long)]
    quiet: bool,

    /// Form of the list
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct RmiArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// Also an image with several names, and the names of one that a container uses
    #[arg(short, long)]
    force: bool,
}

/// The store of this user.
pub(super) fn store() -> anyhow::Result<Store> {
    Ok(Store::open(StorePaths::from_environment()?)?)
}

/// The images that containers use.
pub(super) fn roots() -> Result<Roots, StoreError> {
    let paths = Paths::of_user().map_err(|error| unread(&error))?;
    let directory = paths.containers();
    let containers = Containers::open(paths).and_then(|containers| containers.list());
    let containers = containers.map_err(|error| unread(&error))?;
    let root = |(container, _): (Container, _)| {
        let spec = container.spec();
        let damaged = |error: DigestError| StoreError::Damaged {
            path: directory.join(spec.id.as_str()),
            why: error.to_string(),
        };
        let image = spec.sources.image_id.parse::<Digest>().map_err(damaged)?;
        Ok((image, spec.name.as_str().to_owned()))
    };
    containers.into_iter().map(root).collect()
}

fn unread(error: &ContainerError) -> StoreError {
    StoreError::Roots(error.to_string())
}

pub(super) fn pull(args: PullArgs) -> anyhow::Result<Exit> {
    let PullArgs { image, names, platform, plain_http, quiet } = args;
    let store = store()?;
    let what = Pull { reference: image, names, platform, plain_http, quiet };
    let pulled =
        client::pull(store.paths(), &what).with_context(|| format!("pull {}", what.reference))?;
    print(&format!("{}\n", pulled.id))?;
    Ok(Exit::Success)
}

pub(super) fn list(args: &ImagesArgs) -> anyhow::Result<Exit> {
    let mut images = store()?.list()?;
    if let Some(name) = &args.name {
        let wanted: Name = name.parse()?;
        images.retain(|image| image.names.iter().any(|own| is_meant(own, &wanted, name)));
    }
    // The newest first, as they are most looked for.
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    let text = match (args.quiet, args.format) {
        (true, _) => images.iter().map(|image| format!("{}\n", image.id.short())).collect(),
        (_, Format::Json) => {
            let images: Vec<Shown> = images.into_iter().map(Shown::new).collect();
            json(&images)?
        }
        (_, Format::Table) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            let rows: Vec<_> = images.iter().flat_map(|image| rows(image, now)).collect();
            table(["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], &rows)
        }
    };
    print(&text)?;
    Ok(Exit::Success)
}

/// Whether the name `own` is the one that was asked for as `text`: in full, or without a tag.
fn is_meant(own: &str, wanted: &Name, text: &str) -> bool {
    let tagged = text.rsplit('/').next().is_some_and(|last| last.contains(':'));
    own.parse::<Name>().is_ok_and(|own| {
        own == *wanted || (!tagged && own.familiar_repository() == wanted.familiar_repository())
    })
}

/// A row for each name, and one for an image that has none.
fn rows(image: &ImageRecord, now: u64) -> Vec<[String; 5]> {
    let created = image.created.map_or_else(String::new, |time| ago(now.saturating_sub(time)));
    let row = |repository: String, tag: String| {
        [repository, tag, image.id.short(), created.clone(), bytes(image.size)]
    };
    if image.names.is_empty() {
        return vec![row("<none>".to_owned(), "<none>".to_owned())];
    }
    let names = image.names.iter().map(|name| match name.parse::<Name>() {
        Ok(name) => row(name.familiar_repository(), name.tag().unwrap_or_default().to_owned()),
        Err(_) => row(name.clone(), "<none>".to_owned()),
    });
    names.collect()
}

/// An image for programs. Keys are added over time; they are neither renamed nor removed.
#[derive(Debug, Serialize)]
struct Shown {
    id: Digest,
    names: Vec<String>,
    digests: Vec<String>,
    size: u64,
    created: Option<u64>,
    config: ImageConfig,
}

impl Shown {
    fn new(image: ImageRecord) -> Self {
        let ImageRecord { id, names, digests, size, created, config, .. } = image;
        Self { id, names, digests, size, created, config }
    }
}

pub(super) fn remove(args: &RmiArgs) -> anyhow::Result<Exit> {
    let store = store()?;
    let mut exit = Exit::Success;
    for image in &args.images {
        match store.remove(image, args.force, roots) {
            Ok(removed) => {
                let untagged = removed.untagged.iter().map(|name| {
                    let name = name.parse::<Name>().map_or(name.clone(), |name| name.familiar());
                    format!("untagged: {}\n", report::one_line(&name))
                });
                let deleted = removed.deleted.iter().map(|id| format!("deleted: {id}\n"));
                print(&untagged.chain(deleted).collect::<String>())?;
            }
            Err(error) => {
                report::error(&error.into());
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}
