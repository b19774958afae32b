//! Plots as SVG, drawn by hand: no library, no script. Each is drawn twice, for a wide page and for a phone, so that
//! texts keep their size; the page shows the one that fits.

mod axis;
mod bars;
mod curves;
mod rows;
mod strips;
mod svg;

use super::escape;

pub use bars::{Part, Stack, bars, legend};
pub use curves::{Curve, Spot, curves};
pub use strips::{Strip, strips};

use svg::Svg;

/// What is known of a drawing besides its marks.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// What it shows.
    pub title: &'a str,
    /// The same as its marks, in words, for those who do not see them.
    pub description: &'a str,
    /// How to read it.
    pub caption: &'a str,
    /// Markup that stands above it, such as a [`legend`].
    pub legend: &'a str,
}

/// Where a drawing is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Desk,
    Phone,
}

impl Room {
    const fn width(self) -> f64 {
        match self {
            Self::Desk => 880.0,
            Self::Phone => 350.0,
        }
    }

    const fn class(self) -> &'static str {
        match self {
            Self::Desk => "desk",
            Self::Phone => "phone",
        }
    }
}

/// A figure of the drawings that `draw` makes for each room; nothing where there is nothing to draw.
fn figure(about: &About<'_>, draw: impl Fn(Room) -> Option<Svg>) -> String {
    let drawing = |room: Room| Some(draw(room)?.render(room.class(), about));
    let drawings: Option<String> = [Room::Desk, Room::Phone].into_iter().map(drawing).collect();
    let Some(drawings) = drawings else { return String::new() };
    let (legend, caption) = (about.legend, escape(about.caption));
    format!("<figure>\n{legend}{drawings}<figcaption>{caption}</figcaption>\n</figure>\n")
}

/// A time in words, of three digits or all before the point.
pub fn time(ms: f64) -> String {
    match ms {
        _ if !ms.is_finite() => "?".to_owned(),
        _ if ms >= 1e7 => format!("{:.0} s", ms / 1e3),
        _ if ms >= 99.95 => format!("{ms:.0} ms"),
        _ if ms >= 9.995 => format!("{ms:.1} ms"),
        _ => format!("{ms:.2} ms"),
    }
}

/// Whether a value has a place on an axis: nothing that was measured has not, but a report may be written by hand.
fn can_be_drawn(value: f64) -> bool {
    value == 0.0 || (1e-9..=1e15).contains(&value)
}

/// An interval, if both of its ends have a place.
fn drawn(interval: Option<[f64; 2]>) -> Option<[f64; 2]> {
    interval.filter(|ends| ends.iter().all(|end| can_be_drawn(*end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        let all = [0.5, 9.994, 9.996, 99.96, 1670.4, 2e7].map(time);
        assert_eq!(all, ["0.50 ms", "9.99 ms", "10.0 ms", "100 ms", "1670 ms", "20000 s"]);
    }
}
