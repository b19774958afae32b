//! Axes: where a value stands, and which values are written beside them.

use super::svg::{SMALL, width};

/// What an axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Milliseconds, written as seconds where they are many.
    Time,
    /// Hundredths.
    Percent,
}

/// Which way an axis runs, and so what its labels have to keep clear of: each other, and the end of the drawing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Run {
    /// To the right, from one place to another, in a drawing of this width.
    Across(f64, f64, f64),
    /// Upwards, from one place to another.
    Up(f64, f64),
}

/// An axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    unit: Unit,
    run: Run,
    ticks: Vec<f64>,
}

/// Values whose largest is so many times the least are shown on a logarithmic axis.
const WIDE: f64 = 10.0;
/// From so many milliseconds on an axis counts seconds.
const MANY: f64 = 10_000.0;
/// Pixels between two labels; powers and their parts may stand closer, because they are counted by their names.
const CLEAR: f64 = 30.0;
const CLOSE: f64 = 12.0;
const LINE: f64 = 20.0;

impl Axis {
    /// An axis that has room for all `values`; logarithmic where they differ much.
    pub(super) fn of(values: &[f64], unit: Unit, run: Run) -> Self {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        if least.is_finite() && least > 0.0 && most / least >= WIDE {
            Self::logarithmic(least, most, unit, run)
        } else {
            Self::linear(most, unit, run)
        }
    }

    /// An axis from zero to `most`, where lengths mean something.
    pub(super) fn linear(most: f64, unit: Unit, run: Run) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let exponent = most.log10().floor() as i32;
        let mut axis = Self { low: 0.0, high: most, logarithmic: false, unit, run, ticks: vec![] };
        for step in
            (exponent - 2..=exponent + 1).flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * power(e)))
        {
            let count = (most / step - 1e-9).ceil().max(1.0);
            axis.high = step * count;
            axis.ticks = (0..=count as u32).map(|k| f64::from(k) * step).collect();
            if axis.fits() {
                break;
            }
        }
        axis
    }

    fn logarithmic(least: f64, most: f64, unit: Unit, run: Run) -> Self {
        let (bottom, top) = (least.log10().floor() as i32, most.log10().ceil() as i32);
        let all = (bottom..=top).flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * power(e)));
        let all: Vec<f64> = all.collect();
        let low = all.iter().copied().rfind(|tick| *tick <= least * (1.0 + 1e-9));
        let high = all.iter().copied().find(|tick| *tick >= most * (1.0 - 1e-9));
        let (low, high) = (low.unwrap_or(least), high.unwrap_or(most));
        let ticks = all.into_iter().filter(|tick| (low..=high).contains(tick)).collect();
        let mut axis = Self { low, high, logarithmic: true, unit, run, ticks };
        // Powers of ten, fewer and fewer of them.
        let mut every = 0;
        while !axis.fits() && every < top - bottom {
            every += 1;
            (axis.low, axis.high) = (power(bottom), power(top));
            axis.ticks = (bottom..=top).step_by(every.unsigned_abs() as usize).map(power).collect();
        }
        axis
    }

    /// Where `value` stands.
    pub(super) fn place(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
        } else {
            (value - self.low) / (self.high - self.low)
        };
        let (Run::Across(from, to, _) | Run::Up(from, to)) = self.run;
        from + part.clamp(0.0, 1.0) * (to - from)
    }

    /// Where the labels stand, the place of each value, and the labels.
    pub(super) fn labels(&self) -> Vec<(f64, f64, String)> {
        let label = |tick: &f64| {
            let (place, text) = (self.place(*tick), self.label(*tick));
            let half = width(&text, SMALL) / 2.0;
            let middle = match self.run {
                Run::Across(_, _, end) => place.min(end - half).max(half),
                Run::Up(..) => place,
            };
            (middle, place, text)
        };
        self.ticks.iter().map(label).collect()
    }

    /// What its numbers are.
    pub(super) fn title(&self) -> String {
        let unit = match self.unit {
            Unit::Percent => "%",
            Unit::Time if self.counts_seconds() => "seconds",
            Unit::Time => "milliseconds",
        };
        let kind = if self.logarithmic { ", logarithmic" } else { "" };
        format!("{unit}{kind}")
    }

    fn counts_seconds(&self) -> bool {
        self.unit == Unit::Time && self.high > MANY
    }

    fn label(&self, tick: f64) -> String {
        let scale = if self.counts_seconds() { 1e3 } else { 1.0 };
        let value = tick / scale;
        let step = match (self.logarithmic, self.ticks.get(1)) {
            (false, Some(step)) => step / scale,
            _ => value,
        };
        if value == 0.0 {
            return "0".to_owned();
        }
        if !(1e-4..1e7).contains(&value) {
            return format!("{value:.0e}");
        }
        let decimals = (-(step * (1.0 + 1e-9)).log10().floor()).clamp(0.0, 6.0) as usize;
        format!("{value:.decimals$}")
    }

    /// Whether no label touches another.
    fn fits(&self) -> bool {
        let labels = self.labels();
        let space = if self.logarithmic { CLOSE } else { CLEAR };
        let pairs = labels.iter().zip(labels.iter().skip(1));
        let clear =
            |((one, _, first), (two, _, second)): (&(f64, f64, String), &(f64, f64, String))| {
                let need = match self.run {
                    Run::Across(..) => (width(first, SMALL) + width(second, SMALL)) / 2.0 + space,
                    Run::Up(..) => LINE,
                };
                (two - one).abs() >= need
            };
        pairs.into_iter().all(clear)
    }
}

fn power(exponent: i32) -> f64 {
    10.0_f64.powi(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACROSS: Run = Run::Across(0.0, 300.0, 320.0);

    fn texts(axis: &Axis) -> Vec<String> {
        axis.labels().into_iter().map(|(_, _, text)| text).collect()
    }

    #[test]
    fn values_alike_begin_at_zero() {
        let axis = Axis::of(&[12.0, 70.0], Unit::Time, ACROSS);
        assert_eq!(texts(&axis), ["0", "20", "40", "60", "80"]);
        assert_eq!((axis.place(0.0), axis.place(80.0), axis.place(40.0)), (0.0, 300.0, 150.0));
        assert_eq!(axis.title(), "milliseconds");
        let axis = Axis::of(&[0.11, 0.3], Unit::Time, Run::Up(100.0, 0.0));
        assert_eq!(
            texts(&axis),
            ["0.0", "0.1", "0.2", "0.3"].map(|t| if t == "0.0" { "0" } else { t })
        );
    }

    #[test]
    fn values_that_differ_ten_times_have_a_logarithmic_axis() {
        let axis = Axis::of(&[18.0, 180.0], Unit::Time, ACROSS);
        assert_eq!(texts(&axis), ["10", "20", "50", "100", "200"]);
        assert!((axis.place(10.0), axis.place(200.0)) == (0.0, 300.0));
        assert_eq!(axis.title(), "milliseconds, logarithmic");
        let axis = Axis::of(&[0.02, 1e9], Unit::Time, ACROSS);
        assert!(texts(&axis).len() > 2 && axis.title().starts_with("seconds"), "{axis:?}");
    }

    #[test]
    fn labels_never_touch_and_stay_inside() {
        let values = [1e-9, 3e-3, 0.7, 1.0, 12.0, 999.0, 1001.0, 34_567.0, 9.9e8, 1e300];
        for least in values {
            for most in values.iter().filter(|most| **most >= least) {
                for run in [ACROSS, Run::Across(100.0, 260.0, 300.0), Run::Up(200.0, 20.0)] {
                    let axis = Axis::of(&[least, *most], Unit::Time, run);
                    assert!(axis.fits() && axis.ticks.len() >= 2, "{axis:?}");
                    assert!(axis.low <= least * 1.000_001 && axis.high * 1.000_001 >= *most);
                    for (middle, _, text) in axis.labels() {
                        if let Run::Across(_, _, end) = run {
                            let half = width(&text, SMALL) / 2.0;
                            assert!(middle - half >= -0.01 && middle + half <= end + 0.01);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_no_reason_to_fail() {
        assert_eq!(texts(&Axis::of(&[], Unit::Percent, ACROSS)).first().unwrap(), "0");
        assert!(Axis::of(&[0.0], Unit::Time, ACROSS).place(0.0).is_finite());
    }
}
