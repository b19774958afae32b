//! How times are distributed: a dot for each run, the median and its interval.

use super::rows::{Label, Rows, times};
use super::svg::Svg;
use super::{About, Room, can_be_drawn, drawn, figure, time};

/// The times of one row, in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Strip {
    /// Its name.
    pub name: String,
    /// All of them.
    pub samples: Vec<f64>,
    /// Their median.
    pub median: f64,
    /// An interval of the median.
    pub interval: Option<[f64; 2]>,
    /// Whether the others are compared with it.
    pub baseline: bool,
}

/// More dots than this would be a blot: so many of the same distribution stand for all.
const MOST_DOTS: usize = 240;

/// How far dots are from the middle of their row.
const SPREAD: f64 = 8.0;

/// A figure of strips; nothing without any.
pub fn strips(about: &About<'_>, strips: &[Strip]) -> String {
    let shown: Vec<&Strip> = strips.iter().filter(|strip| can_be_drawn(strip.median)).collect();
    if shown.is_empty() {
        return String::new();
    }
    figure(about, |room| Some(draw(room, &shown)))
}

fn draw(room: Room, strips: &[&Strip]) -> Svg {
    let label = |strip: &&Strip| Label { name: strip.name.clone(), value: time(strip.median) };
    let labels: Vec<_> = strips.iter().map(label).collect();
    let ends = |strip: &&Strip| {
        [strip.median].into_iter().chain(drawn(strip.interval).unwrap_or([strip.median; 2]))
    };
    let values = strips.iter().flat_map(|strip| ends(strip).chain(strip.samples.iter().copied()));
    let values: Vec<f64> = values.filter(|value| can_be_drawn(*value)).collect();
    let mut rows = Rows::new(room, &labels, "", times(&values));
    for (index, strip) in strips.iter().enumerate() {
        let middle = rows.middle(index);
        if let Some([low, high]) = drawn(strip.interval) {
            let (low, high) = (rows.axis.place(low), rows.axis.place(high));
            let tip = format!("{}: 95 % interval of the median", strip.name);
            let size = ((high - low).max(1.0), 14.0);
            rows.svg.rect((low, middle - 7.0), size, "interval", &tip);
        }
        for (number, sample) in dots(&strip.samples).into_iter().enumerate() {
            let at = (rows.axis.place(sample), middle + SPREAD * jitter(number));
            rows.svg.dot(at, 2.2, "dot");
        }
        let x = rows.axis.place(strip.median);
        rows.svg.line((x, middle - 11.0), (x, middle + 11.0), "median");
    }
    baseline(&mut rows, strips);
    rows.svg
}

/// A line down from the median of the baseline, to see who is on which side of it.
fn baseline(rows: &mut Rows, strips: &[&Strip]) {
    if let Some(strip) = strips.iter().find(|strip| strip.baseline)
        && strips.len() > 1
    {
        let x = rows.axis.place(strip.median);
        let (first, last) = (rows.middle(0) - 15.0, rows.middle(strips.len() - 1) + 15.0);
        rows.svg.line((x, first), (x, last), "baseline");
    }
}

/// The samples that are shown: all, or the quantiles that stand for them.
fn dots(samples: &[f64]) -> Vec<f64> {
    let mut shown: Vec<f64> = samples.iter().copied().filter(|s| can_be_drawn(*s)).collect();
    if shown.len() <= MOST_DOTS {
        return shown;
    }
    shown.sort_by(f64::total_cmp);
    let at = |k: usize| shown.get(k * (shown.len() - 1) / (MOST_DOTS - 1)).copied();
    (0..MOST_DOTS).filter_map(at).collect()
}

/// From -1 to 1, evenly and in no order one would see: the multiples of the golden ratio.
fn jitter(number: usize) -> f64 {
    (number as f64 * 0.618_033_988_75).fract() * 2.0 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strip(name: &str, samples: Vec<f64>, median: f64) -> Strip {
        Strip {
            name: name.to_owned(),
            samples,
            median,
            interval: Some([median, median]),
            baseline: false,
        }
    }

    fn about() -> About<'static> {
        About { title: "t", description: "d", caption: "c", legend: "" }
    }

    #[test]
    fn each_run_has_a_dot_in_each_drawing() {
        let all = [strip("a", vec![1.0, 2.0, 3.0], 2.0), strip("b", vec![5.0, f64::NAN], 5.0)];
        let html = strips(&about(), &all);
        assert_eq!(html.matches("<circle").count(), 2 * 4);
        assert_eq!(html.matches("class=\"median\"").count(), 2 * 2);
        assert_eq!(strips(&about(), &[]), "");
        assert_eq!(strips(&about(), &[strip("a", vec![], f64::INFINITY)]), "");
    }

    #[test]
    fn many_runs_keep_their_ends_and_their_middle() {
        let samples: Vec<f64> = (0..100_001).map(f64::from).collect();
        let shown = dots(&samples);
        assert_eq!(shown.len(), MOST_DOTS);
        assert_eq!((shown.first(), shown.last()), (Some(&0.0), Some(&100_000.0)));
        assert!((shown.get(MOST_DOTS / 2).unwrap() - 50_000.0).abs() < 500.0);
    }
}
