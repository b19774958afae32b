//! An image of 500 MB made into a root file system: ours, and as umoci unpacks it. It takes no guest, so
//! that this machine is the place.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::super::Context;
use super::super::figure::{Figure, Goal};
use super::super::inside::Inside;
use super::super::place::{Place, VMM};
use super::super::record::{Arm, Records};
use super::super::run::{interleave, ms};
use crate::arch::Arch;
use crate::cache::Cache;
use crate::command;
use crate::images::Name;

/// Name of the measurement.
pub(in super::super) const GROUP: &str = "conversion";

const RUNS: usize = 8;
const LAYOUT: &str = "layout";
const SCRATCH: &str = "scratch";

/// Measures and returns the figure.
///
/// # Errors
/// A run failed.
pub(super) fn figures(
    context: &Context,
    programs: &[(String, PathBuf)],
    records: &mut Records,
) -> Result<Vec<Figure>> {
    let bundle = context.bundle(GROUP)?;
    for (name, path) in programs {
        bundle.copy(name, path)?;
    }
    let forms = Name::Big.ensure(&Cache::of_user()?, Arch::X86_64)?;
    let layout = forms.first().context("an image without a layout")?;
    symlink(&layout.path, bundle.path(LAYOUT)).context("point to the image")?;
    records.merge(bundle.measure(Place::Software, GROUP, context.runs(RUNS))?);
    let figure = Figure::of(records, GROUP, GROUP)?;
    let figure = figure.named("image of 500 MB: to a root file system, to umoci", "this machine");
    Ok(vec![figure.with_goal(Goal::RatioAtMost(2.0))])
}

/// Runs on this machine.
///
/// # Errors
/// A run failed.
pub(in super::super) fn inside(inside: &mut Inside) -> Result<()> {
    for arm in [Arm::Ours, Arm::Peer] {
        inside.describe_command(GROUP, arm, &convert(arm, inside))?;
    }
    let scratch = inside.file(SCRATCH);
    eprintln!("bench: conversion of an image, {} of each kind", inside.runs);
    interleave(inside.runs, &[Arm::Ours, Arm::Peer, Arm::Control], |arm, counts| {
        if arm == Arm::Control {
            return inside.control(GROUP, counts);
        }
        fs::create_dir_all(&scratch).context("make a directory")?;
        let started = Instant::now();
        command::run(&mut convert(arm, inside))?;
        let time = started.elapsed();
        fs::remove_dir_all(&scratch).context("remove what was made")?;
        // Writing it back would go on beside the next.
        rustix::fs::sync();
        inside.sample(GROUP, arm, ms(time), counts)
    })
}

fn convert(arm: Arm, inside: &Inside) -> Command {
    let (layout, scratch) = (inside.file(LAYOUT).display().to_string(), inside.file(SCRATCH));
    let mut command = if arm == Arm::Ours {
        let mut pull = Command::new(inside.file(VMM));
        pull.args(["pull", "--quiet", &format!("oci:{layout}")]).env("VMM_DATA", scratch);
        pull
    } else {
        let mut unpack = Command::new("umoci");
        unpack.args(["unpack", "--image", &format!("{layout}:latest")]);
        unpack.arg(scratch.join("bundle"));
        unpack
    };
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}
