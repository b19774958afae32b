//! The elements of a drawing.

use std::fmt::Write as _;

use super::About;
use crate::page::escape;

/// Where a text is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A place, to the right and down, in the pixels of a page that is shown as it was drawn.
pub(super) type Point = (f64, f64);

/// A drawing in the making. Classes are those of the page's style.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// The size of the texts of a drawing.
pub(super) const TEXT: f64 = 13.0;
/// The size of the numbers on its axes.
pub(super) const SMALL: f64 = 12.0;

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// A text whose baseline is at `at`.
    pub(super) fn text(&mut self, at: Point, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let (x, y, text) = (number(at.0), number(at.1), escape(text));
        let _ = writeln!(
            self.body,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>"
        );
    }

    pub(super) fn line(&mut self, from: Point, to: Point, class: &str) {
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(number);
        let _ = writeln!(
            self.body,
            "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" class=\"{class}\"/>"
        );
    }

    /// A rectangle that says `tip` when it is pointed at.
    pub(super) fn rect(&mut self, at: Point, size: Point, class: &str, tip: &str) {
        let [x, y, width, height] = [at.0, at.1, size.0, size.1].map(number);
        let _ = writeln!(
            self.body,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" class=\"{class}\">{}</rect>",
            titled(tip)
        );
    }

    pub(super) fn dot(&mut self, at: Point, radius: f64, class: &str) {
        let [x, y, r] = [at.0, at.1, radius].map(number);
        let _ = writeln!(self.body, "<circle cx=\"{x}\" cy=\"{y}\" r=\"{r}\" class=\"{class}\"/>");
    }

    /// Straight lines from point to point.
    pub(super) fn polyline(&mut self, points: &[Point], class: &str) {
        let points: Vec<_> =
            points.iter().map(|(x, y)| format!("{},{}", number(*x), number(*y))).collect();
        let _ =
            writeln!(self.body, "<polyline points=\"{}\" class=\"{class}\"/>", points.join(" "));
    }

    /// The area inside of points, which says `tip` when it is pointed at.
    pub(super) fn polygon(&mut self, points: &[Point], class: &str, tip: &str) {
        let points: Vec<_> =
            points.iter().map(|(x, y)| format!("{},{}", number(*x), number(*y))).collect();
        let (points, tip) = (points.join(" "), titled(tip));
        let _ =
            writeln!(self.body, "<polygon points=\"{points}\" class=\"{class}\">{tip}</polygon>");
    }

    /// The drawing, of the class `class`.
    pub(super) fn render(&self, class: &str, about: &About<'_>) -> String {
        let Self { width, height, body } = self;
        let (width, height) = (number(*width), number(*height));
        let (title, description) = (titled(about.title), escape(about.description));
        format!(
            "<svg class=\"{class}\" role=\"img\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\n\
             {title}<desc>{description}</desc>\n{body}</svg>\n"
        )
    }
}

fn titled(text: &str) -> String {
    format!("<title>{}</title>", escape(text))
}

/// A coordinate, to a hundredth: finer than anything that shows it.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" { "0".to_owned() } else { short.to_owned() }
}

/// As wide as `text` may be, of size `size`, in the widest of the usual fonts without serifs.
pub(super) fn width(text: &str, size: f64) -> f64 {
    let of = |c: char| match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' => 0.36,
        'f' | 't' | 'r' | '(' | ')' | '-' | '/' => 0.46,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 1.02,
        '=' | '+' | '<' | '>' | '~' | '#' | 'A'..='Z' => 0.86,
        c if c.is_ascii() => 0.66,
        _ => 1.1,
    };
    text.chars().map(of).sum::<f64>() * size
}

/// `text`, or as much of its beginning as fits.
pub(super) fn shortened(text: &str, size: f64, room: f64) -> String {
    if width(text, size) <= room {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        short.push(c);
        if width(&short, size) + width("…", size) > room {
            short.pop();
            break;
        }
    }
    short + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_short() {
        assert_eq!([1.0, 1.5, 0.126, -0.001, 120.0].map(number), ["1", "1.5", "0.13", "0", "120"]);
    }

    #[test]
    fn text_is_cut_where_there_is_no_room() {
        assert_eq!(shortened("vmm", TEXT, 100.0), "vmm");
        let short = shortened(&"W".repeat(100), TEXT, 100.0);
        assert!(short.ends_with('…') && width(&short, TEXT) <= 100.0, "{short}");
    }

    #[test]
    fn texts_and_tips_are_no_markup() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text((0.0, 0.0), Anchor::Start, "name", "<b>");
        svg.rect((0.0, 0.0), (1.0, 1.0), "x", "<b>");
        let about = About { title: "<b>", description: "<b>", caption: "", legend: "" };
        let text = svg.render("desk", &about);
        assert!(!text.contains("<b>") && text.matches("&lt;b&gt;").count() == 4, "{text}");
    }
}
