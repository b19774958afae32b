//! Container images for the tests, made from Debian packages with Debian's tools.
//!
//! Each is an OCI layout in a cache entry of its own. Layers are archives that name owners and
//! attributes, so nothing here needs root.

mod big;
mod built;
mod busybox;
mod distribution;
mod layers;
mod layout;
pub(crate) mod store;
mod tar;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::cache::{Cache, Key};
use crate::packages;
use distribution::{Installation, NGINX, PYTHON};

/// Packages building the images needs.
pub(crate) const PACKAGES: &[&str] =
    &["apt", "buildah", "coreutils", "dpkg", "mmdebstrap", "tar", "umoci"];

/// Images to build.
#[derive(Args)]
pub(crate) struct ImagesArgs {
    /// Only these; the tests need all but `big`
    #[arg(value_enum)]
    names: Vec<Name>,
}

/// An image by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// A static BusyBox
    Busybox,
    /// Debian's smallest installation
    Debian,
    /// Python on Debian, with tests of its own
    Python,
    /// nginx on Debian
    Nginx,
    /// Many layers: whiteouts, links, attributes, devices, odd names and owners
    Layers,
    /// From a Dockerfile, by buildah; also as archives and with zstd
    Built,
    /// 500 MB in five layers, for measurements
    Big,
}

/// The images of the tests.
pub(crate) const SUITE: &[Name] =
    &[Name::Busybox, Name::Debian, Name::Python, Name::Nginx, Name::Layers, Name::Built];

/// A form of an image: an OCI layout, or an archive.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// Its name among all forms.
    pub(crate) name: String,
    /// A directory for a layout, a file for an archive.
    pub(crate) path: PathBuf,
}

impl Name {
    /// What people call the image.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Busybox => "busybox",
            Self::Debian => "debian",
            Self::Python => "python",
            Self::Nginx => "nginx",
            Self::Layers => "layers",
            Self::Built => "built",
            Self::Big => "big",
        }
    }

    /// All forms of the image, its layout first; built when the cache has none of this recipe.
    ///
    /// # Errors
    /// A package or a tool is missing, or the cache cannot be written.
    pub(crate) fn ensure(self, cache: &Cache) -> Result<Vec<Form>> {
        packages::ensure(PACKAGES)?;
        packages::ensure(packages::for_unprivileged_builds())?;
        self.forms(cache)
    }

    fn forms(self, cache: &Cache) -> Result<Vec<Form>> {
        let entry = self.entry(cache)?;
        let others: &[&str] = match self {
            Self::Built => &[built::ZSTD, built::OCI_ARCHIVE, built::DOCKER_ARCHIVE],
            _ => &[],
        };
        let layout = Form { name: self.as_str().to_owned(), path: entry.join(LAYOUT) };
        let other = |name: &&str| Form { name: (*name).to_owned(), path: entry.join(name) };
        Ok(std::iter::once(layout).chain(others.iter().map(other)).collect())
    }

    /// The cache entry of the image.
    fn entry(self, cache: &Cache) -> Result<PathBuf> {
        match self {
            Self::Busybox => self.made(cache, &busybox::key(), busybox::build),
            Self::Debian => self.made(cache, &distribution::key(), distribution::build),
            Self::Python => self.installed(cache, &PYTHON),
            Self::Nginx => self.installed(cache, &NGINX),
            Self::Layers => {
                let base = Self::Busybox.entry(cache)?;
                let key = on_top_of(&base, Key::new()).with("recipe", layers::RECIPE);
                self.made(cache, &key, |_, layout| layers::build(&base.join(LAYOUT), layout))
            }
            Self::Built => {
                let base = Self::Busybox.entry(cache)?;
                let key = on_top_of(&base, built::key());
                self.made(cache, &key, |entry, layout| {
                    built::build(entry, &base.join(LAYOUT), layout)
                })
            }
            Self::Big => {
                let key = Key::new().with("recipe", big::RECIPE);
                self.made(cache, &key, |_, layout| big::build(layout))
            }
        }
    }

    fn installed(self, cache: &Cache, installation: &Installation) -> Result<PathBuf> {
        let base = Self::Debian.entry(cache)?;
        self.made(cache, &on_top_of(&base, installation.key()), |_, layout| {
            installation.build(&base.join(distribution::ARCHIVE), &base.join(LAYOUT), layout)
        })
    }

    fn made(
        self,
        cache: &Cache,
        key: &Key,
        build: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<PathBuf> {
        cache.entry(&format!("image-{}", self.as_str()), key, |entry| {
            eprintln!("images: building {} (once)", self.as_str());
            build(entry, &entry.join(LAYOUT))
        })
    }
}

/// The layout in the cache entry of its image.
const LAYOUT: &str = "layout";

/// `key` for an image on top of the one in the cache entry `base`.
fn on_top_of(base: &Path, key: Key) -> Key {
    key.with("base", base.file_name().unwrap_or_default().as_encoded_bytes())
}

/// Every form of the images the tests need.
///
/// # Errors
/// One of them cannot be built.
pub(crate) fn suite(cache: &Cache) -> Result<Vec<Form>> {
    let mut forms = vec![];
    for name in SUITE {
        forms.extend(name.ensure(cache)?);
    }
    Ok(forms)
}

/// Builds the images asked for and prints where they are.
///
/// # Errors
/// One of them cannot be built.
pub(crate) fn run(arguments: &ImagesArgs) -> Result<()> {
    let cache = Cache::of_user()?;
    let names = if arguments.names.is_empty() { SUITE } else { &arguments.names };
    for name in names {
        for form in name.ensure(&cache)? {
            println!("{}", form.path.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
