//! What a container is: its image, its first process, its machine. Put together once, from the image's
//! configuration and the user's flags, and kept beside the container.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vmm_image::config::ImageConfig;
use vmm_protocol::{
    CAPABILITIES, DEFAULT_CAPABILITIES, FrameError, Request, Rlimit, Role, Setup, Start,
    TerminalSize, Tmpfs, push_message,
};

use super::clock::Timestamp;
use super::hosts::{hosts_file, resolv_conf};
use super::nouns::{Cpus, EnvEntry, Environment, Label, Size};
use super::{ContainerError, Id, Name, Network, RunOptions, Signal};
use crate::config::Publish;

/// Where docker looks for programs when the image does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A terminal nobody has told us the size of.
const TERMINAL: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// The files a container is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// The image as the user called it.
    pub image: String,
    /// Digest of the image's configuration.
    pub image_id: String,
    /// Its read-only root file system.
    pub rootfs: PathBuf,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The agent, as an initial RAM file system.
    pub initrd: PathBuf,
}

/// Everything about a container that does not change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its identifier.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// When it was made.
    pub created: Timestamp,
    /// What it is made from.
    pub sources: Sources,
    /// What the agent prepares.
    pub setup: Setup,
    /// The first process.
    pub start: Start,
    /// Processors.
    pub cpus: Cpus,
    /// Memory of the container.
    pub memory: Size,
    /// Size of the layer it writes to.
    pub storage: Size,
    /// Its network.
    pub network: Network,
    /// Ports that the host offers.
    pub publish: Vec<Publish>,
    /// The signal that stops it.
    pub stop_signal: Signal,
    /// Seconds between that and KILL.
    pub stop_timeout: u32,
    /// What the image's maker and the user say about it.
    pub labels: BTreeMap<String, String>,
    /// Whether it is removed when it ends.
    pub auto_remove: bool,
}

impl Spec {
    /// Puts image and flags together.
    ///
    /// # Errors
    /// There is no command, a file of variables cannot be read, a capability does not exist.
    pub fn new(
        options: &RunOptions,
        config: &ImageConfig,
        sources: Sources,
    ) -> Result<Self, ContainerError> {
        let id = Id::random().map_err(ContainerError::Random)?;
        let name = options.name.clone().unwrap_or_else(|| Name::from(&id));
        let hostname = options.hostname.clone().unwrap_or_else(|| Name::from(&id));
        let network = options.network.clone().unwrap_or(Network::None);
        let stop_signal = config.stop_signal.as_deref().and_then(|text| text.parse().ok());
        let mut labels = config.labels.clone();
        labels.extend(options.label.iter().map(|Label(name, value)| (name.clone(), value.clone())));
        Ok(Self {
            created: Timestamp::now(),
            sources,
            setup: setup(options, &network, hostname.as_str()),
            start: start(options, config, hostname.as_str())?,
            cpus: options.cpus,
            memory: options.memory,
            storage: options.storage,
            network,
            publish: options.publish.iter().map(|port| port.0).collect(),
            stop_signal: options.stop_signal.or(stop_signal).unwrap_or(Signal::TERM),
            stop_timeout: options.stop_timeout,
            labels,
            auto_remove: options.rm,
            id,
            name,
        })
    }
}

fn setup(options: &RunOptions, network: &Network, hostname: &str) -> Setup {
    let own = network.address().map(|own| own.address().into());
    Setup {
        hostname: hostname.to_owned(),
        hosts: hosts_file(hostname, own, &options.add_host),
        resolv_conf: resolv_conf(network, &options.dns),
        network: network.addresses(),
        writable_disk: !options.read_only,
        read_only_root: options.read_only,
        tmpfs: options
            .tmpfs
            .iter()
            .map(|tmpfs| Tmpfs { path: tmpfs.path.clone(), options: tmpfs.options.clone() })
            .collect(),
        memory_bytes: Some(options.memory.0),
        ..Setup::default()
    }
}

fn start(
    options: &RunOptions,
    config: &ImageConfig,
    hostname: &str,
) -> Result<Start, ContainerError> {
    let args = command_line(options, config);
    if args.is_empty() {
        return Err(ContainerError::NoCommand(options.image().to_owned()));
    }
    sendable(Start {
        role: Role::Init,
        args,
        env: environment(options, config, hostname)?.into_entries(),
        cwd: options.workdir.as_ref().unwrap_or(&config.working_dir).clone(),
        user: options.user.as_ref().unwrap_or(&config.user).clone(),
        terminal: options.tty.then_some(TERMINAL),
        stdin: options.interactive,
        rlimits: options
            .ulimit
            .iter()
            .map(|limit| Rlimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard })
            .collect(),
        capabilities: capabilities(&options.cap_add, &options.cap_drop)?,
        init: options.init,
        ..Start::default()
    })
}

/// What describes a process, if the agent can be told.
fn sendable(start: Start) -> Result<Start, ContainerError> {
    framed(&Request::Start(Box::new(start.clone()))).map(|_| start)
}

/// A request to the agent that describes a process, as it is sent.
///
/// # Errors
/// It is too long.
pub fn framed(request: &Request) -> Result<Vec<u8>, ContainerError> {
    let mut frame = vec![];
    match push_message(&mut frame, request) {
        Err(FrameError::Length { len, .. }) => Err(ContainerError::TooLong { bytes: len }),
        // Nothing else makes it fail: these are words and numbers.
        _ => Ok(frame),
    }
}

/// The image's entry point and its arguments: a command of the user replaces the arguments, an entry
/// point of the user both.
fn command_line(options: &RunOptions, config: &ImageConfig) -> Vec<String> {
    let (entrypoint, arguments) = match options.entrypoint.as_deref() {
        Some("") => (vec![], options.command()),
        Some(program) => (vec![program.to_owned()], options.command()),
        None if options.command().is_empty() => (config.entrypoint.clone(), &config.cmd[..]),
        None => (config.entrypoint.clone(), options.command()),
    };
    [&entrypoint, arguments].concat()
}

fn environment(
    options: &RunOptions,
    config: &ImageConfig,
    hostname: &str,
) -> Result<Environment, ContainerError> {
    let mut variables = Environment::default();
    variables.set("PATH", PATH);
    variables.set("HOSTNAME", hostname);
    if options.tty {
        variables.set("TERM", "xterm");
    }
    for (name, value) in config.env.iter().filter_map(|entry| entry.split_once('=')) {
        variables.set(name, value);
    }
    for path in &options.env_file {
        let entries = EnvEntry::of_file(path).map_err(|e| ContainerError::file(path, e))?;
        entries.iter().for_each(|entry| entry.apply(&mut variables));
    }
    options.env.iter().for_each(|entry| entry.apply(&mut variables));
    Ok(variables)
}

/// Docker's capabilities, with some added and some dropped, by docker's rule of which word wins.
fn capabilities(add: &[String], drop: &[String]) -> Result<Vec<String>, ContainerError> {
    let (add, drop) = (names_of(add)?, names_of(drop)?);
    let all = |names: &[&str]| names.len() == CAPABILITIES.len();
    let kept = |name: &str| {
        if all(&add) {
            !drop.contains(&name)
        } else {
            let given =
                !all(&drop) && !drop.contains(&name) && DEFAULT_CAPABILITIES.contains(&name);
            given || add.contains(&name)
        }
    };
    Ok(CAPABILITIES.into_iter().filter(|name| kept(name)).map(str::to_owned).collect())
}

/// Names as the kernel has them, for `CAP_CHOWN`, `chown` and `ALL`.
fn names_of(words: &[String]) -> Result<Vec<&'static str>, ContainerError> {
    let mut names = vec![];
    for word in words {
        let upper = word.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            return Ok(CAPABILITIES.to_vec());
        }
        let known = CAPABILITIES.iter().find(|known| **known == name);
        names.push(*known.ok_or_else(|| ContainerError::NoCapability(word.clone()))?);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::testing::{options, sources};

    #[test]
    fn more_than_the_agent_can_be_told_is_refused_before_anything_starts() {
        let refused = |long: usize| {
            let options = options(&["image", &"x".repeat(long)]);
            let spec = Spec::new(&options, &ImageConfig::default(), sources());
            spec.map(drop).map_err(|e| e.to_string())
        };
        assert_eq!(refused(vmm_protocol::MAX_MESSAGE / 2), Ok(()));
        let error = refused(vmm_protocol::MAX_MESSAGE).expect_err("too long");
        assert!(error.starts_with("command line and environment take 26"), "{error}");
    }

    #[test]
    fn labels_are_the_image_s_unless_the_user_has_others() {
        let labels = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let config = ImageConfig {
            cmd: vec!["sh".to_owned()],
            labels: labels(&[("maker", "m"), ("stage", "built")]),
            ..ImageConfig::default()
        };
        let options = options(&["--label", "stage=run", "-l", "own", "image"]);
        let spec = Spec::new(&options, &config, sources()).expect("a container");
        assert_eq!(spec.labels, labels(&[("maker", "m"), ("own", ""), ("stage", "run")]));
    }
}
