//! Media types, of OCI and of docker.

/// What a media type says a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    /// A list of manifests, by platform.
    Index,
    /// One image.
    Manifest,
    /// The configuration of an image.
    Config,
    /// A layer of the file system.
    Layer,
    /// Docker's first schema.
    FirstSchema,
    /// Nothing that an image is made of.
    Other,
}

impl MediaKind {
    /// What `media_type` stands for; parameters after `;` do not count.
    pub fn of(media_type: &str) -> Self {
        let bare = media_type.split(';').next().unwrap_or_default().trim();
        match bare {
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => Self::Index,
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => Self::Manifest,
            "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json" => Self::Config,
            "application/vnd.docker.distribution.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v1+prettyjws" => Self::FirstSchema,
            _ if is_layer(bare) => Self::Layer,
            _ => Self::Other,
        }
    }

    /// What a registry is asked for.
    pub const ACCEPTED: &'static str = "application/vnd.oci.image.index.v1+json, \
        application/vnd.oci.image.manifest.v1+json, \
        application/vnd.docker.distribution.manifest.list.v2+json, \
        application/vnd.docker.distribution.manifest.v2+json";
}

/// A tar archive, perhaps compressed; how is told by its first bytes.
fn is_layer(bare: &str) -> bool {
    let oci = ["layer.v1.tar", "layer.nondistributable.v1.tar"];
    let rest = match bare.strip_prefix("application/vnd.oci.image.") {
        Some(rest) => oci.iter().find_map(|kind| rest.strip_prefix(kind)),
        None => bare.strip_prefix("application/vnd.docker.image.rootfs.diff.tar"),
    };
    matches!(rest, Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd"))
}
