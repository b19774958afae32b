//! A plan carried out: every turn a run, every run a sample or a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::arm::{Arm, Instance};
use crate::clock::Moment;
use crate::launch::{Failure, Finished, launch, launch_machine};
use crate::leftovers;
use crate::plan::{Cache, Circumstances, Plan, Turn, Who};
use crate::stats::median;
use crate::timeline::Phase;
use crate::watch::Watch;

/// Processes that make up one turn of the control.
const CONTROLS: usize = 9;

/// What one turn took. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// From before the first process was made until the end of the last was seen.
    pub total: f64,
    /// Until the first byte of output, of one alone that printed something.
    pub first_output: Option<f64>,
    /// What the total is made of, of one alone.
    pub phases: Vec<(Phase, f64)>,
    /// Each by itself, when several were started at once.
    pub each: Vec<f64>,
    /// What the command itself has measured: see [`Measurement::read`].
    pub figures: Vec<Option<f64>>,
}

/// Takes what a command has measured from what it printed, or says why that is nothing of the kind.
pub type Read<'a> = &'a (dyn Fn(&[u8]) -> Result<Vec<Option<f64>>, String> + Sync);

/// What became of one arm under the same circumstances.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Samples by round.
    pub samples: BTreeMap<usize, Sample>,
    /// Failures by round; `None` for one of a turn that would not have counted.
    pub failures: Vec<(Option<usize>, String)>,
}

/// All that was found.
#[derive(Debug, Default)]
pub struct Found {
    /// By number of the arm and circumstances.
    pub series: BTreeMap<(usize, Circumstances), Series>,
    /// The control under each circumstances, in the order of its turns, in milliseconds.
    pub control: BTreeMap<Circumstances, Vec<f64>>,
    /// Arms whose warm-ups all failed: they have no turns after these.
    pub given_up: BTreeSet<usize>,
    /// Whether it ended before its end.
    pub interrupted: bool,
}

/// What carries out a plan.
pub struct Measurement<'a> {
    /// The arms, in order.
    pub arms: &'a [Box<dyn Arm>],
    /// How long a run may take.
    pub timeout: Duration,
    /// The command's program in the unpacked root file system.
    pub watch: Option<Watch>,
    /// What to read from its output, if it measures something.
    pub read: Option<Read<'a>>,
    /// Readable when no more is wanted.
    pub interrupt: BorrowedFd<'a>,
}

impl Measurement<'_> {
    /// Carries out `plan`, and says before each turn its number and which arm has it.
    pub fn perform(&self, plan: &Plan, mut progress: impl FnMut(usize, Option<usize>)) -> Found {
        let mut found = Found::default();
        let mut prints = false;
        for (number, turn) in plan.turns(self.arms.len()).iter().enumerate() {
            if found.gives_up(turn, plan.warm_ups) {
                continue;
            }
            progress(number, turn.who.arm());
            let interrupted = self.is_interrupted();
            let result = if interrupted {
                Err(Failure::Interrupted)
            } else {
                self.turn(turn, number, &mut prints)
            };
            if matches!(result, Err(Failure::Interrupted)) {
                found.interrupted = true;
                break;
            }
            found.take(turn, result);
        }
        found
    }

    /// Whether no more is wanted.
    pub fn is_interrupted(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.interrupt, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)) == Ok(1)
    }

    /// Runs a turn, and removes what it leaves; `prints` is whether the command has been seen to print.
    fn turn(&self, turn: &Turn, number: usize, prints: &mut bool) -> Result<Sample, Failure> {
        if turn.circumstances.cache == Cache::Cold {
            drop_caches().map_err(Failure::Watch)?;
        }
        let Who::Arm(index) = turn.who else { return self.control() };
        let Some(arm) = self.arms.get(index) else { return self.control() };
        let instance =
            |k: usize| Instance { name: format!("contrast-{}-{number}-{k}", std::process::id()) };
        let instances: Vec<_> = (0..turn.circumstances.parallel).map(instance).collect();
        let began = Instant::now();
        let results = self.burst(arm.as_ref(), &instances);
        for (instance, result) in instances.iter().zip(&results) {
            if result.is_err() {
                arm.clean(instance);
            }
        }
        let left = leftovers::settle();
        leftovers::calm(began.elapsed());
        let finished = results.into_iter().collect::<Result<Vec<_>, _>>()?;
        if !left.is_empty() {
            return Err(Failure::Leftovers(left));
        }
        let silent = finished.iter().any(|finished| finished.first_output.is_none());
        if silent && *prints {
            return Err(Failure::Silent);
        }
        *prints |= !silent;
        let mut sample = sample(arm.as_ref(), &finished);
        if let (Some(read), [alone]) = (self.read, &*finished) {
            sample.figures = read(&alone.output).map_err(Failure::Unreadable)?;
        }
        Ok(sample)
    }

    /// Runs as many as there are instances, all started at once.
    fn burst(&self, arm: &dyn Arm, instances: &[Instance]) -> Vec<Result<Finished, Failure>> {
        let run = |instance: &Instance, watch: Option<&Watch>, before: &dyn Fn()| {
            let (mut command, console) = (arm.command(instance), arm.console(instance));
            before();
            match console {
                Some(console) => {
                    launch_machine(&mut command, self.timeout, self.interrupt, console)
                }
                None => launch(&mut command, self.timeout, self.interrupt, watch),
            }
        };
        if let [alone] = instances {
            return vec![run(alone, self.watch.as_ref(), &|| {})];
        }
        let barrier = Barrier::new(instances.len());
        let wait = || {
            barrier.wait();
        };
        let (run, wait) = (&run, &wait);
        thread::scope(|scope| {
            let start = |instance| scope.spawn(move || run(instance, None, wait));
            let threads: Vec<_> = instances.iter().map(start).collect();
            let lost = || Failure::Watch(io::Error::other("the thread that watched it is gone"));
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(lost()))).collect()
        })
    }

    /// The middle one of several: one alone says more about chance than about the machine.
    ///
    /// # Errors
    /// A process that does nothing could not do that.
    pub fn control(&self) -> Result<Sample, Failure> {
        let one = || -> Result<f64, Failure> {
            let finished = launch(&mut Command::new("true"), self.timeout, self.interrupt, None)?;
            Ok(ms(finished.ended.since(finished.began)))
        };
        let all = (0..CONTROLS).map(|_| one()).collect::<Result<Vec<_>, _>>()?;
        let total = median(&all).unwrap_or_default();
        Ok(Sample { total, first_output: None, phases: vec![], each: vec![], figures: vec![] })
    }
}

impl Found {
    /// Whether this turn is of an arm that has failed in each of `warm_ups`.
    fn gives_up(&mut self, turn: &Turn, warm_ups: usize) -> bool {
        let (Who::Arm(arm), Some(_)) = (turn.who, turn.round) else { return false };
        let alone = Circumstances { cache: Cache::Warm, parallel: 1 };
        let failures = self.series.get(&(arm, alone)).map_or(&[][..], |series| &*series.failures);
        let failed = failures.iter().filter(|(round, _)| round.is_none()).count();
        let gives_up = warm_ups > 0 && failed == warm_ups;
        if gives_up {
            self.given_up.insert(arm);
        }
        gives_up
    }

    fn take(&mut self, turn: &Turn, result: Result<Sample, Failure>) {
        let Who::Arm(arm) = turn.who else {
            let control = self.control.entry(turn.circumstances).or_default();
            control.extend(result.ok().filter(|_| turn.round.is_some()).map(|s| s.total));
            return;
        };
        let series = self.series.entry((arm, turn.circumstances)).or_default();
        match (result, turn.round) {
            (Ok(sample), Some(round)) => drop(series.samples.insert(round, sample)),
            (Ok(_), None) => {}
            (Err(failure), round) => series.failures.push((round, failure.to_string())),
        }
    }
}

/// What those that were started at once took together.
fn sample(arm: &dyn Arm, finished: &[Finished]) -> Sample {
    let time = |one: &Finished| ms(one.ended.since(one.began));
    if let [alone] = finished {
        let mut stamps = arm.stamps(alone);
        // Where nobody knows when the program began, the time until it prints is not its own.
        if let Some(first) =
            alone.first_output.filter(|_| stamps.has(Phase::Exec) || stamps.has(Phase::Init))
        {
            stamps.put(Phase::FirstOutput, first);
        }
        let phases = stamps.phases(alone.began, alone.ended);
        return Sample {
            total: time(alone),
            first_output: alone.first_output.map(|first| ms(first.since(alone.began))),
            phases: phases.into_iter().map(|(phase, time)| (phase, ms(time))).collect(),
            each: vec![],
            figures: vec![],
        };
    }
    let began = finished.iter().map(|one| one.began).min().unwrap_or(Moment::from_nanos(0));
    let ended = finished.iter().map(|one| one.ended).max().unwrap_or(began);
    let each = finished.iter().map(time).collect();
    Sample {
        total: ms(ended.since(began)),
        first_output: None,
        phases: vec![],
        each,
        figures: vec![],
    }
}

/// Milliseconds.
fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Empties the page cache of what can be read again.
///
/// # Errors
/// Only root may.
pub fn drop_caches() -> io::Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")
}
