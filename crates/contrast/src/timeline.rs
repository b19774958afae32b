//! The phases of one run: what its time went into, the same names for every arm.

use std::time::Duration;

use crate::clock::Moment;

/// A step of a run. In this order they follow each other; an arm has those that it has and can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The process of the runtime is made and has become the runtime's program.
    Start,
    /// The runtime reads its command line and configuration.
    Parse,
    /// What the host has to provide is made: namespaces, control groups and mounts, or a machine.
    HostObjects,
    /// The guest's kernel, from its first instruction to its first process.
    Kernel,
    /// The first process makes the surroundings of the program.
    Init,
    /// The program takes the place of the process that was prepared for it.
    Exec,
    /// The program, until its first byte of output is read.
    FirstOutput,
    /// The program, until its end is known.
    Run,
    /// Nothing is left, and the end of the runtime is seen.
    Teardown,
    /// What no stamp tells apart.
    Gap,
}

impl Phase {
    /// All, in order.
    pub const ALL: [Self; 10] = [
        Self::Start,
        Self::Parse,
        Self::HostObjects,
        Self::Kernel,
        Self::Init,
        Self::Exec,
        Self::FirstOutput,
        Self::Run,
        Self::Teardown,
        Self::Gap,
    ];

    /// How reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Parse => "parse",
            Self::HostObjects => "host objects",
            Self::Kernel => "kernel",
            Self::Init => "init",
            Self::Exec => "exec",
            Self::FirstOutput => "first output",
            Self::Run => "run",
            Self::Teardown => "teardown",
            Self::Gap => "unattributed",
        }
    }
}

/// When phases of one run ended.
#[derive(Debug, Clone, Default)]
pub struct Stamps(Vec<(Phase, Moment)>);

impl Stamps {
    /// Notes that `phase` has ended at `moment`.
    pub fn put(&mut self, phase: Phase, moment: Moment) {
        self.0.push((phase, moment));
    }

    /// Whether it is known when `phase` ended.
    pub fn has(&self, phase: Phase) -> bool {
        self.0.iter().any(|(own, _)| *own == phase)
    }

    /// The times of all phases from `began` to `ended`. They make up the whole: what follows the last stamp is
    /// [`Phase::Gap`]. A stamp outside of the run, or before the one of an earlier phase, counts as the nearest
    /// moment that is possible.
    pub fn phases(&self, began: Moment, ended: Moment) -> Vec<(Phase, Duration)> {
        let mut stamps = self.0.clone();
        stamps.sort_by_key(|(phase, _)| *phase);
        stamps.push((Phase::Gap, ended));
        let mut last = began;
        let mut phases = vec![];
        for (phase, moment) in stamps {
            let moment = moment.clamp(last, ended.max(last));
            phases.push((phase, moment.since(last)));
            last = moment;
        }
        phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Moment {
        Moment::from_nanos(nanos)
    }

    fn phases(stamps: &[(Phase, u64)]) -> Vec<(Phase, u128)> {
        let mut all = Stamps::default();
        stamps.iter().for_each(|(phase, nanos)| all.put(*phase, at(*nanos)));
        let phases = all.phases(at(100), at(1000));
        assert_eq!(phases.iter().map(|(_, time)| time.as_nanos()).sum::<u128>(), 900);
        phases.into_iter().map(|(phase, time)| (phase, time.as_nanos())).collect()
    }

    #[test]
    fn phases_make_up_the_whole_and_the_rest_is_a_row_of_its_own() {
        let stamps = [(Phase::Exec, 400), (Phase::Parse, 150)];
        let expected = [(Phase::Parse, 50), (Phase::Exec, 250), (Phase::Gap, 600)];
        assert_eq!(phases(&stamps), expected);
        assert_eq!(phases(&[]), [(Phase::Gap, 900)]);
    }

    #[test]
    fn stamps_that_cannot_be_change_no_sum() {
        phases(&[(Phase::Parse, 0), (Phase::Exec, 5000), (Phase::Run, 300)]);
    }
}
