//! `vmm stop`, `kill`, `wait`, `rm`.

use std::io;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::super::output::print;
use super::super::{Exit, report};
use super::containers;
use crate::container::call::{Call, KILL_TIME};
use crate::container::talk::{Ask, Ended};
use crate::container::{Container, Containers, Lock, Signal, Status};

#[derive(Debug, Args)]
pub(in super::super) struct StopArgs {
    /// Signal to send [default: the container's own]
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<Signal>,

    /// Seconds between the signal and KILL [default: the container's own]
    #[arg(short, long, value_name = "SECONDS", alias = "timeout")]
    time: Option<u32>,

    /// Containers by name or identifier
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(in super::super) struct KillArgs {
    /// Signal to send
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: Signal,

    /// Containers by name or identifier
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(in super::super) struct WaitArgs {
    /// Containers by name or identifier
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(in super::super) struct RmArgs {
    /// End it first if it runs
    #[arg(short, long)]
    force: bool,

    /// Containers by name or identifier
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(in super::super) fn stop(args: &StopArgs) -> anyhow::Result<Exit> {
    each(&args.containers, |_, container, status| {
        if !matches!(status, Status::Exited { .. }) {
            let spec = container.spec();
            let patience = Duration::from_secs(args.time.unwrap_or(spec.stop_timeout).into());
            let signal = args.signal.unwrap_or(spec.stop_signal);
            let stopped = Call::new(container).and_then(|mut call| call.stop(signal, patience));
            told(container, stopped)?;
        }
        Ok(None)
    })
}

pub(in super::super) fn kill(args: &KillArgs) -> anyhow::Result<Exit> {
    each(&args.containers, |_, container, status| {
        if matches!(status, Status::Exited { .. }) {
            bail!("it does not run");
        }
        let mut call = Call::new(container)?;
        call.ask(&Ask::Signal(args.signal.0))?;
        if args.signal == Signal::KILL {
            // What is killed is gone when the command returns; a guest that is stuck is switched off.
            call.stop(args.signal, KILL_TIME)?;
        }
        Ok(None)
    })
}

pub(in super::super) fn wait(args: &WaitArgs) -> anyhow::Result<Exit> {
    each(&args.containers, |_, container, status| {
        let code = match status {
            Status::Exited { code, .. } => *code,
            _ => told(container, Call::new(container).and_then(|mut call| call.end()))?,
        };
        Ok(Some(code.to_string()))
    })
}

pub(in super::super) fn rm(args: &RmArgs) -> anyhow::Result<Exit> {
    each(&args.containers, |_, container, status| {
        if !matches!(status, Status::Exited { .. }) {
            if !args.force {
                bail!("it runs: stop it first, or use -f");
            }
            // A keeper that ends at this moment has done what is asked for.
            let _: Result<_, _> = Call::new(container).and_then(|mut call| {
                call.ask(&Ask::Destroy)?;
                call.wait(None)
            });
        }
        if let Some(lock) = container.wait_for_keeper()? {
            container.remove(&lock)?;
        }
        Ok(None)
    })
}

/// Containers that have ended, with the bytes of the disk that each takes. One whose keeper is still there,
/// or that somebody has removed meanwhile, is not among them.
pub(in super::super) fn ended() -> anyhow::Result<Vec<(Container, Lock, u64)>> {
    let mut found = vec![];
    for (container, status) in containers()?.list()? {
        if matches!(status, Status::Exited { .. })
            && let Ok(Some(lock)) = container.try_lock()
        {
            let size = container.size()?;
            found.push((container, lock, size));
        }
    }
    Ok(found)
}

/// The exit status that the keeper tells. One that has just ended has written it down.
fn told(container: &Container, said: io::Result<Ended>) -> io::Result<u8> {
    match (said, container.status()) {
        (Ok(ended), _) => Ok(ended.code),
        (Err(_), Ok(Status::Exited { code, .. })) => Ok(code),
        (Err(error), _) => Err(error),
    }
}

/// Does something with each of the containers called `keys`, and prints what it is called, or what comes
/// of it. One that fails does not spare the others.
fn each(
    keys: &[String],
    mut what: impl FnMut(&Containers, &Container, &Status) -> anyhow::Result<Option<String>>,
) -> anyhow::Result<Exit> {
    let containers = containers()?;
    let mut exit = Exit::Success;
    for key in keys {
        let done = containers.find(key).map_err(anyhow::Error::from).and_then(|(found, status)| {
            what(&containers, &found, &status).with_context(|| key.clone())
        });
        match done {
            Ok(said) => print(&format!("{}\n", said.as_deref().unwrap_or(key)))?,
            Err(error) => {
                report::error(&error);
                exit = Exit::Command(1);
            }
        }
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Paths;
    use crate::container::clock::Timestamp;
    use crate::container::testing::spec;

    #[test]
    fn container_that_ends_while_it_is_asked_has_written_down_how() {
        let top = tempfile::tempdir().expect("temporary directory");
        let paths = Paths { data: top.path().join("data"), runtime: top.path().join("run") };
        let containers = Containers::open(paths).expect("opened");
        let (container, _lock) = containers.create(spec("one")).expect("made");
        let nobody = || Call::new(&container).and_then(|mut call| call.end());
        assert!(told(&container, nobody()).is_err());
        let ended = Status::Exited {
            started: None,
            finished: Timestamp::now(),
            code: 23,
            oom: false,
            error: None,
        };
        container.set_status(&ended).expect("written");
        assert_eq!(told(&container, nobody()).expect("told"), 23);
    }
}
