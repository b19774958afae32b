//! Statistics of a benchmark: order statistics, the ratio of two medians, drift.

/// Resamples behind an interval; more would change its third digit.
const RESAMPLES: usize = 2000;

/// What an interval covers.
const COVERAGE: f64 = 0.95;

/// A control whose halves differ by more than this makes a run doubtful.
pub(super) const MAX_DRIFT: f64 = 0.10;

/// Order statistics of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    /// How many samples there are.
    pub(super) n: usize,
    /// The least sample.
    pub(super) min: f64,
    /// The median.
    pub(super) p50: f64,
    /// The 95th percentile (nearest rank).
    pub(super) p95: f64,
}

impl Summary {
    /// The summary of `samples`; nothing without samples.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        Some(Self {
            n: sorted.len(),
            min: *sorted.first()?,
            p50: median_of_sorted(&sorted)?,
            p95: rank(&sorted, 0.95)?,
        })
    }
}

/// The ratio of two medians and an interval that covers it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ratio {
    /// Median of the first series over median of the second.
    pub(super) value: f64,
    /// 95 % bootstrap interval.
    pub(super) interval: [f64; 2],
}

impl Ratio {
    /// The ratio of `ours` to `peer`. The two are taken in pairs, so that what slowed both members
    /// of a pair down widens nothing. The same samples always give the same interval.
    pub(super) fn of(ours: &[f64], peer: &[f64]) -> Option<Self> {
        let pairs: Vec<(f64, f64)> = ours.iter().copied().zip(peer.iter().copied()).collect();
        let value = ratio_of_medians(&pairs)?;
        let mut random = SplitMix(0x76_6d_6d);
        let mut ratios = Vec::with_capacity(RESAMPLES);
        let mut resample = Vec::with_capacity(pairs.len());
        for _ in 0..RESAMPLES {
            resample.clear();
            resample.extend((0..pairs.len()).filter_map(|_| pairs.get(random.below(pairs.len()))));
            ratios.extend(ratio_of_medians(&resample));
        }
        let ratios = sorted(&ratios);
        let tail = (1.0 - COVERAGE) / 2.0;
        Some(Self { value, interval: [rank(&ratios, tail)?, rank(&ratios, 1.0 - tail)?] })
    }
}

/// By how much the median of the second half of `control` differs from that of the first, as a
/// fraction; nothing with fewer than two samples.
pub(super) fn drift(control: &[f64]) -> Option<f64> {
    let (first, second) = control.split_at(control.len() / 2);
    let (first, second) = (Summary::of(first)?.p50, Summary::of(second)?.p50);
    Some((second / first - 1.0).abs())
}

/// Small, fast and good enough to choose samples and sectors (Steele et al., "Fast splittable
/// pseudorandom number generators", OOPSLA 2014).
pub(super) struct SplitMix(pub(super) u64);

impl SplitMix {
    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, or 0; the bias of the remainder is of no concern here.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % limit).unwrap_or_default()
    }
}

fn ratio_of_medians(pairs: &[(f64, f64)]) -> Option<f64> {
    let ours: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
    let peer: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    let peer = median_of_sorted(&sorted(&peer))?;
    let ours = median_of_sorted(&sorted(&ours))?;
    (peer != 0.0).then(|| ours / peer)
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

    #[test]
    fn summary_orders_its_samples() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).unwrap();
        assert_eq!(summary, Summary { n: 100, min: 1.0, p50: 50.5, p95: 95.0 });
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]).unwrap().p50, 2.0);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn ratio_of_equal_pairs_has_no_spread() {
        let ours: Vec<f64> = (1..=40).map(f64::from).collect();
        let peer: Vec<f64> = ours.iter().map(|value| value * 4.0).collect();
        let ratio = Ratio::of(&ours, &peer).unwrap();
        assert_eq!(ratio, Ratio { value: 0.25, interval: [0.25, 0.25] });
    }

    #[test]
    fn interval_holds_the_ratio_and_repeats() {
        let mut random = SplitMix(1);
        let mut noisy = |center: f64| -> Vec<f64> {
            (0..50).map(|_| center + random.below(1000) as f64 / 1000.0).collect()
        };
        let (ours, peer) = (noisy(2.0), noisy(8.0));
        let ratio = Ratio::of(&ours, &peer).unwrap();
        let [low, high] = ratio.interval;
        assert!(low < ratio.value && ratio.value < high, "{ratio:?}");
        assert!(high - low < 0.1, "{ratio:?}");
        assert_eq!(Ratio::of(&ours, &peer), Some(ratio));
    }

    #[test]
    fn ratio_needs_pairs_and_a_divisor() {
        assert_eq!(Ratio::of(&[], &[]), None);
        assert_eq!(Ratio::of(&[1.0], &[0.0]), None);
    }

    #[test]
    fn drift_compares_the_halves() {
        assert!(drift(&[1.0, 1.0, 1.2, 1.2]).unwrap() > MAX_DRIFT);
        assert_eq!(drift(&[2.0, 2.0, 2.0, 2.0]), Some(0.0));
        assert!(drift(&[2.0, 2.0, 1.0, 1.0]).unwrap() > MAX_DRIFT);
        assert_eq!(drift(&[1.0]), None);
    }
}
