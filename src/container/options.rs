//! What `vmm run` takes, in docker's words.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::nouns::{AddedHost, Cpus, EnvEntry, Label, PullPolicy, Size, Tmpfs, Ulimit};
use super::{DetachKeys, Name, Network, PortMapping, Signal};

/// How `--timing` tells the times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TimingForm {
    /// For people
    Text,
    /// For programs: microseconds
    Json,
}

/// The flags of `vmm run`. Those after IMAGE belong to the command.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// Keep standard input open for the command
    #[arg(short, long)]
    pub interactive: bool,

    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,

    /// Leave it running in the background and print its identifier
    #[arg(short, long)]
    pub detach: bool,

    /// Remove the container when it ends
    #[arg(long)]
    pub rm: bool,

    /// Name of the container [default: the beginning of its identifier]
    #[arg(long, value_name = "NAME")]
    pub name: Option<Name>,

    /// Host name inside [default: the beginning of its identifier]
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<Name>,

    /// Set a variable of the environment, or take it over from here; repeatable
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "Process")]
    pub env: Vec<EnvEntry>,

    /// Set variables from a file of NAME=VALUE lines; repeatable
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub env_file: Vec<PathBuf>,

    /// Working directory of the command
    #[arg(short, long, value_name = "DIR", help_heading = "Process")]
    pub workdir: Option<String>,

    /// User and group to run as, looked up in the image
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Process")]
    pub user: Option<String>,

    /// Program to run in place of the image's; an empty one removes it
    #[arg(long, value_name = "PROGRAM", help_heading = "Process")]
    pub entrypoint: Option<String>,

    /// Run a small init as the container's first process
    #[arg(long, help_heading = "Process")]
    pub init: bool,

    /// Set a resource limit; repeatable
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Process")]
    pub ulimit: Vec<Ulimit>,

    /// Add a capability, or ALL; repeatable
    #[arg(long, value_name = "CAP", help_heading = "Process")]
    pub cap_add: Vec<String>,

    /// Drop a capability, or ALL; repeatable
    #[arg(long, value_name = "CAP", help_heading = "Process")]
    pub cap_drop: Vec<String>,

    /// Signal that stops the container [default: the image's, or TERM]
    #[arg(long, value_name = "SIGNAL", help_heading = "Process")]
    pub stop_signal: Option<Signal>,

    /// Seconds between that signal and KILL
    #[arg(long, value_name = "SECONDS", default_value_t = 10, help_heading = "Process")]
    pub stop_timeout: u32,

    /// Keys that leave the container running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", help_heading = "Process")]
    pub detach_keys: DetachKeys,

    /// Memory the container may use
    #[arg(short, long, value_name = "SIZE", default_value = "512m", help_heading = "Machine")]
    pub memory: Size,

    /// Processors the container may use, such as 1.5
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Machine")]
    pub cpus: Cpus,

    /// Kernel of the machine [default: the `container` kernel that is installed]
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub kernel: Option<PathBuf>,

    /// Size of the layer that the container writes to
    #[arg(long, value_name = "SIZE", default_value = "10g", help_heading = "Machine")]
    pub storage: Size,

    /// Make the root file system read-only
    #[arg(long, help_heading = "Machine")]
    pub read_only: bool,

    /// Mount an empty file system in memory; repeatable
    #[arg(long, value_name = "DIR[:OPTIONS]", help_heading = "Machine")]
    pub tmpfs: Vec<Tmpfs>,

    /// How the container reaches the network: none, user (by passt), or
    /// tap=NAME[,ip=ADDRESS/PREFIX[,gateway=ADDRESS]] [default: user, where the host has a network]
    #[arg(long, value_name = "HOW", help_heading = "Network")]
    pub network: Option<Network>,

    /// Offer a port of the container on this host; repeatable
    #[arg(short, long, value_name = "[IP:]PORT:PORT[/udp]", help_heading = "Network")]
    pub publish: Vec<PortMapping>,

    /// Name server; repeatable
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub dns: Vec<IpAddr>,

    /// Add a line to /etc/hosts; repeatable
    #[arg(long, value_name = "NAME:ADDRESS", help_heading = "Network")]
    pub add_host: Vec<AddedHost>,

    /// When to ask the image's source: always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing", help_heading = "Image")]
    pub pull: PullPolicy,

    /// Print no progress of a pull
    #[arg(short, long, help_heading = "Image")]
    pub quiet: bool,

    /// Choose among an image's platforms, such as linux/amd64
    #[arg(long, value_name = "OS/ARCH", help_heading = "Image")]
    pub platform: Option<String>,

    /// Attach a label to the container; repeatable
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "Container")]
    pub label: Vec<Label>,

    /// Write the container's identifier to a new file
    #[arg(long, value_name = "FILE", help_heading = "Container")]
    pub cidfile: Option<PathBuf>,

    /// Say at the end how long which step took, or, as json, when each was done on the host's monotonic clock
    #[arg(long, value_name = "FORM", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "text", help_heading = "Container", conflicts_with = "detach")]
    pub timing: Option<TimingForm>,

    /// Not yet: share a directory of the host
    #[arg(short, long, value_name = "SRC:DST", hide = true)]
    pub volume: Vec<String>,

    /// Image: a name, or oci:DIR, oci-archive:FILE, docker-archive:FILE; then command and arguments in place of
    /// the image's
    // One argument: the image ends the flags.
    #[arg(value_names = ["IMAGE", "COMMAND"], required = true, num_args = 1.., trailing_var_arg = true)]
    pub words: Vec<String>,
}

impl RunOptions {
    /// The image.
    pub fn image(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Command and arguments in place of the image's.
    pub fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}
