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

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use crate::arch::Arch;
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
    /// The architecture of the programs in them
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
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

/// The images of the tests. Those that programs of theirs are run for while they are made are for x86_64 only.
const SUITE: &[Name] =
    &[Name::Busybox, Name::Debian, Name::Layers, Name::Python, Name::Nginx, Name::Built];

/// Of `names`, those that can be made for `arch`.
pub(crate) fn of_arch(names: &[Name], arch: Arch) -> Vec<Name> {
    let portable = |name: &Name| matches!(name, Name::Busybox | Name::Debian | Name::Layers);
    names.iter().copied().filter(|name| arch == Arch::X86_64 || portable(name)).collect()
}

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
    pub(crate) fn ensure(self, cache: &Cache, arch: Arch) -> Result<Vec<Form>> {
        packages::ensure(PACKAGES)?;
        packages::ensure(packages::for_unprivileged_builds())?;
        ensure!(
            !of_arch(&[self], arch).is_empty(),
            "there is no image {} for {arch}",
            self.as_str()
        );
        let entry = self.entry(cache, arch)?;
        let others: &[&str] = match self {
            Self::Built => &[built::ZSTD, built::OCI_ARCHIVE, built::DOCKER_ARCHIVE],
            _ => &[],
        };
        let layout = Form { name: self.as_str().to_owned(), path: entry.join(LAYOUT) };
        let other = |name: &&str| Form { name: (*name).to_owned(), path: entry.join(name) };
        Ok(std::iter::once(layout).chain(others.iter().map(other)).collect())
    }

    /// The cache entry of the image.
    fn entry(self, cache: &Cache, arch: Arch) -> Result<PathBuf> {
        match self {
            Self::Busybox => self.made(cache, arch, &busybox::key(), |entry, layout| {
                busybox::build(arch, entry, layout)
            }),
            Self::Debian => self.made(cache, arch, &distribution::key(arch), |entry, layout| {
                distribution::build(arch, entry, layout)
            }),
            Self::Python => self.installed(cache, arch, &PYTHON),
            Self::Nginx => self.installed(cache, arch, &NGINX),
            Self::Layers => {
                let base = Self::Busybox.entry(cache, arch)?;
                let key = on_top_of(&base, Key::new()).with("recipe", layers::RECIPE);
                self.made(cache, arch, &key, |_, layout| layers::build(&base.join(LAYOUT), layout))
            }
            Self::Built => {
                let base = Self::Busybox.entry(cache, arch)?;
                let key = on_top_of(&base, built::key());
                self.made(cache, arch, &key, |entry, layout| {
                    built::build(entry, &base.join(LAYOUT), layout)
                })
            }
            Self::Big => {
                let key = Key::new().with("recipe", big::RECIPE);
                self.made(cache, arch, &key, |_, layout| big::build(layout))
            }
        }
    }

    fn installed(self, cache: &Cache, arch: Arch, installation: &Installation) -> Result<PathBuf> {
        let base = Self::Debian.entry(cache, arch)?;
        self.made(cache, arch, &on_top_of(&base, installation.key()), |_, layout| {
            installation.build(&base.join(distribution::ARCHIVE), &base.join(LAYOUT), layout)
        })
    }

    fn made(
        self,
        cache: &Cache,
        arch: Arch,
        key: &Key,
        build: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let kind = arch.kind(&format!("image-{}", self.as_str()));
        cache.entry(&kind, key, |entry| {
            eprintln!("images: building {} for {arch} (once)", self.as_str());
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

/// Every form of the images the tests need, as far as there are such for `arch`.
///
/// # Errors
/// One of them cannot be built.
pub(crate) fn suite(cache: &Cache, arch: Arch) -> Result<Vec<Form>> {
    let mut forms = vec![];
    for name in of_arch(SUITE, arch) {
        forms.extend(name.ensure(cache, arch)?);
    }
    Ok(forms)
}

/// Builds the images asked for and prints where they are.
///
/// # Errors
/// One of them cannot be built.
pub(crate) fn run(arguments: &ImagesArgs) -> Result<()> {
    let cache = Cache::of_user()?;
    let suite = of_arch(SUITE, arguments.arch);
    let names = if arguments.names.is_empty() { &suite } else { &arguments.names };
    for name in names {
        for form in name.ensure(&cache, arguments.arch)? {
            println!("{}", form.path.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
