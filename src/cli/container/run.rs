//! `vmm run`.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::stdio::stdin;
use rustix::termios::isatty;
use serde::Serialize;
use vmm_image::client::{self, Pull};
use vmm_image::digest::Digest;
use vmm_image::reference::Reference;
use vmm_image::store::{ImageRecord, Store, StoreError, StorePaths, check_platform, check_rootfs};

use super::super::output::unwritten;
use super::super::{Exit, report};
use super::{containers, exit, kernel};
use crate::container::call::{Call, KILL_TIME};
use crate::container::client::{Left, Peer, Streams, attend};
use crate::container::nouns::PullPolicy;
use crate::container::talk::Ask;
use crate::container::timing::{Moment, Moments};
use crate::container::{
    Container, ContainerError, Network, RunOptions, Signal, Sources, Spec, TimingForm, machine,
    start,
};
use crate::preflight;

/// Runs a command in a new container.
pub(in super::super) fn run(mut options: RunOptions, began: Moment) -> anyhow::Result<Exit> {
    check(&options)?;
    let containers = containers()?;
    if options.network.is_none() {
        options.network = Some(usual_network(&options, &containers.paths().runtime));
    }
    let store = Store::open(StorePaths::new(&containers.paths().data))?;
    let text = pulled(&store, &options)?.map_or(options.image().to_owned(), |id| id.to_string());
    // The image is not removed before the container that uses it is on disk.
    let held = store.hold()?;
    let image = image(&store, &text)?;
    if !suits(&image, &options)? {
        let (own, wanted) = (image.config.platform(), options.platform.clone().unwrap_or_default());
        bail!("image {} is for {own}, not for {wanted}", options.image());
    }
    check_platform(&image, options.image())?;
    let kernel = match &options.kernel {
        Some(path) => std::env::current_dir()?.join(path),
        None => kernel::find()?,
    };
    check_kernel(&kernel, &options)?;
    let sources = Sources {
        image: options.image().to_owned(),
        image_id: image.id.to_string(),
        rootfs: image.rootfs,
        kernel,
        initrd: machine::initrd(containers.paths())?,
    };
    let spec = Spec::new(&options, &image.config, sources)?;
    let cidfile = options.cidfile.as_deref().map(CidFile::create).transpose()?;
    let attach =
        Ask::Attach { output: !options.detach, input: options.interactive && !options.detach };
    let (container, socket) = start(&containers, spec, &attach)?;
    drop(held);
    if let Some(file) = cidfile {
        file.write(container.spec().id.as_str())?;
    }
    attend_to(&container, socket, &options, began)
}

/// What does not go together, and what is not there yet.
fn check(options: &RunOptions) -> anyhow::Result<()> {
    if !options.volume.is_empty() {
        bail!(
            "-v is not there yet: a container shares no directory with the host; copy by `vmm cp`, or \
             `tar -c DIR | vmm exec -i CONTAINER tar -x`"
        );
    }
    let by_passt = matches!(options.network, None | Some(Network::User));
    if !options.publish.is_empty() && !by_passt {
        bail!("-p needs --network user, which offers the ports");
    }
    if options.tty && options.interactive && !options.detach && !isatty(stdin()) {
        bail!("-t needs a terminal, and standard input is none; leave -t out");
    }
    Ok(())
}

/// Whether the kernel can run this container, as far as it tells.
fn check_kernel(kernel: &Path, options: &RunOptions) -> anyhow::Result<()> {
    let needs = preflight::Needs {
        writable: !options.read_only,
        network: options.network != Some(Network::None),
        cpus: options.cpus.count(),
    };
    for warning in preflight::check_container(kernel, needs)? {
        report::warning(&warning.what, &warning.fix);
    }
    Ok(())
}

/// The network of a container whose user asked for nothing but maybe ports. That there is none is said once, until
/// there was one again: `runtime` remembers it.
fn usual_network(options: &RunOptions, runtime: &Path) -> Network {
    let said = runtime.join("no-network");
    if !options.publish.is_empty() || has_default_route() {
        // Most often it is not there.
        let _: std::io::Result<()> = std::fs::remove_file(said);
        return Network::User;
    }
    if File::create_new(said).is_ok() {
        report::note(
            "the container has no network: this host has none to share (said once; --network none wants none)",
        );
    }
    Network::None
}

/// Whether the host knows a way to everywhere (proc(5), /proc/net/route and ipv6_route), without which
/// passt does not start.
fn has_default_route() -> bool {
    let has = |file: &str, is_default: fn(&[&str]) -> bool| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| is_default(&line.split_whitespace().collect::<Vec<_>>()))
    };
    has("/proc/net/route", |words| matches!(words, [_, "00000000", ..]))
        || has(
            "/proc/net/ipv6_route",
            |words| matches!(words, [to, "00", .., device] if to.bytes().all(|b| b == b'0') && *device != "lo"),
        )
}

/// Gets the image as `--pull` has it, and returns its identifier if that was done. An image in a file or
/// directory is always looked at anew: it costs little, and what is there may have changed. The store is
/// not held meanwhile, as it has to take the image in.
fn pulled(store: &Store, options: &RunOptions) -> anyhow::Result<Option<Digest>> {
    let local = matches!(options.image().parse(), Ok(Reference::Local(_)));
    let wanted = match options.pull {
        PullPolicy::Always => true,
        PullPolicy::Missing => local || !is_here(store, options)?,
        PullPolicy::Never => false,
    };
    if !wanted {
        return Ok(None);
    }
    let what = Pull {
        reference: options.image().to_owned(),
        platform: options.platform.clone(),
        quiet: options.quiet,
        ..Pull::default()
    };
    let pulled = client::pull(store.paths(), &what);
    Ok(Some(pulled.with_context(|| format!("pull {}", options.image()))?.id))
}

/// Whether the image is in the store. A name that means an image for another platform than is asked for has
/// to be looked up again.
fn is_here(store: &Store, options: &RunOptions) -> anyhow::Result<bool> {
    let named = match options.image().parse() {
        Ok(reference) => store.find(&reference)?,
        Err(_) => None,
    };
    Ok(match named {
        Some(image) => suits(&image, options)?,
        // An identifier means one image and no other.
        None => store.find_by_text(options.image())?.is_some(),
    })
}

fn suits(image: &ImageRecord, options: &RunOptions) -> anyhow::Result<bool> {
    let wanted = options.platform.as_ref().map(|text| text.parse()).transpose()?;
    Ok(wanted.is_none_or(|wanted| image.config.platform().suits(&wanted)))
}

fn image(store: &Store, text: &str) -> anyhow::Result<ImageRecord> {
    let image = store.find_by_text(text)?;
    let image = image.ok_or_else(|| StoreError::NotFound(text.to_owned()))?;
    check_rootfs(&image)?;
    Ok(image)
}

fn attend_to(
    container: &Container,
    socket: UnixStream,
    options: &RunOptions,
    began: Moment,
) -> anyhow::Result<Exit> {
    let streams = Streams {
        input: options.interactive && !options.detach,
        terminal: options.tty,
        signals: true,
        detach: options.detach_keys.clone(),
        until_started: options.detach,
    };
    let left = attend(socket, Peer::Keeper, &streams, report::note);
    match left.context("hear the keeper of the container")? {
        Left::Ended(ended) => {
            let exit = exit(&ended);
            // A program has nothing to learn from the times of what never ran.
            let form =
                options.timing.filter(|form| *form == TimingForm::Text || ended.error.is_none());
            if let Some(form) = form {
                report::note(&timing(form, &ended.moments, began, Moment::now())?);
            }
            Ok(exit)
        }
        Left::Cancelled(signal) => Ok(Exit::Signal(u8::try_from(signal).unwrap_or(0))),
        Left::Detached => {
            if options.detach {
                writeln!(std::io::stdout(), "{}", container.spec().id)?;
            } else {
                report::note(&format!("{} goes on", container.spec().name.as_str()));
            }
            Ok(Exit::Success)
        }
        Left::Unread(error) => {
            // A command in a pipe ends with its reader; this one would go on unnoticed. Behind a terminal that
            // is gone it waits for `vmm attach`.
            if !options.tty {
                // Whose keeper cannot be reached has ended.
                let call = Call::new(container);
                let _ = call.and_then(|mut call| call.stop(Signal::KILL, KILL_TIME));
            }
            Err(unwritten(error))
        }
    }
}

/// When the command began, the steps of a container's life and the end, as `--timing=json` says it.
#[derive(Serialize)]
struct Told<'a> {
    began: Moment,
    #[serde(flatten)]
    moments: &'a Moments,
    ended: Moment,
}

fn timing(
    form: TimingForm,
    moments: &Moments,
    began: Moment,
    ended: Moment,
) -> anyhow::Result<String> {
    Ok(match form {
        TimingForm::Text => timing_text(&moments.steps(began, ended)),
        TimingForm::Json => {
            format!("timing: {}", serde_json::to_string(&Told { began, moments, ended })?)
        }
    })
}

/// Steps of a machine's life and their times, which make up the whole.
pub(in super::super) fn timing_text(steps: &[(&str, Duration)]) -> String {
    let ms = |time: &Duration| format!("{:.3} ms", time.as_secs_f64() * 1e3);
    let whole = steps.iter().map(|(_, time)| time).sum::<Duration>();
    let steps: Vec<_> = steps.iter().map(|(name, time)| format!("{name} {}", ms(time))).collect();
    format!("timing: {}; whole {}", steps.join(", "), ms(&whole))
}

/// The file that is told the container's identifier: new, and gone again if there is no container.
struct CidFile<'a> {
    path: &'a Path,
    file: Option<File>,
}

impl<'a> CidFile<'a> {
    fn create(path: &'a Path) -> Result<Self, ContainerError> {
        let file = File::create_new(path)
            .map_err(|source| ContainerError::File { path: path.to_owned(), source })?;
        Ok(Self { path, file: Some(file) })
    }

    fn write(mut self, id: &str) -> anyhow::Result<()> {
        match self.file.take() {
            Some(mut file) => file.write_all(id.as_bytes()).context("write the --cidfile"),
            None => Ok(()),
        }
    }
}

impl Drop for CidFile<'_> {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Another command finds the name free again.
            let _: Result<_, _> = std::fs::remove_file(self.path);
        }
    }
}
