//! Statistics of times: order statistics, intervals by resampling, ratios of medians, drift.
//!
//! The same samples always give the same intervals: the generator behind them starts from the same seed.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Resamples behind an interval; more would change its third digit.
const RESAMPLES: usize = if cfg!(test) { 300 } else { 2000 };

/// What an interval covers.
pub const COVERAGE: f64 = 0.95;

/// A control whose halves differ by more than this makes a run doubtful.
pub const MAX_DRIFT: f64 = 0.10;

const SEED: u64 = 0x76_6d_6d;

/// Order statistics of one series. Quantiles are nearest ranks, the median is the middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many samples there are.
    pub n: usize,
    /// The least sample.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile; with fewer than 100 samples the largest.
    pub p99: f64,
}

impl Summary {
    /// The summary of `samples`; nothing without samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        Some(Self {
            n: sorted.len(),
            min: *sorted.first()?,
            p50: median_of_sorted(&sorted)?,
            p90: rank(&sorted, 0.90)?,
            p95: rank(&sorted, 0.95)?,
            p99: rank(&sorted, 0.99)?,
        })
    }

    /// The summary of one exact number.
    pub const fn exact(value: f64) -> Self {
        Self { n: 1, min: value, p50: value, p90: value, p95: value, p99: value }
    }
}

/// The median of `samples`.
pub fn median(samples: &[f64]) -> Option<f64> {
    median_of_sorted(&sorted(samples))
}

/// The mean of `samples`: unlike medians, means of parts add up to the mean of the whole.
pub fn mean(samples: &[f64]) -> Option<f64> {
    (!samples.is_empty()).then(|| samples.iter().sum::<f64>() / samples.len() as f64)
}

/// A 95 % bootstrap interval of the median of `samples`.
pub fn median_interval(samples: &[f64]) -> Option<[f64; 2]> {
    bootstrap(samples, median)
}

/// The ratio of two medians and an interval that covers it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Median of the first series over median of the second.
    pub value: f64,
    /// 95 % bootstrap interval.
    pub interval: [f64; 2],
}

impl Ratio {
    /// The ratio of `ours` to `peer`. The two are taken in pairs, so that what slowed both members
    /// of a pair down widens nothing.
    pub fn of(ours: &[f64], peer: &[f64]) -> Option<Self> {
        let pairs: Vec<(f64, f64)> = ours.iter().copied().zip(peer.iter().copied()).collect();
        let value = ratio_of_medians(&pairs)?;
        Some(Self { value, interval: bootstrap(&pairs, ratio_of_medians)? })
    }

    /// The ratio of two series that were not taken together: each is resampled by itself.
    pub fn of_unpaired(ours: &[f64], peer: &[f64]) -> Option<Self> {
        let value = quotient(median(ours)?, median(peer)?)?;
        let mut random = ChaCha8Rng::seed_from_u64(SEED);
        let mut ratios = Vec::with_capacity(RESAMPLES);
        for _ in 0..RESAMPLES {
            let first = median(&resample(ours, &mut random))?;
            ratios.extend(quotient(first, median(&resample(peer, &mut random))?));
        }
        Some(Self { value, interval: middle(&ratios)? })
    }
}

/// How much is added by one more: the slope of a line through points, by least squares.
#[derive(Clone, Debug, PartialEq)]
pub struct Slope {
    /// The slope.
    pub value: f64,
    /// The slopes of resamples.
    resampled: Vec<f64>,
}

impl Slope {
    /// The slope of the line through `points`; nothing if all are at the same place.
    pub fn of(points: &[(f64, f64)]) -> Option<Self> {
        let value = slope(points)?;
        let mut random = ChaCha8Rng::seed_from_u64(SEED);
        let resampled =
            (0..RESAMPLES).filter_map(|_| slope(&resample(points, &mut random))).collect();
        Some(Self { value, resampled })
    }

    /// A 95 % bootstrap interval, over points.
    pub fn interval(&self) -> Option<[f64; 2]> {
        middle(&self.resampled)
    }

    /// The ratio to another slope, which was taken apart from this one; nothing if that may be no rise at all.
    pub fn ratio(&self, peer: &Self) -> Option<Ratio> {
        peer.interval().filter(|[low, _]| *low > 0.0)?;
        let value = quotient(self.value, peer.value)?;
        let pairs = self.resampled.iter().zip(&peer.resampled);
        let ratios: Vec<f64> = pairs.filter_map(|(a, b)| quotient(*a, *b)).collect();
        Some(Ratio { value, interval: middle(&ratios)? })
    }
}

fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let (xs, ys): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
    let (x, y) = (mean(&xs)?, mean(&ys)?);
    let product: f64 = points.iter().map(|(a, b)| (a - x) * (b - y)).sum();
    let square: f64 = xs.iter().map(|a| (a - x) * (a - x)).sum();
    quotient(product, square)
}

/// By how much the median of the second half of `control` differs from that of the first, as a
/// fraction; nothing with fewer than two samples.
pub fn drift(control: &[f64]) -> Option<f64> {
    let (first, second) = control.split_at(control.len() / 2);
    Some((quotient(median(second)?, median(first)?)? - 1.0).abs())
}

/// The middle of what `statistic` makes of resamples.
fn bootstrap<T: Copy>(samples: &[T], statistic: fn(&[T]) -> Option<f64>) -> Option<[f64; 2]> {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let found = (0..RESAMPLES).filter_map(|_| statistic(&resample(samples, &mut random)));
    middle(&found.collect::<Vec<_>>())
}

/// As many of `samples` as there are, each chosen from all.
fn resample<T: Copy>(samples: &[T], random: &mut ChaCha8Rng) -> Vec<T> {
    let chosen =
        (0..samples.len()).filter_map(|_| samples.get(random.random_range(0..samples.len())));
    chosen.copied().collect()
}

/// What lies between the two tails of `values`.
fn middle(values: &[f64]) -> Option<[f64; 2]> {
    let sorted = sorted(values);
    let tail = (1.0 - COVERAGE) / 2.0;
    Some([rank(&sorted, tail)?, rank(&sorted, 1.0 - tail)?])
}

fn ratio_of_medians(pairs: &[(f64, f64)]) -> Option<f64> {
    let (ours, peer): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    quotient(median(&ours)?, median(&peer)?)
}

fn quotient(dividend: f64, divisor: f64) -> Option<f64> {
    (divisor != 0.0).then(|| dividend / divisor)
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median_of_sorted(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted.get(sorted.len() / 2 - 1)? + upper) / 2.0)
}

/// The nearest-rank quantile: the least sample that at least `fraction` of all do not exceed.
fn rank(sorted: &[f64], fraction: f64) -> Option<f64> {
    let place = (fraction * sorted.len() as f64).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times as they are found: a least time, and a tail on one side (an exponential distribution, whose
    /// median is known).
    fn times(least: f64, scale: f64, n: usize, random: &mut ChaCha8Rng) -> Vec<f64> {
        (0..n).map(|_| least - scale * (1.0 - random.random::<f64>()).ln()).collect()
    }

    fn true_median(least: f64, scale: f64) -> f64 {
        least + scale * std::f64::consts::LN_2
    }

    /// How many of 100 experiments have an interval around the truth.
    fn covered(truth: f64, mut experiment: impl FnMut() -> [f64; 2]) -> usize {
        let around = |[low, high]: [f64; 2]| low <= truth && truth <= high;
        (0..100).filter(|_| around(experiment())).count()
    }

    #[test]
    fn summary_orders_its_samples() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).unwrap();
        let expected = Summary { n: 100, min: 1.0, p50: 50.5, p90: 90.0, p95: 95.0, p99: 99.0 };
        assert_eq!(summary, expected);
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]).unwrap().p50, 2.0);
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
    }

    #[test]
    fn interval_of_the_median_covers_the_truth_as_often_as_it_says() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let truth = true_median(10.0, 3.0);
        let hits = covered(truth, || median_interval(&times(10.0, 3.0, 30, &mut random)).unwrap());
        assert!((88..=99).contains(&hits), "{hits} of 100");
    }

    #[test]
    fn interval_of_the_ratio_covers_the_truth_as_often_as_it_says() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let truth = true_median(10.0, 3.0) / true_median(40.0, 9.0);
        let hits = covered(truth, || {
            let (ours, peer) =
                (times(10.0, 3.0, 30, &mut random), times(40.0, 9.0, 30, &mut random));
            Ratio::of(&ours, &peer).unwrap().interval
        });
        assert!((88..=99).contains(&hits), "{hits} of 100");
        let hits = covered(truth, || {
            let (ours, peer) =
                (times(10.0, 3.0, 30, &mut random), times(40.0, 9.0, 45, &mut random));
            Ratio::of_unpaired(&ours, &peer).unwrap().interval
        });
        assert!((88..=99).contains(&hits), "{hits} of 100");
    }

    #[test]
    fn ratio_of_many_samples_is_the_true_one() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let (ours, peer) =
            (times(5.0, 1.0, 4000, &mut random), times(20.0, 4.0, 4000, &mut random));
        let value = quotient(median(&ours).unwrap(), median(&peer).unwrap()).unwrap();
        let truth = true_median(5.0, 1.0) / true_median(20.0, 4.0);
        assert!((value / truth - 1.0).abs() < 0.02, "{value} {truth}");
    }

    #[test]
    fn what_slows_both_of_a_pair_down_widens_nothing() {
        let ours: Vec<f64> = (1..=40).map(f64::from).collect();
        let peer: Vec<f64> = ours.iter().map(|value| value * 4.0).collect();
        let ratio = Ratio::of(&ours, &peer).unwrap();
        assert_eq!(ratio, Ratio { value: 0.25, interval: [0.25, 0.25] });
        let [low, high] = Ratio::of_unpaired(&ours, &peer).unwrap().interval;
        assert!(low < 0.2 && high > 0.3, "{low} {high}");
    }

    #[test]
    fn same_samples_have_the_same_interval() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let (ours, peer) = (times(1.0, 1.0, 30, &mut random), times(2.0, 1.0, 30, &mut random));
        assert_eq!(Ratio::of(&ours, &peer), Ratio::of(&ours, &peer));
        assert_eq!(median_interval(&ours), median_interval(&ours));
    }

    #[test]
    fn ratio_needs_pairs_and_a_divisor() {
        assert_eq!(Ratio::of(&[], &[]), None);
        assert_eq!(Ratio::of(&[1.0], &[0.0]), None);
        assert_eq!(Ratio::of_unpaired(&[1.0], &[]), None);
    }

    /// Points about a line, as memory is found: each further instance takes `step` and a little more or less.
    fn line(step: f64, n: u32, random: &mut ChaCha8Rng) -> Vec<(f64, f64)> {
        let noise = |random: &mut ChaCha8Rng| random.random::<f64>() + random.random::<f64>() - 1.0;
        (1..=n).map(|x| (f64::from(x), 100.0 + step * f64::from(x) + noise(random))).collect()
    }

    #[test]
    fn slope_is_that_of_the_line() {
        let exact: Vec<(f64, f64)> =
            (0..5).map(|x| (f64::from(x), 7.0 - 3.0 * f64::from(x))).collect();
        let slope = Slope::of(&exact).unwrap();
        assert!((slope.value + 3.0).abs() < 1e-9);
        assert_eq!(Slope::of(&[(1.0, 2.0)]), None);
        assert_eq!(Slope::of(&[]), None);
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let value = Slope::of(&line(12.0, 500, &mut random)).unwrap().value;
        assert!((value - 12.0).abs() < 0.01, "{value}");
    }

    #[test]
    fn interval_of_the_slope_covers_the_truth_as_often_as_it_says() {
        let mut random = ChaCha8Rng::seed_from_u64(6);
        let interval = |points: Vec<_>| Slope::of(&points).unwrap().interval().unwrap();
        let hits = covered(12.0, || interval(line(12.0, 20, &mut random)));
        assert!((85..=99).contains(&hits), "{hits} of 100");
        let hits = covered(3.0, || {
            let ours = Slope::of(&line(12.0, 20, &mut random)).unwrap();
            ours.ratio(&Slope::of(&line(4.0, 20, &mut random)).unwrap()).unwrap().interval
        });
        assert!((85..=99).contains(&hits), "{hits} of 100");
    }

    #[test]
    fn drift_compares_the_halves() {
        assert!(drift(&[1.0, 1.0, 1.2, 1.2]).unwrap() > MAX_DRIFT);
        assert_eq!(drift(&[2.0, 2.0, 2.0, 2.0]), Some(0.0));
        assert!(drift(&[2.0, 2.0, 1.0, 1.0]).unwrap() > MAX_DRIFT);
        assert_eq!(drift(&[1.0]), None);
    }
}
