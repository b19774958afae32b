//! One row for each of several things, above a common axis: what strips and bars share.

use super::Room;
use super::axis::{Axis, Run, Unit};
use super::svg::{Anchor, SMALL, Svg, TEXT, shortened, width};

/// What stands beside the marks of a row.
#[derive(Debug, Clone)]
pub(super) struct Label {
    pub(super) name: String,
    pub(super) value: String,
}

/// A drawing with its axis and the labels of its rows; what is missing are the marks.
pub(super) struct Rows {
    pub(super) svg: Svg,
    pub(super) axis: Axis,
    room: Room,
}

/// Names get so much room at most, beside the marks.
const NAMES: f64 = 220.0;
/// Between a label and the marks.
const GAP: f64 = 16.0;
/// Beside the marks where labels stand above them.
const MARGIN: f64 = 6.0;
/// Below the rows: the axis, its numbers, its title.
const FOOT: f64 = 46.0;
const HEAD: f64 = 4.0;

const fn height(room: Room) -> f64 {
    match room {
        Room::Desk => 36.0,
        Room::Phone => 50.0,
    }
}

impl Rows {
    /// Rows for `labels`; `axis` makes the axis that runs as it is told.
    pub(super) fn new(
        room: Room,
        labels: &[Label],
        unit: &str,
        axis: impl Fn(Run) -> Axis,
    ) -> Self {
        let bottom = HEAD + height(room) * labels.len() as f64;
        let all = room.width();
        let widest = |text: fn(&Label) -> &str| {
            labels.iter().map(|label| width(text(label), TEXT)).fold(0.0, f64::max)
        };
        let values = widest(|label| &label.value);
        let (names, from, to) = match room {
            Room::Desk => {
                let names = widest(|label| &label.name).min(NAMES);
                (names, names + GAP, all - values - GAP)
            }
            Room::Phone => (all - values - GAP, MARGIN, all - MARGIN),
        };
        let axis = axis(Run::Across(from, to, all));
        let mut rows = Self { svg: Svg::new(all, bottom + FOOT), axis, room };
        rows.foot(bottom, unit);
        for (index, label) in labels.iter().enumerate() {
            let base = match room {
                Room::Desk => rows.middle(index) + TEXT * 0.35,
                Room::Phone => HEAD + height(room) * index as f64 + TEXT + 2.0,
            };
            let name = shortened(&label.name, TEXT, names);
            rows.svg.text((0.0, base), Anchor::Start, "name", &name);
            rows.svg.text((all, base), Anchor::End, "value", &label.value);
        }
        rows
    }

    /// The axis below all rows, and what `unit` adds to its title.
    fn foot(&mut self, bottom: f64, unit: &str) {
        for (middle, place, text) in self.axis.labels() {
            self.svg.line((place, HEAD), (place, bottom), "grid");
            self.svg.text((middle, bottom + SMALL + 4.0), Anchor::Middle, "tick", &text);
        }
        let title = format!("{}{unit}", self.axis.title());
        let end = (self.room.width(), bottom + FOOT - 6.0);
        self.svg.text(end, Anchor::End, "tick", &title);
    }

    /// How high the middle of the marks of a row is.
    pub(super) fn middle(&self, index: usize) -> f64 {
        let top = HEAD + height(self.room) * index as f64;
        match self.room {
            Room::Desk => top + height(self.room) / 2.0,
            Room::Phone => top + height(self.room) - 16.0,
        }
    }
}

/// An axis of times for all `values`.
pub(super) fn times(values: &[f64]) -> impl Fn(Run) -> Axis + '_ {
    move |run| Axis::of(values, Unit::Time, run)
}
