//! What times are made of: bars of parts, whose lengths add up.

use std::fmt::Write as _;

use super::axis::{Axis, Unit};
use super::rows::{Label, Rows};
use super::svg::{Anchor, SMALL, Svg, width};
use super::{About, Room, can_be_drawn, figure, time};
use crate::page::escape;

/// How many colours there are for parts.
const COLOURS: usize = 10;

/// Narrower parts, in pixels, have no edge.
const SLIM: f64 = 3.0;

/// A part of a bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// Which of the names it has.
    pub kind: usize,
    /// How long it took, in milliseconds.
    pub value: f64,
}

/// A bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// Its name.
    pub name: String,
    /// What it is made of, in order.
    pub parts: Vec<Part>,
}

impl Stack {
    fn total(&self) -> f64 {
        self.parts().map(|part| part.value).sum()
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| can_be_drawn(part.value))
    }
}

/// A figure of bars, whose parts are named `kinds`: times on one scale, or, with `shares`, the parts of each bar as
/// hundredths of it. Nothing where no bar has a length.
pub fn bars(about: &About<'_>, kinds: &[&str], stacks: &[Stack], shares: bool) -> String {
    let shown: Vec<&Stack> = stacks.iter().filter(|stack| stack.total() > 0.0).collect();
    if shown.is_empty() {
        return String::new();
    }
    figure(about, |room| Some(draw(room, kinds, &shown, shares)))
}

/// What the numbers and colours of the parts mean: those of `kinds` that some bar has.
pub fn legend(kinds: &[&str], stacks: &[Stack]) -> String {
    let mut html = "<ol class=\"legend\">\n".to_owned();
    for (kind, name) in kinds.iter().enumerate() {
        let mut parts = stacks.iter().flat_map(|stack| &stack.parts);
        if parts.any(|part| part.kind == kind && part.value > 0.0) {
            let (colour, number, name) = (kind % COLOURS, kind + 1, escape(name));
            let _ = writeln!(html, "<li><b class=\"p{colour}\">{number}</b> {name}</li>");
        }
    }
    html + "</ol>\n"
}

fn draw(room: Room, kinds: &[&str], stacks: &[&Stack], shares: bool) -> Svg {
    let label = |stack: &&Stack| Label { name: stack.name.clone(), value: time(stack.total()) };
    let labels: Vec<_> = stacks.iter().map(label).collect();
    let longest = stacks.iter().map(|stack| stack.total()).fold(0.0, f64::max);
    let (unit, most, note) = match shares {
        true => (Unit::Percent, 100.0, " of each mean"),
        false => (Unit::Time, longest, ""),
    };
    let mut rows = Rows::new(room, &labels, note, |run| Axis::linear(most, unit, run));
    for (index, stack) in stacks.iter().enumerate() {
        let scale = if shares { 100.0 / stack.total() } else { 1.0 };
        let middle = rows.middle(index);
        let mut sum = 0.0;
        for part in stack.parts() {
            let from = rows.axis.place(sum * scale);
            sum += part.value;
            let long = rows.axis.place(sum * scale) - from;
            segment(&mut rows.svg, (from, middle), long, part, kinds);
        }
    }
    rows.svg
}

/// A part, with its number where there is room for it.
fn segment(svg: &mut Svg, (from, middle): (f64, f64), long: f64, part: &Part, kinds: &[&str]) {
    let (colour, number) = (part.kind % COLOURS, (part.kind + 1).to_string());
    let name = kinds.get(part.kind).copied().unwrap_or_default();
    let tip = format!("{name}: {}", time(part.value));
    // An edge would hide what is hardly wider.
    let edge = if long < SLIM { " slim" } else { "" };
    svg.rect((from, middle - 11.0), (long, 22.0), &format!("part{edge} p{colour}"), &tip);
    if long >= width(&number, SMALL) + 6.0 {
        let at = (from + long / 2.0, middle + SMALL * 0.35);
        svg.text(at, Anchor::Middle, &format!("number q{colour}"), &number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [&str; 2] = ["kernel", "<run>"];

    fn stack(values: [f64; 2]) -> Stack {
        let parts = values.into_iter().enumerate().map(|(kind, value)| Part { kind, value });
        Stack { name: "vmm".to_owned(), parts: parts.collect() }
    }

    fn widths(html: &str) -> Vec<f64> {
        let rects = html.split("<rect ").skip(1).filter_map(|rest| rest.split_once(" width=\""));
        rects.filter_map(|(_, rest)| rest.split('"').next()?.parse().ok()).collect()
    }

    #[test]
    fn lengths_of_parts_add_up_to_the_whole() {
        let about = About { title: "t", description: "d", caption: "c", legend: "" };
        let html = bars(&about, &KINDS, &[stack([30.0, 70.0]), stack([5.0, 5.0])], false);
        let widths = widths(&html);
        let [a, b, c, d, ..] = widths.as_slice() else { panic!("{html}") };
        assert!(
            (a / b - 30.0 / 70.0).abs() < 0.01 && (c / a - 5.0 / 30.0).abs() < 0.01,
            "{widths:?}"
        );
        assert!(((c + d) / (a + b) - 0.1).abs() < 0.01);
        let html = bars(&about, &KINDS, &[stack([30.0, 70.0]), stack([3.0, 7.0])], true);
        let widths = self::widths(&html);
        assert!((widths.first().unwrap() - widths.get(2).unwrap()).abs() < 0.02, "{widths:?}");
        assert_eq!(bars(&about, &KINDS, &[stack([0.0, f64::NAN])], false), "");
    }

    #[test]
    fn legend_names_what_is_there_and_nothing_else() {
        let html = legend(&KINDS, &[stack([0.0, 1.0])]);
        assert!(html.contains("&lt;run&gt;") && !html.contains("kernel"), "{html}");
    }
}
