//! What a measurement takes from this host: the image, the programs, the state of KVM.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vmm_image::client::{self, Pull};
use vmm_image::store::{ImageRecord, Store, StorePaths, check_platform, check_rootfs};

use crate::fingerprint::Kvm;
use crate::workload::Workload;
use crate::{rootfs, user};

/// The usual search path of a container.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The image that `text` means; it is pulled if it is not here.
pub(super) fn image(store: &Store, text: &str, quiet: bool) -> Result<ImageRecord> {
    let found = store.find_by_text(text)?;
    let image = match found {
        Some(image) => image,
        None => {
            let what = Pull { reference: text.to_owned(), quiet, ..Pull::default() };
            let pulled = client::pull(store.paths(), &what);
            let pulled =
                pulled.with_context(|| format!("there is no image {text} here; pull it"))?;
            let found = store.find_by_text(&pulled.id.to_string())?;
            found.context("the image that was pulled is gone")?
        }
    };
    check_platform(&image, text)?;
    check_rootfs(&image)?;
    Ok(image)
}

/// What is run: `command` in place of the image's own, in its root file system, which is unpacked if it is
/// not yet; and what that took.
pub(super) fn workload(
    image: &ImageRecord,
    reference: &str,
    command: &[String],
    paths: &StorePaths,
) -> Result<(Workload, String)> {
    let (rootfs, unpacked) = rootfs::ensure(image, paths.data())?;
    let said = match unpacked {
        Some(done) => format!(
            "the image was unpacked ({} files, {} bytes; {} devices left out, no extended attributes)",
            done.files, done.bytes, done.left_out
        ),
        None => "the image had been unpacked by an earlier run".to_owned(),
    };
    let config = &image.config;
    let words = if command.is_empty() { &config.cmd } else { command };
    let args: Vec<String> = config.entrypoint.iter().chain(words).cloned().collect();
    ensure!(!args.is_empty(), "the image {reference} names no command; give one");
    let mut env = config.env.clone();
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.push(PATH.to_owned());
    }
    let cwd =
        if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir.clone() };
    let user = user::find(&config.user, &rootfs).map_err(anyhow::Error::msg)?;
    let (reference, id) = (reference.to_owned(), image.id.to_string());
    let disk = image.rootfs.clone();
    Ok((
        Workload {
            reference,
            id,
            rootfs,
            disk,
            args,
            env,
            cwd,
            user,
            kernel: None,
            memory: None,
            network: false,
            pids: None,
        },
        said,
    ))
}

/// What `vmm doctor` says about KVM.
pub(super) fn kvm(vmm: &Path) -> Option<Kvm> {
    let mut doctor = Command::new(vmm);
    doctor.args(["doctor", "--format", "json"]).stdin(Stdio::null()).stderr(Stdio::null());
    // Its status tells of anything it found wanting, so only the report counts.
    let report: Value = serde_json::from_slice(&doctor.output().ok()?.stdout).ok()?;
    let text = |key: &str| report.pointer(key)?.as_str().map(str::to_owned);
    Some(Kvm { mode: text("/kvm/mode")?, hypervisor: text("/kvm/hypervisor") })
}
