//! What the tests of containers share.

use clap::Parser;
use vmm_image::config::ImageConfig;

use super::{RunOptions, Sources, Spec};

#[derive(Parser)]
#[command(disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    options: RunOptions,
}

/// The options that a command line amounts to.
pub(super) fn options(words: &[&str]) -> RunOptions {
    let line = ["run"].iter().chain(words);
    Line::try_parse_from(line).unwrap_or_else(|e| panic!("{e}")).options
}

pub(super) fn sources() -> Sources {
    Sources {
        image: "busybox".to_owned(),
        image_id: "sha256:0".to_owned(),
        rootfs: "/rootfs".into(),
        kernel: "/kernel".into(),
        initrd: "/initrd".into(),
    }
}

/// A container of this name.
pub(crate) fn spec(name: &str) -> Spec {
    let options = options(&["--name", name, "--network", "user", "busybox", "true"]);
    Spec::new(&options, &ImageConfig::default(), sources()).expect("a command")
}
