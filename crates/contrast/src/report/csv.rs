//! The report as comma-separated values (RFC 4180).

use super::{Measured, Report, Row};
use crate::plan::Cache;

const HEAD: &str = "arm,absent,cache,parallel,runs,failures,min_ms,p50_ms,p90_ms,p95_ms,p99_ms,mean_ms,\
                    low_ms,high_ms,ratio,ratio_low,ratio_high,first_output_p50_ms";

pub(super) fn of(report: &Report) -> String {
    let mut text = format!("{HEAD}\r\n");
    for arm in &report.arms {
        for row in arm.rows(report.headline()) {
            text.push_str(&line(row));
        }
    }
    text
}

fn line(row: Row<'_>) -> String {
    let Row { arm, cache, parallel, measured } = row;
    let failed = arm.failures.iter();
    let failed = failed.filter(|f| f.cache == cache && f.parallel == parallel).count();
    let Measured { min, p50, p90, p95, p99, mean, interval, ratio, ratio_interval, .. } = *measured;
    let low = |pair: Option<[f64; 2]>| pair.map(|[low, _]| low);
    let high = |pair: Option<[f64; 2]>| pair.map(|[_, high]| high);
    let numbers = [min, p50, p90, p95, p99, mean, low(interval), high(interval), ratio];
    let more = [low(ratio_interval), high(ratio_interval), measured.first_output_p50];
    let cache = if cache == Cache::Warm { "warm" } else { "cold" };
    let mut cells = vec![quoted(&arm.name), quoted(arm.absent.as_deref().unwrap_or_default())];
    cells.extend([
        cache.to_owned(),
        parallel.to_string(),
        measured.runs.to_string(),
        failed.to_string(),
    ]);
    let number = |value: &Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    cells.extend(numbers.iter().chain(&more).map(number));
    format!("{}\r\n", cells.join(","))
}

/// A text as a cell.
pub(crate) fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_with_commas_are_quoted() {
        assert_eq!(quoted("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(quoted("plain"), "plain");
    }
}
