//! `vmm cp`.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{IsTerminal, Write, stderr, stdin, stdout};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use super::super::table::bytes;
use super::super::{Exit, report};
use super::containers;
use crate::container::copy::{Copy, CopyError, End};
use crate::container::{Container, Status, call};
use crate::control::is_ignored;

/// Time between two words about how far a copy is.
const BETWEEN: Duration = Duration::from_millis(100);

const USAGE: &str = "\
vmm cp [OPTIONS] CONTAINER:SRC DEST|-
       vmm cp [OPTIONS] SRC|- CONTAINER:DEST";

const EXAMPLES: &str = "\
Examples:
  vmm cp web:/etc/nginx/nginx.conf .      a file, into this directory
  vmm cp ./site web:/srv                  a directory, as /srv/site (as /srv if there is none)
  vmm cp ./site/. web:/srv                what is in it, into /srv
  vmm cp web:/var/log - | tar -t          as an archive
  tar -c data | vmm cp - web:/srv         an archive, unpacked in /srv

The container has to run. Directories are copied with all that is in them.
A local file whose name has a colon is written ./like:this.";

#[derive(Debug, Args)]
#[command(override_usage = USAGE, after_help = EXAMPLES)]
pub(in super::super) struct CpArgs {
    /// Keep owners: of files that go in, and, as root, of files that come out
    #[arg(short, long)]
    archive: bool,

    /// Copy what the symbolic link SRC leads to, not the link
    #[arg(short = 'L', long)]
    follow_link: bool,

    /// Print no progress
    #[arg(short, long)]
    quiet: bool,

    /// What to copy: a path here, CONTAINER:PATH, or - for an archive on standard input
    #[arg(value_name = "SRC")]
    source: OsString,

    /// Where to: a path here, CONTAINER:PATH, or - for an archive on standard output
    #[arg(value_name = "DEST")]
    destination: OsString,
}

/// Copies files between this host and a container.
pub(in super::super) fn cp(args: &CpArgs) -> anyhow::Result<Exit> {
    let (from, to) = (args.source.to_string_lossy(), args.destination.to_string_lossy());
    let done = copy(args).with_context(|| format!("copy {from} to {to}"));
    done.or_else(|error| {
        report::error(&error);
        // Docker's status for a copy that failed.
        Ok(Exit::Command(1))
    })
}

fn copy(args: &CpArgs) -> anyhow::Result<Exit> {
    match (End::parse(&args.source)?, End::parse(&args.destination)?) {
        (End::Container { .. }, End::Container { .. }) => {
            bail!("a copy between containers goes by way of this host: copy out, then in")
        }
        (End::Container { container, path }, End::Host(to)) => {
            out(args, &running(&container)?, &path, &to)
        }
        (End::Container { container, path }, End::Stream) => {
            if stdout().is_terminal() {
                bail!("an archive is nothing for a terminal: redirect the output");
            }
            let container = running(&container)?;
            made(args, &container, |copy| copy.to_stream(&path, &mut stdout().lock()))
        }
        (End::Host(from), End::Container { container, path }) => {
            made(args, &running(&container)?, |copy| copy.to_container(&from, &path))
        }
        (End::Stream, End::Container { container, path }) => {
            let container = running(&container)?;
            made(args, &container, |copy| copy.from_stream(&mut stdin().lock(), &path))
        }
        _ => bail!("one of them has to be a container's, such as web:/srv"),
    }
}

/// Copies to this host. A signal ends it as an error does: the file that is not whole is removed.
fn out(args: &CpArgs, container: &Container, from: &str, to: &Path) -> anyhow::Result<Exit> {
    let (read, write) = UnixStream::pair()?;
    let stop = read.try_clone()?;
    let caught = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|&signal| !is_ignored(signal));
    let mut signals = SignalDelivery::with_pipe(read, write, SignalOnly, caught)?;
    let stop = Some(stop.as_fd());
    made(args, container, |copy| Copy { stop, ..copy }.to_host(from, to)).or_else(|error| {
        let stopped = matches!(error.downcast_ref(), Some(CopyError::Stopped));
        match signals.pending().next().filter(|_| stopped) {
            Some(signal) => Ok(Exit::Signal(u8::try_from(signal).unwrap_or(0))),
            None => Err(error),
        }
    })
}

/// Makes a copy, and says how far it is and how much it was.
fn made(
    args: &CpArgs,
    container: &Container,
    make: impl FnOnce(Copy<'_>) -> Result<u64, CopyError>,
) -> anyhow::Result<Exit> {
    let shown = !args.quiet && stderr().is_terminal();
    let last = Cell::new(Instant::now());
    let progress = |count| {
        if shown && last.get().elapsed() >= BETWEEN {
            last.set(Instant::now());
            say(&format!("\rcopied {} ", bytes(count)));
        }
    };
    let connect = |request: &_| call::session(container, request);
    let (archive, follow) = (args.archive, args.follow_link);
    let copy = Copy { connect: &connect, archive, follow, progress: &progress, stop: None };
    let done = make(copy);
    if shown {
        // Takes the line back.
        say("\r\x1b[K");
    }
    let count = done?;
    if shown {
        report::note(&format!("copied {}", bytes(count)));
    }
    Ok(Exit::Success)
}

fn say(text: &str) {
    // Who does not listen is not told.
    let _: Result<_, _> = stderr().write_all(text.as_bytes());
}

fn running(key: &str) -> anyhow::Result<Container> {
    match containers()?.find(key)? {
        (container, Status::Running { .. }) => Ok(container),
        (_, Status::Created) => bail!("container {key} has not started yet"),
        (_, Status::Exited { .. }) => bail!(
            "container {key} does not run: its disk is mounted, and read, by nothing but its own kernel, \
             so that files can be copied only while it runs"
        ),
    }
}
