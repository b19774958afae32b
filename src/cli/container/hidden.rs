//! The processes that a container consists of on the host. They are started by other commands, never by
//! people: their command lines are read without the description of all commands, which takes longer to
//! make than they take to read.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::ValueEnum;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::stdio::{dup2_stdin, dup2_stdout, stdin, stdout};

use super::super::{Exit, boot};
use crate::config::{BootProtocol, PartialConfig};
use crate::container::{self, timing::Moment};
use vmm_image::inherited;

/// What a command line (the program's name first) starts; nothing if it is for people.
pub(in super::super) fn of(args: &[OsString]) -> Option<Hidden<'_>> {
    match args {
        [_, word, id] if word == "keep" => Some(Hidden::Keep(id)),
        [_, word, flag, keeper, flags @ ..] if word == "monitor" && flag == "--keeper" => {
            Some(Hidden::Monitor { keeper, flags })
        }
        _ => None,
    }
}

/// A process that is started by another.
#[derive(Debug)]
pub(in super::super) enum Hidden<'a> {
    /// The keeper of the container with this identifier.
    Keep(&'a OsStr),
    /// The monitor with these flags, started by the keeper of this process number.
    Monitor { keeper: &'a OsStr, flags: &'a [OsString] },
}

/// Looks after a container. Standard input is the connection of the command that wants it, standard
/// output the container's lock.
pub(in super::super) fn keep(id: &OsStr) -> anyhow::Result<Exit> {
    inherited::heed_signals();
    let command = UnixStream::from(take(stdin())?);
    let lock = take(stdout())?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // What is started from here on inherits neither.
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    let id = id.to_str().context("an identifier is text")?;
    container::keep(&super::containers()?, id, lock, command)?;
    Ok(Exit::Success)
}

/// A descriptor of this process's own, out of the way of the standard streams.
fn take(stream: impl std::os::fd::AsFd) -> anyhow::Result<OwnedFd> {
    let fd = fcntl_dupfd_cloexec(stream, 3).context("take over an open file")?;
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Runs the machine of a container; dies with the keeper that started it. Says on standard output when the
/// guest begins.
pub(in super::super) fn monitor(keeper: &OsStr, flags: &[OsString]) -> anyhow::Result<Exit> {
    let keeper: i32 = parsed(keeper)?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("die with the keeper")?;
    // It may have died before that; then the parent is another process.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get());
    anyhow::ensure!(parent == Some(keeper), "the keeper has died");
    // Its kernel was looked at when the container was made.
    boot::run_container(machine(flags)?.into(), || {
        // For those who want to know how long what took.
        let _: Result<_, _> = writeln!(std::io::stdout(), "{}", Moment::now().text());
    })
}

/// The machine that the keeper's flags describe; each has a value of its own.
fn machine(flags: &[OsString]) -> anyhow::Result<PartialConfig> {
    let mut machine = PartialConfig::default();
    for pair in flags.chunks(2) {
        let [flag, value] = pair else { bail!("a flag has no value") };
        match flag.to_str() {
            Some("--kernel") => machine.kernel = Some(value.into()),
            Some("--initrd") => machine.initrd = Some(value.into()),
            Some("--boot-protocol") => {
                let protocol =
                    value.to_str().and_then(|text| BootProtocol::from_str(text, false).ok());
                machine.boot_protocol = Some(protocol.context("no such boot protocol")?);
            }
            Some("--append") => machine.append = Some(parsed(value)?),
            Some("--console") => machine.console = Some(parsed(value)?),
            Some("--cpus") => machine.cpus = Some(parsed(value)?),
            Some("--memory") => machine.memory = Some(parsed(value)?),
            Some("--disk") => machine.disk.push(parsed(value)?),
            Some("--net") => machine.net.push(parsed(value)?),
            Some("--vsock") => machine.vsock = Some(parsed(value)?),
            _ => bail!("machines of containers have no {}", flag.display()),
        }
    }
    Ok(machine)
}

fn parsed<T>(value: &OsStr) -> anyhow::Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let text = value.to_str().with_context(|| format!("{} is not text", value.display()))?;
    text.parse().with_context(|| format!("read {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn processes_of_containers_are_told_from_commands() {
        assert!(matches!(of(&words("vmm keep abc")), Some(Hidden::Keep(_))));
        let monitor = words("vmm monitor --keeper 7 --cpus 1");
        assert!(matches!(of(&monitor), Some(Hidden::Monitor { flags: [_, _], .. })));
        for other in ["vmm", "vmm keep", "vmm monitor --cpus 1", "vmm run monitor", "vmm --cpus 1"]
        {
            assert!(of(&words(other)).is_none(), "{other}");
        }
    }

    /// The keeper's flags mean what the same flags of the command mean.
    #[test]
    fn machine_is_read_as_the_command_line_describes_it() {
        use clap::FromArgMatches;
        let line = "--kernel k --initrd i --boot-protocol linux64 --console off --append a=1 --cpus 2 --memory 570M --disk \
                    path=r,,1,readonly=on --disk path=w --vsock cid=3,socket=s --net \
                    user,ip=10.0.2.15/24,gateway=10.0.2.2";
        let whole = words(&format!("vmm {line}"));
        let matches = command().try_get_matches_from(whole).expect("known flags");
        let expected = PartialConfig::from_arg_matches(&matches).expect("a machine");
        assert_eq!(machine(&words(line)).expect("a machine"), expected);
        for wrong in
            ["--kernel", "--rootfs r", "--boot-protocol x", "--cpus many", "--disk nothing"]
        {
            assert!(machine(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
