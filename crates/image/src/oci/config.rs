//! The configuration of an image.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{DocumentError, MAX_LAYERS, Platform, time};
use crate::config::ImageConfig;
use crate::digest::Digest;

/// What an image's configuration says.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// About the process.
    pub image: ImageConfig,
    /// What the image was built for.
    pub platform: Platform,
    /// When it was made, in seconds since 1970.
    pub created: Option<u64>,
    /// Digests of the layers, uncompressed, the lowest first.
    pub diff_ids: Vec<Digest>,
}

/// A map that is used as a set.
type Set = BTreeMap<String, IgnoredAny>;

#[derive(Debug, Deserialize)]
struct Raw {
    created: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    os: Option<String>,
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Debug, Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
    exposed_ports: Option<Set>,
    volumes: Option<Set>,
}

/// Reads an image's configuration.
///
/// # Errors
///
/// The bytes are no such configuration, or hold texts that no process can be given.
pub fn parse_config(bytes: &[u8]) -> Result<Configuration, DocumentError> {
    let raw: Raw = serde_json::from_slice(bytes)
        .map_err(|source| DocumentError::Json { what: "image's configuration", source })?;
    let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
    match diff_ids.len() {
        _ if raw.rootfs.kind != "layers" => return Err(DocumentError::NoLayers),
        0 => return Err(DocumentError::NoLayers),
        count if count > MAX_LAYERS => return Err(DocumentError::TooManyLayers(count)),
        _ => {}
    }
    let platform = Platform {
        os: raw.os.unwrap_or_default(),
        architecture: raw.architecture.unwrap_or_default(),
        variant: raw.variant.filter(|variant| !variant.is_empty()),
    };
    let image = image(raw.config.unwrap_or_default(), &platform);
    check(&image)?;
    let created = raw.created.as_deref().and_then(time::seconds);
    Ok(Configuration { image, platform, created, diff_ids })
}

fn image(raw: RawConfig, platform: &Platform) -> ImageConfig {
    ImageConfig {
        env: raw.env.unwrap_or_default(),
        entrypoint: raw.entrypoint.unwrap_or_default(),
        cmd: raw.cmd.unwrap_or_default(),
        user: raw.user.unwrap_or_default(),
        working_dir: raw.working_dir.unwrap_or_default(),
        labels: raw.labels.unwrap_or_default(),
        stop_signal: raw.stop_signal.filter(|signal| !signal.is_empty()),
        exposed_ports: raw.exposed_ports.unwrap_or_default().into_keys().collect(),
        volumes: raw.volumes.unwrap_or_default().into_keys().collect(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os: platform.os.clone(),
    }
}

/// What reaches the guest as a string that ends with NUL must not hold one.
fn check(image: &ImageConfig) -> Result<(), DocumentError> {
    let has_nul = |text: &String| text.contains('\0');
    if image.env.iter().any(|entry| has_nul(entry) || entry.starts_with('=')) {
        return Err(DocumentError::Text("Env"));
    }
    let lists = [
        ("Entrypoint", &image.entrypoint),
        ("Cmd", &image.cmd),
        ("ExposedPorts", &image.exposed_ports),
        ("Volumes", &image.volumes),
    ];
    let list = lists.iter().find(|(_, list)| list.iter().any(has_nul)).map(|(name, _)| *name);
    let texts = [("User", &image.user), ("WorkingDir", &image.working_dir)];
    let text = texts.iter().find(|(_, text)| has_nul(text)).map(|(name, _)| *name);
    let signal = image.stop_signal.iter().any(has_nul).then_some("StopSignal");
    match list.or(text).or(signal) {
        Some(name) => Err(DocumentError::Text(name)),
        None => Ok(()),
    }
}
