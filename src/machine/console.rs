//! Both ends of the guest's console: the device in the guest, and what it is connected to.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::MachineError;
use crate::config::{Console, Port, VmConfig, open_appended};
use crate::devices::console::{ConsoleInput, ConsoleOutput};
use crate::devices::virtio::console::{self as virtio, Endpoint, PortSocket, Terminal};

/// What the user has of the console.
pub enum ConsoleEnd {
    /// Nothing.
    Nothing,
    /// Standard input and output.
    Stdio,
    /// The end of a file.
    File(File),
    /// A pseudo-terminal.
    Pty(Pty),
}

/// A pseudo-terminal of the monitor's own.
pub struct Pty {
    /// The monitor's side; reading and writing never wait.
    pub master: File,
    /// Path of the other side.
    pub path: String,
    /// Kept open, so that nothing changes when somebody opens the other side and leaves it.
    _other_side: OwnedFd,
}

impl Pty {
    fn open() -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        // Nobody shares this opening.
        fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
        let path = ptsname(&master, Vec::new())?.to_string_lossy().into_owned();
        let other_side = ioctl_tiocgptpeer(&master, flags)?;
        // As it comes, it would send back to the guest whatever that prints.
        let mut modes = tcgetattr(&other_side)?;
        modes.make_raw();
        tcsetattr(&other_side, OptionalActions::Now, &modes)?;
        Ok(Self { master: master.into(), path, _other_side: other_side })
    }
}

/// The console of a machine that is being built.
pub(super) struct HostConsole {
    /// What the guest prints.
    pub(super) output: Arc<ConsoleOutput>,
    /// What is typed, where the virtio console is to fetch it.
    pub(super) input: Option<Arc<ConsoleInput>>,
    pub(super) end: ConsoleEnd,
}

impl HostConsole {
    pub(super) fn open(config: &VmConfig) -> Result<Self, MachineError> {
        let output = ConsoleOutput::new(config.console != Console::Off);
        let input = (config.console == Console::Virtio).then(ConsoleInput::new).transpose();
        let end = match &config.console {
            Console::Serial | Console::Virtio => ConsoleEnd::Stdio,
            Console::Off => ConsoleEnd::Nothing,
            Console::Pty => ConsoleEnd::Pty(Pty::open().map_err(MachineError::Pty)?),
            Console::File(path) => ConsoleEnd::File(
                open_appended(path)
                    .map_err(|source| MachineError::File { noun: "console", source })?,
            ),
        };
        Ok(Self {
            output: output.map(Arc::new).map_err(MachineError::EventFd)?,
            input: input.map_err(MachineError::EventFd)?.map(Arc::new),
            end,
        })
    }

    /// The virtio console device, where the machine has one.
    pub(super) fn device(
        &self,
        config: &VmConfig,
    ) -> Result<Option<virtio::Console>, MachineError> {
        if !config.has_virtio_console() {
            return Ok(None);
        }
        let console = self.input.as_ref().map(|input| -> Box<dyn Endpoint> {
            Box::new(Terminal::new(self.output.clone(), input.clone()))
        });
        let named = config.ports.iter().map(open_port).collect::<Result<Vec<_>, _>>()?;
        virtio::Console::new(console, named).map(Some).map_err(MachineError::EventFd)
    }
}

fn open_port(port: &Port) -> Result<(String, Box<dyn Endpoint>), MachineError> {
    let name = port.name.clone();
    match PortSocket::open(&port.socket) {
        Ok(socket) => Ok((name, Box::new(socket))),
        Err(source) => Err(MachineError::Port { name, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{ErrorKind, Read, Write};

    use super::*;

    #[test]
    fn pty_carries_bytes_unchanged_whoever_comes_and_goes() {
        let mut pty = Pty::open().unwrap();
        for _ in 0..2 {
            pty.master.write_all(b"out\n").unwrap();
            let mut user = OpenOptions::new().read(true).write(true).open(&pty.path).unwrap();
            let mut bytes = [0; 8];
            assert_eq!(user.read(&mut bytes).unwrap(), 4);
            assert_eq!(&bytes[..4], b"out\n");
            user.write_all(b"in\r").unwrap();
            assert_eq!(pty.master.read(&mut bytes).unwrap(), 3);
            assert_eq!(&bytes[..3], b"in\r");
            drop(user);
            let nothing = pty.master.read(&mut bytes).unwrap_err();
            assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        }
    }
}
