//! OCI image layouts, made with umoci.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::tar::Tar;
use crate::arch::Arch;
use crate::command;

/// The tag of the one image of a layout.
pub(crate) const TAG: &str = "latest";

/// A layout that holds one image.
pub(crate) struct Layout {
    path: PathBuf,
}

impl Layout {
    /// A new layout at `path` with an image for `arch` of no layers.
    ///
    /// # Errors
    /// umoci fails.
    pub(crate) fn create(path: &Path, arch: Arch) -> Result<Self> {
        command::run(Command::new("umoci").args(["init", "--layout"]).arg(path))?;
        let layout = Self { path: path.to_owned() };
        layout.umoci(&["new"], &[])?;
        if !arch.is_native() {
            layout.umoci(&["config"], &[&format!("--architecture={}", arch.debian())])?;
        }
        Ok(layout)
    }

    /// A new layout at `path` with the image of the layout `base`.
    ///
    /// # Errors
    /// `base` cannot be copied.
    pub(crate) fn from_base(base: &Path, path: &Path) -> Result<Self> {
        // Blobs never change, and umoci replaces the index: both layouts may hold the same files.
        let mut copy = Command::new("cp");
        command::run(copy.args(["--recursive", "--link"]).arg(base).arg(path))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Adds a layer of what `fill` writes.
    ///
    /// # Errors
    /// `fill` or umoci fails.
    pub(crate) fn layer(
        &self,
        fill: impl FnOnce(&mut Tar<BufWriter<File>>) -> io::Result<()>,
    ) -> Result<()> {
        let archive = self.path.with_extension("layer.tar");
        let file =
            File::create(&archive).with_context(|| format!("create {}", archive.display()))?;
        let mut tar = Tar::new(BufWriter::new(file));
        fill(&mut tar)?;
        tar.finish()?;
        self.add_layer(&archive)
    }

    /// Adds the tar archive at `archive` as a layer and removes the file.
    ///
    /// # Errors
    /// umoci fails.
    pub(crate) fn add_layer(&self, archive: &Path) -> Result<()> {
        self.umoci(&["raw", "add-layer"], &[&archive.to_string_lossy()])?;
        Ok(fs::remove_file(archive)?)
    }

    /// Changes the image's configuration: options of umoci-config(1) without the `--config.`.
    ///
    /// # Errors
    /// umoci fails.
    pub(crate) fn configure(&self, options: &[(&str, &str)]) -> Result<()> {
        let options: Vec<_> =
            options.iter().map(|(key, value)| format!("--config.{key}={value}")).collect();
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        self.umoci(&["config"], &options)
    }

    /// Removes the manifests and configurations that led here, and lets everyone read the rest.
    ///
    /// # Errors
    /// umoci fails.
    pub(crate) fn finish(self) -> Result<()> {
        command::run(Command::new("umoci").args(["gc", "--layout"]).arg(&self.path))?;
        // The emulated host has users other than root, and umoci writes blobs for their owner alone.
        command::run(Command::new("chmod").args(["--recursive", "a+rX"]).arg(&self.path))
    }

    fn umoci(&self, subcommand: &[&str], arguments: &[&str]) -> Result<()> {
        let image = format!("{}:{TAG}", self.path.display());
        let mut umoci = Command::new("umoci");
        command::run(umoci.args(subcommand).args(["--image", &image]).args(arguments))
    }
}
