//! Every column filled: the probe started on the host, as a container and as a machine, each part within its time.
//! A part that fails is a reason in its place, and the others go on.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::answers::{self, Bomb, Hog};
use super::surface::{self, Progress, Surface, Whose};
use super::{Attack, Column, Seen, Side, hostile};
use crate::arm::{self, Instance, Setting};
use crate::clock::Moment;
use crate::launch::{Failure, Finished, launch_heard};
use crate::workload::Workload;
use crate::{inside, leftovers};

/// What the probe is asked for.
const WORDS: [&str; 3] = ["facts", "syscalls", "escapes"];
/// Processes that a container may have while one makes as many as it can.
const PIDS: u64 = 256;
/// The arm of machines.
const MACHINE: &str = "vmm";
/// Characters of a reason that are told.
const REASON: usize = 600;
/// What becomes of everything after an interrupt.
const INTERRUPTED: &str = "it was interrupted";

/// What is run, and how.
#[derive(Debug)]
pub struct Trial<'a> {
    /// The image with the probe; what is run in it is the probe.
    pub workload: &'a Workload,
    /// A directory for what the arms need.
    pub directory: &'a Path,
    /// The arm that makes the container.
    pub container: &'a str,
    /// The probe as a program of the host.
    pub probe: &'a Path,
    /// How long each part may take.
    pub timeout: Duration,
    /// Why nothing is attacked, if so.
    pub peaceful: Option<&'a str>,
    /// Readable when no more is wanted.
    pub interrupt: BorrowedFd<'a>,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// The host, the container, the machine.
    pub columns: Vec<Column>,
    /// The same, to be compared.
    pub sides: [Side; 3],
    /// Whether it ended before its end.
    pub interrupted: bool,
}

/// One column while it is filled.
struct Place<'a> {
    name: &'static str,
    arm: &'a str,
    whose: Whose,
}

impl Trial<'_> {
    /// Fills all columns, and says before each part what it is.
    pub fn perform(&self, mut progress: impl FnMut(&str)) -> Found {
        let mut state = State { trial: self, interrupted: false, number: 0 };
        let container = Place { name: "container", arm: self.container, whose: Whose::Probe };
        let machine = Place { name: "vm", arm: MACHINE, whose: Whose::Monitor };
        progress("host");
        let (host, seen) = state.host();
        let host_side = Side { seen, ..Side::unknown("the host is spared") };
        // What most lines are about comes first: an interrupt may come at any time.
        progress(container.name);
        let (mut one, one_seen) = state.column(&container);
        progress(machine.name);
        let (mut other, other_seen) = state.column(&machine);
        let container = state.trials(&container, one_seen, &mut one, &mut progress);
        let machine = state.trials(&machine, other_seen, &mut other, &mut progress);
        Found {
            columns: vec![host, one, other],
            sides: [host_side, container, machine],
            interrupted: state.interrupted,
        }
    }
}

struct State<'t, 'a> {
    trial: &'t Trial<'a>,
    interrupted: bool,
    /// Of the next start.
    number: usize,
}

impl State<'_, '_> {
    fn host(&mut self) -> (Column, Result<Seen, String>) {
        let mut command = Command::new(self.trial.probe);
        command.args(WORDS);
        let mut column = Column::new("host", "a process");
        column.command_lines.push(arm::describe(&command));
        let started = self.start(&mut command, &|_| ());
        let seen = column.take(whole(started, &leftovers::settle()));
        (column, seen)
    }

    fn column(&mut self, place: &Place<'_>) -> (Column, Result<Seen, String>) {
        let mut column = Column::new(place.name, place.arm);
        let seen = self.ask(place, &WORDS, None, None, &mut column);
        let seen = column.take(seen);
        (column, seen)
    }

    /// What is tried from outside.
    fn trials(
        &mut self,
        place: &Place<'_>,
        seen: Result<Seen, String>,
        column: &mut Column,
        progress: &mut impl FnMut(&str),
    ) -> Side {
        if seen.is_err() {
            return Side { seen, ..Side::unknown("its column has failed") };
        }
        let (hog, bomb) = match self.trial.peaceful {
            Some(why) => (Err(why.to_owned()), Err(why.to_owned())),
            None => {
                progress(&format!("{}: a process that takes memory", place.name));
                let hog = self.attack::<Hog>(place, "memory-hog", None, column);
                progress(&format!("{}: processes without end", place.name));
                (hog, self.attack::<Bomb>(place, "fork-bomb", Some(PIDS), column))
            }
        };
        progress(&format!("{}: system calls of the host", place.name));
        let surface = self.surface(place, column);
        column.surface = surface.clone().ok();
        Side { seen, hog, bomb, surface }
    }

    /// Has the probe do something, as the first process of a new container; how it is started goes to `column`.
    fn ask(
        &mut self,
        place: &Place<'_>,
        words: &[&str],
        pids: Option<u64>,
        progress: Option<&Progress>,
        column: &mut Column,
    ) -> Result<Finished, String> {
        if self.interrupted {
            return Err(INTERRUPTED.to_owned());
        }
        let mut workload = self.trial.workload.clone();
        workload.args = vec![inside::PROGRAM.to_owned()];
        workload.args.extend(words.iter().map(|word| (*word).to_owned()));
        workload.pids = pids;
        let setting = Setting { workload: &workload, directory: self.trial.directory };
        let arm = arm::open(place.arm, &setting).map_err(|absent| absent.0)?;
        let instance =
            Instance { name: format!("isolation-{}-{}", std::process::id(), self.number) };
        self.number += 1;
        let mut command = arm.command(&instance);
        column.version = Some(arm.version());
        column.command_lines.push(arm::describe(&command));
        let hear = |output: &[u8]| {
            if let Some(progress) = progress {
                progress.hear(output);
            }
        };
        let started = self.start(&mut command, &hear);
        if let Some(progress) = progress {
            // What is stopped to be counted would not be seen to end.
            progress.end();
        }
        if started.is_err() {
            arm.clean(&instance);
        }
        whole(started, &leftovers::settle())
    }

    fn start(&mut self, command: &mut Command, hear: &dyn Fn(&[u8])) -> Result<Finished, String> {
        let Trial { timeout, interrupt, .. } = *self.trial;
        let started = launch_heard(command, timeout, interrupt, None, hear);
        if matches!(started, Err(Failure::Interrupted)) {
            self.interrupted = true;
            return Err(INTERRUPTED.to_owned());
        }
        started.map_err(|failure| failure.to_string())
    }

    fn attack<T: serde::de::DeserializeOwned>(
        &mut self,
        place: &Place<'_>,
        word: &str,
        pids: Option<u64>,
        column: &mut Column,
    ) -> Result<Attack<T>, String> {
        let (answer, felt) = hostile::feel(|| self.ask(place, &[word], pids, None, column));
        let said = answers::object(&answer?)?;
        let said = said.get(word).ok_or("the probe says nothing about it")?;
        Ok(Attack { said: answers::read(said)?, felt })
    }

    fn surface(&mut self, place: &Place<'_>, column: &mut Column) -> Result<Surface, String> {
        let progress = Progress::default();
        thread::scope(|scope| {
            let counted = scope.spawn(|| surface::count(place.whose, &progress));
            let asked = self.ask(place, &["work"], None, Some(&progress), column);
            progress.end();
            let counted = counted.join().unwrap_or_else(|_| Err("the tracer is gone".to_owned()));
            asked.and(counted)
        })
    }
}

/// What a run said, unless something of it stayed.
fn whole(started: Result<Finished, String>, left: &[String]) -> Result<Finished, String> {
    match started {
        Ok(_) if !left.is_empty() => Err(format!("left processes behind: {}", left.join(", "))),
        started => started,
    }
}

impl Column {
    /// One of which nothing is known.
    fn new(name: &str, made_by: &str) -> Self {
        Self {
            name: name.to_owned(),
            made_by: made_by.to_owned(),
            version: None,
            command_lines: vec![],
            failed: None,
            answers: None,
            surface: None,
        }
    }

    /// Takes what the probe said, or why it said nothing.
    fn take(&mut self, finished: Result<Finished, String>) -> Result<Seen, String> {
        let taken = finished.and_then(|finished| {
            let said = answers::object(&finished)?;
            let between = [finished.began, finished.ended].map(seconds);
            let seen = Seen { answers: answers::read(&said)?, between };
            Ok((said, seen))
        });
        match taken {
            Ok((said, seen)) => {
                self.answers = Some(said);
                Ok(seen)
            }
            Err(why) => {
                let why = answers::cut(&why, REASON);
                self.failed = Some(why.clone());
                Err(why)
            }
        }
    }
}

fn seconds(moment: Moment) -> f64 {
    Duration::from_nanos(moment.nanos()).as_secs_f64()
}
