//! What is found where an arm has several figures.

use std::collections::BTreeMap;

use serde::Serialize;

/// What a figure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Why an arm may have none.
    pub absent: &'static str,
}

/// What was found in one arm.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rounds {
    /// The value of each figure, by round.
    pub values: BTreeMap<usize, Vec<Option<f64>>>,
    /// Failures by round; `None` for one of a turn that would not have counted.
    pub failures: Vec<(Option<usize>, String)>,
    /// What the host said after each further instance.
    pub steps: Vec<Step>,
    /// Why there was no further instance.
    pub stopped: Option<String>,
}

impl Rounds {
    /// The rounds that have the figure of this number.
    pub(crate) fn of(&self, figure: usize) -> impl Iterator<Item = (usize, f64)> {
        self.values.iter().filter_map(move |(round, all)| Some((*round, (*all.get(figure)?)?)))
    }
}

/// What the host said with so many instances. Sizes are in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Step {
    /// Instances.
    pub count: usize,
    /// What programs could still get.
    pub available: f64,
    /// Proportional set sizes of all processes of all instances.
    pub pss: f64,
}
