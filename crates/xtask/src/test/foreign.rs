//! The tests for an emulated host of another architecture: those that boot guests, some with a guest that needs no
//! kernel, and the unit tests. What runs natively on this machine has no other place on that architecture.

use std::io;
use std::path::Path;

use anyhow::{Result, ensure};

use super::draw::turns;
use super::guest::{self, PROGRAMS, Tests};
use super::usual::{self, Listed};
use crate::arch::Arch;
use crate::host::Job;
use crate::workspace::{self, GuestTest, Program};

/// Prints what each program in `$1` that is named after it says to be its tests, and a line behind each.
const LIST: &str = r#"
programs=$1
shift
for program; do
    "$programs/$program" --list || exit
    echo end of list
done
"#;
const END_OF_LIST: &str = "end of list\n";

/// Builds tests for hosts of `arch` and finds out which of them to run: those whose names contain `filter`, or the
/// usual ones.
///
/// # Errors
/// They do not build, a host cannot list them, or one that is usual is not there.
pub(super) fn tests(arch: Arch, declared: &[GuestTest], filter: Option<&str>) -> Result<Tests> {
    let is_declared = |name: &str| declared.iter().any(|test| test.name == name);
    let bare = usual::GUESTS.iter().map(|(name, _)| *name);
    let bare: Vec<_> = bare.filter(|name| !is_declared(name)).collect();
    let (bare, monitor) = workspace::build_tests_of_vmm(arch, &bare)?;
    let mut guests = workspace::build_guest_tests(arch, declared)?;
    guests.extend(bare);
    let usual_units: Vec<_> = usual::UNITS.iter().map(|(package, _)| *package).collect();
    let packages = if filter.is_some() { &[][..] } else { &usual_units };
    let mut units = workspace::build_unit_tests(arch, packages)?;
    let (listed_guests, listed_units) = (list(arch, &guests)?, list(arch, &units)?);
    let on_gicv2_max = usual::among(usual::GICV2_MAX_GUESTS, &listed_guests)?;
    let (turns, gicv2_max_turns) = match filter {
        None => {
            let on_any = usual::among(usual::GUESTS, &listed_guests)?;
            let units = usual::unit_turns(usual::UNITS, &listed_units)?;
            let others = usual::unit_turns(usual::GICV2_MAX_UNITS, &listed_units)?;
            (
                units.into_iter().chain(turns_with(&on_any, "")).collect(),
                others.into_iter().chain(turns_with(&on_gicv2_max, "")).collect(),
            )
        }
        Some(filter) => {
            let others = usual::units(usual::GICV2_MAX_UNITS, &listed_units);
            let all = [listed_guests, listed_units].concat();
            (turns_with(&all, filter), turns_with(&[others, on_gicv2_max].concat(), filter))
        }
    };
    guests.append(&mut units);
    Ok(Tests { programs: guests, turns, gicv2_max_turns, in_place: vec![monitor] })
}

/// The turns of those tests of `listed` whose names contain `filter`.
fn turns_with(listed: &[Listed], filter: &str) -> Vec<String> {
    let of_program = |listed: &Listed| -> Vec<_> {
        let names = listed.tests.iter().filter(|name| name.contains(filter)).cloned();
        turns(&listed.program, &names.collect::<Vec<_>>()).collect()
    };
    listed.iter().flat_map(of_program).collect()
}

/// Has a host list the tests of `programs`, which this machine cannot run.
fn list(arch: Arch, programs: &[Program]) -> Result<Vec<Listed>> {
    let mut job = Job::new(["sh", "-c", LIST, "tests", PROGRAMS]);
    job.arch = arch;
    for Program { name, path } in programs {
        job.command.push(name.into());
        job.copy.push((path.clone(), Path::new(PROGRAMS).join(name)));
    }
    let mut output = vec![];
    let status = job.relay_to(&mut output, &mut io::stderr())?;
    ensure!(status == 0, "a test program that was to list its tests ended with {status}");
    listed(programs.iter().map(|program| program.name.as_str()), &String::from_utf8_lossy(&output))
}

/// What [`LIST`] printed for the programs with these `names`.
fn listed<'a>(names: impl Iterator<Item = &'a str>, output: &str) -> Result<Vec<Listed>> {
    let mut lists = output.split_terminator(END_OF_LIST);
    let of_program = |name: &str| {
        let tests = guest::listed(lists.next().unwrap_or_default());
        Listed { program: name.to_owned(), tests }
    };
    let listed: Vec<_> = names.map(of_program).collect();
    ensure!(lists.next().is_none(), "more lists of tests than programs");
    Ok(listed)
}
