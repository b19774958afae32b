//! Abuses of a queue, and what each must come to.

use super::driver::{Outcome, RUNNING};
use super::ring::{Contents, Desc, Ring};
use super::script::Script;
use super::subject::{Everything, RING, SUBJECTS, Subject, TOP, Works};

/// Entries of the queue of most cases.
pub const SIZE: u16 = 8;

/// That queue.
pub fn ring() -> Ring {
    Ring::at(RING, SIZE)
}

/// What a case must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The device needs a reset, and has raised the interrupt that says so.
    Broken,
    /// This many chains are returned.
    Returned(u16),
    /// The device is free to take either way.
    Either,
}

pub use Expected::{Broken, Either, Returned};

/// One way to abuse a queue.
pub struct Case {
    pub what: String,
    ring: Ring,
    features: u64,
    memory: Vec<(u64, Vec<u8>)>,
    expected: Expected,
}

impl Case {
    pub fn new(what: impl Into<String>, contents: &Contents, expected: Expected) -> Self {
        let memory = vec![(contents.address(), contents.bytes().to_vec())];
        Self { what: what.into(), ring: ring(), features: 0, memory, expected }
    }

    /// A chain from descriptor 0 on.
    pub fn chain(what: impl Into<String>, descriptors: &[Desc], expected: Expected) -> Self {
        let contents = ring().contents().descriptors(0, descriptors).available(&[0]);
        Self::new(what, &contents, expected)
    }

    /// The same, on another ring than the one the memory was laid out for.
    pub fn on(self, ring: Ring) -> Self {
        Self { ring, ..self }
    }

    pub fn with_features(self, features: u64) -> Self {
        Self { features, ..self }
    }

    pub fn with_memory(mut self, address: u64, bytes: Vec<u8>) -> Self {
        self.memory.push((address, bytes));
        self
    }

    pub fn perform(&self, subject: &Subject, script: &mut Script) -> Outcome {
        // A kick that is still on its way must not find the case half written.
        subject.device.reset(script);
        for (address, bytes) in &self.memory {
            script.copy(*address, bytes);
        }
        subject.start(script, self.features, &self.ring);
        subject.kick(script);
        // Queues that cannot be set up have no used index to look at.
        let looked_at = if self.ring.used < TOP - 64 { self.ring } else { ring() };
        match self.expected {
            Returned(count) => subject.device.settle(script, &looked_at, count),
            Broken => subject.device.settle(script, &looked_at, u16::MAX),
            Either => subject.device.settle_briefly(script, &looked_at, 1),
        }
    }

    pub fn check(&self, subject: &Subject, outcome: &Outcome, output: &[u8]) {
        let what = format!("{}: {}", subject.name, self.what);
        let state = outcome.state(output);
        match self.expected {
            Broken => state.expect_broken(&what),
            Returned(count) => state.expect_returned(count, &what),
            Either => assert_eq!(state.status & RUNNING, RUNNING, "{what}: {state:x?}"),
        }
    }
}

/// Performs the cases that `cases` makes for each device in one machine; after each case the
/// device must work.
pub fn perform(cases: impl Fn(&Subject) -> Vec<Case>) {
    let mut script = Script::new();
    let mut performed: Vec<(Subject, Case, Outcome, Works)> = Vec::new();
    for subject in SUBJECTS {
        for case in cases(&subject) {
            let outcome = case.perform(&subject, &mut script);
            let works = subject.works(&mut script);
            subject.device.reset(&mut script);
            performed.push((subject, case, outcome, works));
        }
    }
    let end = Everything::new().vmm(&script.then_reset()).run().expect(0);
    for (subject, case, outcome, works) in &performed {
        case.check(subject, outcome, &end.stdout);
        works.expect(&end.stdout, &case.what);
    }
}
