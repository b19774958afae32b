//! From what was measured to lines with verdicts. A pure function: the same answers make the same lines.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::answers::shown;
use super::escapes::may_be_open;
use super::judge::{self, Kernel, Kind, Pair, Verdict};
use super::rules::{ESCAPES, KERNEL, LIMITS, RIGHTS, RULES, Rule, SIGHT};
use super::trials::{attacks, surfaces};
use super::{Seen, Side};

/// Ways out that are told, and characters of their names: what runs inside may name any.
const MOST: usize = 64;
const LONGEST: usize = 40;

/// Something that was measured in every column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Stays the same from report to report.
    pub id: String,
    /// What it belongs to.
    pub group: String,
    /// What was measured.
    pub what: String,
    /// How it was measured.
    pub how: String,
    /// The host's own; `None` where it has none, or none was measured.
    pub host: Option<String>,
    /// The container's.
    pub container: Cell,
    /// The machine's.
    pub vm: Cell,
}

/// What was measured in a column, and what it means beside the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// What was measured; `None` if nothing was.
    pub value: Option<String>,
    /// What it comes down to.
    pub verdict: Kind,
    /// The verdict as a sentence, or why there is none.
    pub says: String,
    /// Whether it is as it should be, where there is a should.
    pub expected: Option<bool>,
}

impl Cell {
    pub(super) fn unknown(why: &str) -> Self {
        let says = format!("not measured: {}", shown(why));
        Self { value: None, verdict: Kind::Unknown, says, expected: None }
    }

    pub(super) fn new(value: Option<&str>, verdict: &Verdict, expected: Option<bool>) -> Self {
        let value = value.map(shown);
        Self { value, verdict: verdict.kind, says: shown(&verdict.says), expected }
    }
}

/// All lines.
pub fn compare(host: &Side, container: &Side, vm: &Side) -> Vec<Line> {
    let of = |group: &'static str| RULES.iter().filter(move |rule| rule.group == group);
    let by_rule = |rule: &Rule| line(rule, host, container, vm);
    let mut lines: Vec<Line> =
        [KERNEL, SIGHT, RIGHTS, LIMITS].into_iter().flat_map(of).map(by_rule).collect();
    lines.extend(attacks(host, container, vm));
    lines.extend(surfaces(container, vm));
    let names: BTreeSet<&String> = [host, container, vm]
        .iter()
        .filter_map(|side| side.seen.as_ref().ok())
        .flat_map(|seen| seen.answers.escapes.keys())
        .collect();
    lines.extend(names.into_iter().take(MOST).map(|name| escape(name, host, container, vm)));
    lines
}

/// The identifiers of lines whose outcome is not as it should be.
pub fn unexpected(lines: &[Line]) -> Vec<String> {
    let is_wrong = |cell: &Cell| cell.expected == Some(false);
    let wrong = lines.iter().filter(|line| is_wrong(&line.container) || is_wrong(&line.vm));
    wrong.map(|line| line.id.clone()).collect()
}

/// The host and a column, if both have answered.
fn pair<'a>(host: &'a Side, side: &'a Side) -> Result<Pair<'a>, Cell> {
    let own = side.seen.as_ref().map_err(|_| Cell::unknown("its column has failed"))?;
    let host = host.seen.as_ref().map_err(|_| Cell::unknown("the host's column has failed"))?;
    Ok(Pair { host, own })
}

fn line(rule: &Rule, host: &Side, container: &Side, vm: &Side) -> Line {
    let cell = |side: &Side, machine: bool| match pair(host, side) {
        Err(cell) => cell,
        Ok(pair) => {
            let verdict = (rule.judge)(&pair);
            // What a machine is for.
            let expected = (machine && rule.id == "boot-id").then_some(verdict.kind == Kind::Own);
            Cell::new((rule.value)(&pair.own.answers).as_deref(), &verdict, expected)
        }
    };
    Line {
        id: rule.id.to_owned(),
        group: rule.group.to_owned(),
        what: rule.what.to_owned(),
        how: rule.how.to_owned(),
        host: host
            .seen
            .as_ref()
            .ok()
            .and_then(|seen| (rule.value)(&seen.answers))
            .as_deref()
            .map(shown),
        container: cell(container, false),
        vm: cell(vm, true),
    }
}

/// A name as part of an identifier, whatever it is.
fn identifier(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    name.chars().take(LONGEST).map(letter).collect()
}

fn escape(name: &str, host: &Side, container: &Side, vm: &Side) -> Line {
    let find = |side: &Side| {
        let seen: Option<&Seen> = side.seen.as_ref().ok();
        seen.and_then(|seen| seen.answers.escapes.get(name)).cloned()
    };
    let answer =
        |side: &Side| find(side).map(|escape| format!("{} ({})", escape.verdict, escape.answer));
    let cell = |side: &Side| match pair(host, side) {
        Err(cell) => cell,
        Ok(pair) => {
            let verdict = judge::escape(&pair, name);
            let open = matches!(verdict.kind, Kind::OwnOnly | Kind::Reaches);
            let expected = !open || may_be_open(name, pair.kernel() == Kernel::Own);
            Cell::new(answer(side).as_deref(), &verdict, Some(expected))
        }
    };
    let described = [container, vm, host].into_iter().find_map(find).unwrap_or_default();
    Line {
        id: format!("escape-{}", identifier(name)),
        group: ESCAPES.to_owned(),
        what: shown(&format!("{name}: {}", described.leads_to)),
        how: shown(&described.how),
        host: answer(host).as_deref().map(shown),
        container: cell(container),
        vm: cell(vm),
    }
}
