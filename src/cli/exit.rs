//! The exit statuses, each a promise to scripts.

use std::process::ExitCode;

use crate::control::End;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered off or rebooted, or the user left the console.
    Success,
    /// The command line or the configuration is wrong.
    Config,
    /// The host cannot do what was asked.
    Host,
    /// The guest kernel panicked.
    Panic,
    /// The guest faulted beyond recovery.
    TripleFault,
    /// KVM failed.
    Kvm,
    /// Every CPU of the guest halted with interrupts disabled.
    Halted,
    /// A command about images or containers failed: what ran in a container, if anything, did not.
    Failed,
    /// A signal of this number ended the machine.
    Signal(u8),
    /// What a command in a container returned; 126 or 127 when it could not be started.
    Command(u8),
}

impl Exit {
    /// Every exit that is ours, and not by signal.
    pub const ALL: [Self; 8] = [
        Self::Success,
        Self::Config,
        Self::Host,
        Self::Panic,
        Self::TripleFault,
        Self::Kvm,
        Self::Halted,
        Self::Failed,
    ];

    /// The status the parent process sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Config => 2,
            Self::Host => 3,
            Self::Panic => 4,
            Self::TripleFault => 5,
            Self::Kvm => 6,
            Self::Halted => 7,
            Self::Failed => 125,
            Self::Signal(number) => number.saturating_add(128),
            Self::Command(status) => status,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<&End> for Exit {
    fn from(end: &End) -> Self {
        match end {
            End::PowerOff | End::Reset | End::UserQuit => Self::Success,
            End::Panic => Self::Panic,
            End::TripleFault => Self::TripleFault,
            End::Halted => Self::Halted,
            End::Kvm { .. } => Self::Kvm,
            End::Signal(number) => Self::Signal(u8::try_from(*number).unwrap_or(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_own_status() {
        let codes: std::collections::HashSet<_> = Exit::ALL.map(Exit::code).into();
        assert_eq!(codes.len(), Exit::ALL.len());
        assert_eq!(Exit::from(&End::Reset), Exit::Success);
        assert_eq!(Exit::from(&End::Signal(15)).code(), 143);
        assert_eq!(Exit::Signal(u8::MAX).code(), u8::MAX);
    }
}
