//! Times that depend on a number: a curve for each of several things, named at its end.

use super::axis::{Axis, Run, Unit};
use super::svg::{Anchor, Point, SMALL, Svg, TEXT, shortened, width};
use super::{About, Room, can_be_drawn, drawn, figure, time};

/// A measured point of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spot {
    /// The number, at least 1.
    pub x: f64,
    /// The time, in milliseconds.
    pub y: f64,
    /// An interval of the time.
    pub interval: Option<[f64; 2]>,
}

/// A curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// Its points.
    pub spots: Vec<Spot>,
}

/// How many colours and shapes there are: together they tell forty apart.
const COLOURS: usize = 8;
const SHAPES: usize = 5;

/// From name to name.
const LINE: f64 = 17.0;
const NAMES: [(Room, f64); 2] = [(Room::Desk, 200.0), (Room::Phone, 112.0)];
/// Above the curves: the title of the axis of times.
const HEAD: f64 = 28.0;
const FOOT: f64 = 46.0;

/// A figure of curves over the number that `across` names; nothing without any.
pub fn curves(about: &About<'_>, across: &str, curves: &[Curve]) -> String {
    let well = |spot: &&Spot| can_be_drawn(spot.y) && can_be_drawn(spot.x) && spot.x >= 1.0;
    let clean = |curve: &Curve| {
        let mut spots: Vec<Spot> = curve.spots.iter().filter(well).copied().collect();
        spots.sort_by(|a, b| a.x.total_cmp(&b.x));
        Curve { name: curve.name.clone(), spots }
    };
    let shown: Vec<Curve> = curves.iter().map(clean).filter(|c| !c.spots.is_empty()).collect();
    if shown.is_empty() {
        return String::new();
    }
    figure(about, |room| Some(Plot::new(room, &shown).draw(across, &shown)))
}

/// Where things are in a drawing of curves.
struct Plot {
    room: Room,
    names: f64,
    from: f64,
    to: f64,
    bottom: f64,
    most: f64,
    axis: Axis,
}

impl Plot {
    fn new(room: Room, curves: &[Curve]) -> Self {
        let most = curves.iter().flat_map(|c| &c.spots).map(|spot| spot.x).fold(1.0, f64::max);
        let usual = if room == Room::Desk { 320.0 } else { 260.0 };
        let bottom = HEAD + f64::max(usual, curves.len() as f64 * LINE);
        let limit = NAMES.iter().find(|(own, _)| *own == room).map_or(100.0, |(_, limit)| *limit);
        let widest = curves.iter().map(|curve| width(&curve.name, TEXT)).fold(0.0, f64::max);
        let names = widest.min(limit);
        let axis = Axis::of(&values(curves), Unit::Time, Run::Up(bottom, HEAD + 6.0));
        let labels = axis.labels();
        let left = labels.iter().map(|(_, _, text)| width(text, SMALL)).fold(0.0, f64::max);
        let (from, to) = (left + 16.0, room.width() - names - 34.0);
        Self { room, names, from, to, bottom, most, axis }
    }

    fn draw(&self, across: &str, curves: &[Curve]) -> Svg {
        let mut svg = Svg::new(self.room.width(), self.bottom + FOOT);
        self.axes(&mut svg, across, curves);
        for (index, curve) in curves.iter().enumerate() {
            let class = format!("curve s{}", index % COLOURS);
            let at = |spot: &Spot| (self.x(spot.x), self.axis.place(spot.y));
            let points: Vec<Point> = curve.spots.iter().map(at).collect();
            for spot in &curve.spots {
                if let Some([low, high]) = drawn(spot.interval) {
                    let x = self.x(spot.x);
                    let (low, high) = (self.axis.place(low), self.axis.place(high));
                    svg.line((x, low), (x, high), &class);
                }
            }
            svg.polyline(&points, &class);
            for (spot, at) in curve.spots.iter().zip(&points) {
                let tip = format!("{}, {}: {}", curve.name, spot.x, time(spot.y));
                marker(&mut svg, *at, index, &tip);
            }
        }
        self.names(&mut svg, curves);
        svg
    }

    /// Numbers double from step to step of equal length.
    fn x(&self, value: f64) -> f64 {
        if self.most <= 1.0 {
            return f64::midpoint(self.from, self.to);
        }
        self.from + 8.0 + value.ln() / self.most.ln() * (self.to - self.from - 8.0)
    }

    fn axes(&self, svg: &mut Svg, across: &str, curves: &[Curve]) {
        for (middle, _, text) in self.axis.labels() {
            svg.line((self.from, middle), (self.to, middle), "grid");
            svg.text((self.from - 8.0, middle + SMALL * 0.35), Anchor::End, "tick", &text);
        }
        svg.text((0.0, SMALL), Anchor::Start, "tick", &self.axis.title());
        let mut numbers: Vec<f64> =
            curves.iter().flat_map(|c| &c.spots).map(|spot| spot.x).collect();
        numbers.sort_by(f64::total_cmp);
        let mut end = f64::NEG_INFINITY;
        for number in numbers {
            let (x, text) = (self.x(number), number.to_string());
            let half = width(&text, SMALL) / 2.0;
            if x - half > end {
                svg.text((x, self.bottom + SMALL + 5.0), Anchor::Middle, "tick", &text);
                end = x + half + 6.0;
            }
        }
        svg.text((self.to, self.bottom + FOOT - 6.0), Anchor::End, "tick", across);
    }

    /// The names of the curves to the right of their ends, moved apart where they would meet.
    fn names(&self, svg: &mut Svg, curves: &[Curve]) {
        let ends: Vec<Point> = curves
            .iter()
            .filter_map(|curve| curve.spots.last())
            .map(|spot| (self.x(spot.x), self.axis.place(spot.y)))
            .collect();
        let heights: Vec<f64> = ends.iter().map(|(_, y)| *y).collect();
        let places = apart(&heights, (HEAD + LINE / 2.0, self.bottom));
        let left = self.room.width() - self.names;
        for (index, ((curve, end), y)) in curves.iter().zip(&ends).zip(places).enumerate() {
            svg.line((end.0 + 6.0, end.1), (left - 14.0, y), "leader");
            marker(svg, (left - 9.0, y), index, &curve.name);
            let name = shortened(&curve.name, TEXT, self.names);
            svg.text((left, y + TEXT * 0.35), Anchor::Start, "name", &name);
        }
    }
}

fn values(curves: &[Curve]) -> Vec<f64> {
    let of = |spot: &Spot| [spot.y].into_iter().chain(drawn(spot.interval).unwrap_or([spot.y; 2]));
    let all = curves.iter().flat_map(|curve| curve.spots.iter().flat_map(of));
    all.filter(|value| can_be_drawn(*value)).collect()
}

/// As near to `heights` as it goes when all are at least a line apart and, if there is room, between the limits.
fn apart(heights: &[f64], (top, bottom): (f64, f64)) -> Vec<f64> {
    let mut order: Vec<(usize, f64)> = heights.iter().copied().enumerate().collect();
    order.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    let mut limit = top;
    for (_, height) in &mut order {
        *height = height.max(limit);
        limit = *height + LINE;
    }
    let mut limit = bottom;
    for (_, height) in order.iter_mut().rev() {
        *height = height.min(limit);
        limit = *height - LINE;
    }
    order.sort_by_key(|(index, _)| *index);
    order.into_iter().map(|(_, height)| height).collect()
}

/// The sign of a curve: by its shape, and by its colour besides.
fn marker(svg: &mut Svg, (x, y): Point, index: usize, tip: &str) {
    let shape: &[Point] = match index % SHAPES {
        0 => &[
            (-4.0, -1.7),
            (-1.7, -4.0),
            (1.7, -4.0),
            (4.0, -1.7),
            (4.0, 1.7),
            (1.7, 4.0),
            (-1.7, 4.0),
            (-4.0, 1.7),
        ],
        1 => &[(-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)],
        2 => &[(0.0, -4.6), (4.4, 3.4), (-4.4, 3.4)],
        3 => &[(0.0, -5.0), (5.0, 0.0), (0.0, 5.0), (-5.0, 0.0)],
        _ => &[(0.0, 4.6), (4.4, -3.4), (-4.4, -3.4)],
    };
    let points: Vec<Point> = shape.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
    svg.polygon(&points, &format!("sign s{}", index % COLOURS), tip);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_meet_and_stay_in_their_order() {
        let heights = [100.0, 101.0, 99.0, 300.0, 299.0, 10.0];
        let places = apart(&heights, (20.0, 300.0));
        for (index, one) in places.iter().enumerate() {
            assert!((20.0..=300.0).contains(one), "{places:?}");
            for other in places.iter().skip(index + 1) {
                assert!((one - other).abs() >= LINE - 1e-9, "{places:?}");
            }
        }
        assert!(places[2] < places[0] && places[0] < places[1] && places[4] < places[3]);
    }

    #[test]
    fn each_point_has_a_sign_and_each_curve_a_name() {
        let spot = |x: f64| Spot { x, y: 10.0 * x, interval: Some([9.0 * x, 11.0 * x]) };
        let all = ["a", "b"]
            .map(|name| Curve { name: name.to_owned(), spots: vec![spot(4.0), spot(1.0)] });
        let about = About { title: "t", description: "d", caption: "c", legend: "" };
        let html = curves(&about, "at once", &all);
        assert_eq!(html.matches("<polygon").count(), 2 * 2 * 3);
        assert_eq!(html.matches("class=\"name\"").count(), 2 * 2);
        let broken = Curve {
            name: "c".to_owned(),
            spots: vec![Spot { x: 0.0, y: f64::NAN, interval: None }],
        };
        assert_eq!(curves(&about, "at once", &[broken]), "");
    }
}
