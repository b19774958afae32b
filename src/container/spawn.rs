//! How a command starts a container: it makes its directory and hands the lock to a keeper.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use vmm_protocol::push_message;

use super::talk::Ask;
use super::{Container, ContainerError, Containers, Spec};

/// What of the environment a keeper gets, and what it starts: where programs are, and how to report a defect.
const KEPT: [&str; 2] = ["PATH", "RUST_BACKTRACE"];

/// Makes the container and starts its keeper, which starts its machine. Returns the connection on which
/// the keeper tells what becomes of it; closed before it says that the container has started, the
/// start is given up.
///
/// # Errors
/// The container cannot be made, or its keeper not be started; nothing is left of it then.
pub fn start(
    containers: &Containers,
    spec: Spec,
    ask: &Ask,
) -> Result<(Container, UnixStream), ContainerError> {
    let (container, lock) = containers.create(spec)?;
    let failed = ContainerError::Keeper;
    let (own, theirs) = UnixStream::pair().map_err(failed)?;
    let mut words = vec![];
    push_message(&mut words, ask).map_err(std::io::Error::other).map_err(failed)?;
    std::io::Write::write_all(&mut &own, &words).map_err(failed)?;
    let paths = containers.paths();
    let program = std::env::current_exe().map_err(failed)?;
    let keeper = Command::new(program)
        .args(["keep", container.spec().id.as_str()])
        .env_clear()
        .envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("VMM_DATA", &paths.data)
        .env("VMM_RUNTIME", &paths.runtime)
        .current_dir("/")
        // Both are open in the keeper alone from now on: it is the lock that says that it lives.
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(lock.into_fd()))
        .stderr(Stdio::null())
        .spawn();
    match keeper {
        Ok(_) => Ok((container, own)),
        Err(e) => {
            if let Some(lock) = container.try_lock()? {
                container.remove(&lock)?;
            }
            Err(failed(e))
        }
    }
}
