//! Histograms in text: what a median hides.

use std::fmt::Write;

/// Widths of a bin to choose from, in the unit of the samples.
const WIDTHS: &[f64] = &[0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 10.0, 20.0, 50.0];

const MAX_BINS: usize = 20;
const LONGEST_BAR: usize = 40;

/// The histogram of `samples` in milliseconds, one line for each bin from the first to the last that
/// is not empty.
pub(super) fn render(samples: &[f64]) -> String {
    let last = samples.iter().copied().fold(0.0, f64::max);
    let first = samples.iter().copied().fold(last, f64::min);
    let fits = |width: &&f64| bin(last, **width) - bin(first, **width) < MAX_BINS;
    let width = WIDTHS.iter().find(fits).copied().unwrap_or(last.max(1.0));
    let start = bin(first, width);
    let mut counts = vec![0_usize; bin(last, width) - start + 1];
    for sample in samples {
        if let Some(count) = counts.get_mut(bin(*sample, width).saturating_sub(start)) {
            *count += 1;
        }
    }
    let largest = counts.iter().copied().max().unwrap_or_default().max(1);
    let mut text = String::new();
    for (index, &count) in (start..).zip(&counts) {
        let (from, to) = (index as f64 * width, (index + 1) as f64 * width);
        let bar = "#".repeat((count * LONGEST_BAR).div_ceil(largest));
        // Writing to a string does not fail.
        let _ =
            writeln!(text, "{}", format!("{from:8.2} - {to:6.2} ms {count:5}  {bar}").trim_end());
    }
    text
}

fn bin(sample: f64, width: f64) -> usize {
    (sample / width).floor() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_span_the_samples_and_count_each_once() {
        let text = render(&[1.0, 1.2, 9.1, 4.4]);
        let counts: Vec<usize> =
            text.lines().map(|l| l.split_whitespace().nth(4).unwrap().parse().unwrap()).collect();
        assert_eq!(counts.iter().sum::<usize>(), 4);
        assert_eq!((counts.first(), counts.last()), (Some(&2), Some(&1)), "{text}");
        assert!(counts.len() <= MAX_BINS);
    }

    #[test]
    fn histogram_of_little_or_huge_is_short() {
        assert!(render(&[]).lines().count() <= 1);
        assert!(render(&[0.0, 1e6]).lines().count() <= MAX_BINS);
    }
}
