//! The owner of a machine: one thread, one event loop, and the reason why it ended.

mod console;
mod end;
mod event_loop;
mod explain;
mod metrics;
mod reload;
mod signals;
pub(crate) mod terminal;
mod trim;

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use tracing::info;

pub use end::{End, Ending};
pub use explain::Explanation;
pub use reload::Reread;
pub(crate) use signals::is_ignored;

use crate::config::VmConfig;
use crate::kvm::VcpuError;
use crate::machine::{ConsoleEnd, Machine, MachineError};
use event_loop::EventLoop;
use reload::Reload;

/// Why a machine could not be run.
#[derive(Debug, Error)]
pub enum ControlError {
    /// It could not be built.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Its vCPUs could not be started.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The event loop failed.
    #[error("run the event loop")]
    EventLoop(#[source] event_manager::Error),
    /// The counters have nowhere to go.
    #[error("open metrics file {}", path.display())]
    MetricsFile {
        /// The path as given.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// The host refused something the owner needs.
    #[error("{what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}

/// How a run ended, and what there is to say about it.
#[derive(Debug)]
pub struct Outcome {
    /// The reason.
    pub end: End,
    /// What is known about a run that failed.
    pub explanation: Option<Explanation>,
    /// The last lines of the console.
    pub console: Vec<String>,
}

/// Builds the machine that `config` describes, runs it to its end and says how it ended. On SIGUSR2
/// it asks `reread` for a newer configuration.
///
/// `announce` hears what the user has to know of it before it runs, in one line; `begins` is called right
/// before its first instruction.
///
/// # Errors
/// The machine could not be built or run; a machine that ran and failed is an [`Outcome`].
pub fn boot(
    config: VmConfig,
    reread: Reread,
    announce: impl Fn(&str),
    begins: impl FnOnce(),
) -> Result<Outcome, ControlError> {
    trim::share_one_heap();
    let ending = Arc::new(Ending::new().map_err(host("create an eventfd"))?);
    let mut machine = Machine::build(&config, &ending)?;
    let console = machine.take_console_end();
    if let ConsoleEnd::Pty(pty) = &console {
        announce(&format!("console is {}", pty.path));
    }
    let mut events = EventLoop::new(&config, &machine, console, &ending)?;
    begins();
    machine.start()?;
    let mut reload = Reload::new(config, reread);
    let end = match events.run(&machine, &mut reload)? {
        // The default command line has a kernel that panics restart at once.
        End::Reset if explain::panicked(&machine) => End::Panic,
        end => end,
    };
    info!("the machine ends: {end}");
    let explanation = Explanation::of(&end, &machine);
    let console = machine.console().last_lines(explain::LINES);
    events.finish(&machine);
    machine.close_on_exit();
    Ok(Outcome { end, explanation, console })
}

fn host(what: &'static str) -> impl FnOnce(std::io::Error) -> ControlError {
    move |source| ControlError::Host { what, source }
}
