//! Starting the program `vmm-image`, and what it answers; where to find what was installed beside this program.

use std::env;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::store::StorePaths;

/// The program.
const PROGRAM: &str = "vmm-image";
/// Bytes of its answer, at most.
const MAX_ANSWER: u64 = 16 << 20;

/// What is pulled, and how.
#[derive(Debug, Clone, Default)]
pub struct Pull {
    /// What the image is called: see [`crate::reference`].
    pub reference: String,
    /// Names it gets: besides that of a registry, in place of a path.
    pub names: Vec<String>,
    /// What it is for, such as `linux/arm64`; this host by default.
    pub platform: Option<String>,
    /// Whether the registry may be spoken to without encryption.
    pub plain_http: bool,
    /// Whether nothing is told meanwhile on standard error.
    pub quiet: bool,
}

/// An image that was pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// The image's ID.
    pub id: Digest,
    /// The digest of the document that the reference led to.
    pub digest: Digest,
    /// All its names, in full.
    pub names: Vec<String>,
    /// Bytes of its file system.
    pub size: u64,
    /// Whether the file system had to be made.
    pub new: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Pulled(Pulled),
    Error { what: String, hint: Option<String> },
}

/// Why nothing was pulled.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The program is not where it should be.
    #[error("there is no {program} in {directory} or the directories for programs beside it", directory = directory.display())]
    Missing {
        /// Its name.
        program: &'static str,
        /// The directory of this program.
        directory: PathBuf,
    },
    /// The program cannot be started, or not be heard.
    #[error("{program}: {error}", program = program.display())]
    Start {
        /// Where it is.
        program: PathBuf,
        /// Why not. The message says it, so that it is no source, which would say it again.
        error: io::Error,
    },
    /// It says why.
    #[error("{what}")]
    Failed {
        /// What went wrong.
        what: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// It has ended and said nothing.
    #[error("{PROGRAM} ended with {0} and without an answer")]
    Silent(String),
}

impl ClientError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Missing { .. } => {
                Some("install the whole package of vmm, or build the whole workspace")
            }
            Self::Failed { hint, .. } => hint.as_deref(),
            Self::Start { .. } | Self::Silent(_) => None,
        }
    }
}

/// Where what was installed with this program may be: beside it, or where packages put what is not for the shell.
pub fn places() -> impl Iterator<Item = PathBuf> {
    let directory = own_directory();
    ["", "../libexec/vmm", "../lib/vmm"].into_iter().map(move |place| directory.join(place))
}

fn own_directory() -> PathBuf {
    let own = env::current_exe().unwrap_or_default();
    own.parent().unwrap_or(Path::new("/")).to_owned()
}

/// Where a program that belongs to this one is, of [`places`].
///
/// # Errors
///
/// It is in none of them.
pub fn find_program(program: &'static str) -> Result<PathBuf, ClientError> {
    let found = places().map(|place| place.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| ClientError::Missing { program, directory: own_directory() })
}

/// The kernel of this flavour: the one that was installed with this program, else the newest that was built from our
/// recipe on this machine.
pub fn find_kernel(flavour: &str) -> Option<PathBuf> {
    let mut installed = places().map(|place| place.join(format!("vmlinux-{flavour}")));
    installed.find(|path| path.is_file()).or_else(|| newest_built(flavour))
}

fn newest_built(flavour: &str) -> Option<PathBuf> {
    let entries =
        std::fs::read_dir(user_directory("XDG_CACHE_HOME", ".cache")?.join("vmm/kernels"));
    let prefix = format!("{flavour}-{}-", env::consts::ARCH);
    // What a build calls the kernel that a machine boots.
    let file = if env::consts::ARCH == "aarch64" { "Image" } else { "vmlinux" };
    let kernels = entries.ok()?.filter_map(Result::ok).filter_map(|entry| {
        let is_ours = entry.file_name().to_str()?.starts_with(&prefix);
        let path = entry.path().join(file);
        let built = path.metadata().ok()?.modified().ok()?;
        is_ours.then_some((built, path))
    });
    kernels.max().map(|(_, path)| path)
}

/// A directory of the user's own, by the rules of XDG: what `variable` says, else `usual` in the home directory.
pub fn user_directory(variable: &str, usual: &str) -> Option<PathBuf> {
    let named = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(usual)))
}

/// Pulls an image into the store at `paths`; what is going on is told on standard error.
///
/// # Errors
///
/// What `vmm-image` says, or why it cannot be started.
pub fn pull(paths: &StorePaths, what: &Pull) -> Result<Pulled, ClientError> {
    let program = find_program(PROGRAM)?;
    let start = |error| ClientError::Start { program: program.clone(), error };
    let mut command = Command::new(&program);
    command.arg("pull").env("VMM_DATA", paths.data());
    command.args(what.names.iter().map(|name| format!("--name={name}")));
    command.args(what.platform.iter().map(|platform| format!("--platform={platform}")));
    command.args(what.plain_http.then_some("--plain-http"));
    command.args(what.quiet.then_some("--quiet"));
    command.arg(format!("--parent={}", std::process::id()));
    command.args(["--", &what.reference]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(start)?;
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(MAX_ANSWER).read_to_end(&mut answer).map_err(start)?;
    }
    let status = child.wait().map_err(start)?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Pulled(pulled)) if status.success() => Ok(pulled),
        Ok(Answer::Error { what, hint }) => Err(ClientError::Failed { what, hint }),
        _ => Err(ClientError::Silent(match status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => format!("status {}", status.code().unwrap_or(-1)),
        })),
    }
}
