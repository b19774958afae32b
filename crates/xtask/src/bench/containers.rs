//! Containers: ours, each with a kernel of its own, beside those of runc and crun.

mod conversion;
mod runtime;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::figure::{Figure, Goal, Unit};
use super::idle::Overhead;
use super::inside::Inside;
use super::place::Place;
use super::record::{Arm, Records};
use super::run::{interleave, ms};
use super::{Context, idle};
use crate::arch::Arch;
use crate::artifacts;
use crate::cache::Cache;
use crate::images::{self, store};
use runtime::{ALL, Runtime, World, settle};

pub(super) use conversion::{GROUP as CONVERSION, inside as inside_conversion};

/// Name of the group.
pub(super) const GROUP: &str = "containers";

const RUNS: usize = 20;
/// Containers that are run at once, and how often: a part of all runs.
const CROWD: usize = 10;
const CROWDS_IN: usize = 4;
/// Containers that idle for a look at their memory.
const IDLE_IN: usize = 4;

/// What is measured: a container from exec to exit, alone and ten of them, and a further process.
const ONE: &str = "container";
const ALONE: &str = "container before ten";
const TEN: &str = "ten containers";
const EXEC: &str = "exec";

/// The steps that `vmm run --timing` tells, and what it cannot see: its own process made and gone.
const STEPS: [&str; 6] = ["host set-up", "kernel", "agent", "exec", "run", "teardown"];
const OUTSIDE: &str = "process of the command";

/// Memory of the container whose machine has 128 MiB.
const IDLE_MEMORY: &str = "78m";
const MACHINE_KIB: u64 = 128 << 10;
const PARTS: [&str; 3] = ["guest memory touched", "monitor beyond it", "keeper"];

/// Measures and returns the figures.
///
/// # Errors
/// A run failed.
pub(super) fn figures(context: &Context, records: &mut Records) -> Result<Vec<Figure>> {
    let cache = Cache::of_user()?;
    let mut bundle = context.bundle(GROUP)?;
    let programs = context.helpers()?;
    for (name, path) in &programs {
        bundle.copy(name, path)?;
    }
    let importer = programs.iter().find(|(name, _)| name == store::IMPORTER);
    let (_, importer) = importer.context("there is no program that imports images")?;
    let mut list = artifacts::guest(&cache, Arch::X86_64, &["container"])?;
    list.extend(runtime::image(&cache, images::Name::Busybox)?);
    let artifacts = artifacts::disk(&cache, Arch::X86_64, &list)?;
    bundle.equip(artifacts, store::disk(&cache, Arch::X86_64, importer)?);
    records.merge(bundle.measure(Place::Emulated, GROUP, context.runs(RUNS))?);
    let mut figures = of_starts(records)?;
    figures.extend(of_memory(records)?);
    figures.extend(conversion::figures(context, &programs, records)?);
    Ok(figures)
}

fn of_starts(records: &Records) -> Result<Vec<Figure>> {
    let place = Place::Emulated.name();
    let between = |ours: (&str, Arm), peer: &str, arm: Arm, name: &str| -> Result<Figure> {
        Ok(Figure::between(records, ours, (peer, arm), GROUP)?.named(name, place))
    };
    let ours = |series, runtime: Runtime, name: &str| {
        between((series, Arm::Ours), &runtime.series(series), Arm::Peer, name)
    };
    let mut figures = vec![
        ours(ONE, Runtime::Runc, "container, exec to exit, to runc")?
            .with_goal(Goal::RatioAtMost(2.0)),
        ours(ONE, Runtime::Crun, "container, exec to exit, to crun")?,
    ];
    for step in STEPS.into_iter().chain([OUTSIDE]) {
        let name = format!("container, {step}");
        figures.push(Figure::of(records, &name, GROUP)?.named(&format!("of that: {step}"), place));
    }
    let name = format!("{CROWD} containers at once, to one");
    let crowd = between((TEN, Arm::Ours), ALONE, Arm::Ours, &name)?;
    figures.push(crowd.with_goal(Goal::RatioAtMost(5.0)));
    figures.push(ours(TEN, Runtime::Runc, &format!("{CROWD} containers at once, to runc"))?);
    let name = "further process in a container, exec to exit, to runc";
    figures.push(ours(EXEC, Runtime::Runc, name)?.with_goal(Goal::AtMost(60.0)));
    figures.push(ours(EXEC, Runtime::Crun, "further process in a container, to crun")?);
    Ok(figures)
}

fn of_memory(records: &Records) -> Result<Vec<Figure>> {
    let figure = |part: &&str| -> Result<Figure> {
        let figure = Figure::of(records, &memory(part), GROUP)?.in_unit(Unit::Mib);
        let name = format!("idle container, machine of 128 MiB: PSS of {part}");
        Ok(figure.named(&name, Place::Emulated.name()))
    };
    PARTS.iter().map(figure).collect()
}

fn memory(part: &str) -> String {
    format!("idle container, {part}")
}

/// Runs in the emulated host.
///
/// # Errors
/// A run failed.
pub(super) fn inside(inside: &mut Inside) -> Result<()> {
    let world = World::new(inside)?;
    for runtime in ALL {
        let command = world.run(runtime, 0);
        inside.describe_command(&runtime.series(ONE), runtime.arm(), &command)?;
    }
    let runs = inside.runs;
    eprintln!("bench: containers, {runs} of each kind");
    with_control(inside, runs, |inside, runtime, counts| one(inside, &world, runtime, counts))?;
    let crowds = runs.div_ceil(CROWDS_IN);
    eprintln!("bench: {CROWD} containers at once, {crowds} times of each kind");
    interleave(crowds, &ALL, |runtime, counts| crowd(inside, &world, runtime, counts))?;
    eprintln!("bench: further processes, {runs} of each kind");
    for runtime in ALL {
        world.start_sleeper(runtime)?;
        inside.describe_command(&runtime.series(EXEC), runtime.arm(), &world.exec(runtime))?;
    }
    with_control(inside, runs, |inside, runtime, counts| {
        let (time, _) = timed(&mut [world.exec(runtime)])?;
        inside.sample(&runtime.series(EXEC), runtime.arm(), ms(time), counts)
    })?;
    for runtime in ALL {
        world.end_sleeper(runtime)?;
    }
    eprintln!("bench: memory of idle containers");
    (0..runs.div_ceil(IDLE_IN)).try_for_each(|_| idle_container(inside, &world))
}

fn with_control(
    inside: &mut Inside,
    runs: usize,
    mut turn: impl FnMut(&mut Inside, Runtime, bool) -> Result<()>,
) -> Result<()> {
    let arms: Vec<_> = ALL.into_iter().map(Some).chain([None]).collect();
    interleave(runs, &arms, |runtime, counts| match runtime {
        Some(runtime) => turn(inside, runtime, counts),
        None => inside.control(GROUP, counts),
    })
}

/// One container; of ours, the steps too.
fn one(inside: &mut Inside, world: &World, runtime: Runtime, counts: bool) -> Result<()> {
    let (time, said) = timed(&mut [world.run(runtime, 0)])?;
    settle();
    let whole = ms(time);
    inside.sample(&runtime.series(ONE), runtime.arm(), whole, counts)?;
    if runtime != Runtime::Vmm {
        return Ok(());
    }
    let mut rest = whole;
    for step in STEPS {
        let time = runtime::step(&said, step).with_context(|| format!("no {step} in {said}"))?;
        rest -= time;
        inside.sample(&format!("container, {step}"), Arm::Ours, time, counts)?;
    }
    inside.sample(&format!("container, {OUTSIDE}"), Arm::Ours, rest, counts)
}

/// Several at once; of ours, one alone before them.
fn crowd(inside: &mut Inside, world: &World, runtime: Runtime, counts: bool) -> Result<()> {
    if runtime == Runtime::Vmm {
        let (time, _) = timed(&mut [world.run(runtime, 0)])?;
        settle();
        inside.sample(ALONE, Arm::Ours, ms(time), counts)?;
    }
    let mut all: Vec<_> = (0..CROWD).map(|number| world.run(runtime, number)).collect();
    let (time, _) = timed(&mut all)?;
    settle();
    inside.sample(&runtime.series(TEN), runtime.arm(), ms(time), counts)
}

/// The time from before the first process is made until the end of the last is seen; what the first has
/// said on standard error.
fn timed(commands: &mut [std::process::Command]) -> Result<(Duration, String)> {
    let started = Instant::now();
    let mut children = vec![];
    for command in commands.iter_mut() {
        children.push(command.spawn().context("start a container")?);
    }
    let mut outputs = vec![];
    for child in children {
        outputs.push(child.wait_with_output()?);
    }
    let time = started.elapsed();
    let mut said = vec![];
    for output in outputs {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "a container failed ({}): {text}", output.status);
        said.push(text);
    }
    Ok((time, said.into_iter().next().unwrap_or_default()))
}

/// A container that sleeps in a machine of 128 MiB: what its processes take of the host.
fn idle_container(inside: &mut Inside, world: &World) -> Result<()> {
    let (keeper, monitor) = world.start_idle(IDLE_MEMORY)?;
    std::thread::sleep(idle::SETTLE);
    let guest = Overhead::read(monitor, MACHINE_KIB)?;
    let keeper = Overhead::read(keeper, 0)?;
    world.end_sleeper(Runtime::Vmm)?;
    let kib = [guest.guest, guest.pss, keeper.pss];
    for (part, kib) in PARTS.iter().zip(kib) {
        inside.sample(&memory(part), Arm::Ours, kib as f64 / 1024.0, true)?;
    }
    Ok(())
}
