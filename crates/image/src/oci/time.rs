//! Points in time as documents write them.

/// Seconds since 1970 of a time such as `2024-01-31T12:00:00.123Z` or `...+02:00`; the fraction is
/// dropped. Nothing for what is no such time or lies before 1970.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once(['T', 't'])?;
    let [year, month, day] = numbers(date, '-', [9999, 12, 31])?;
    let (clock, zone) = rest.split_at_checked(8)?;
    let [hour, minute, second] = numbers(clock, ':', [23, 59, 60])?;
    let zone = zone.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let [hours, minutes] = numbers(zone.strip_prefix(['+', '-'])?, ':', [23, 59])?;
            sign * (hours * 60 + minutes) * 60
        }
    };
    let days = days_since_1970(year, month, day);
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - offset;
    u64::try_from(seconds).ok()
}

fn numbers<const N: usize>(text: &str, separator: char, max: [i64; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, max) in numbers.iter_mut().zip(max) {
        let part = parts.next().filter(|part| part.bytes().all(|c| c.is_ascii_digit()))?;
        *number = part.parse().ok().filter(|number| *number <= max)?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Days from 1 January 1970 to a day of the Gregorian calendar, with years that begin in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_zone() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2000-02-29T23:59:59.999999999Z"), Some(951_868_799));
        assert_eq!(seconds("2024-01-31T12:00:00+02:00"), Some(1_706_695_200));
        assert_eq!(seconds("2024-01-31T12:00:00-00:30"), Some(1_706_704_200));
        for text in [
            "",
            "2024",
            "1969-12-31T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01Tä0:00:00Z",
            "99999-01-01T00:00:00Z",
            "2024-01-01T00:00:00+x",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
