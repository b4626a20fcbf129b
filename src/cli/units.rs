//! Sizes and times for people.

use std::time::SystemTime;

/// A number of bytes with a unit that leaves few digits.
pub(super) fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64;
    for unit in ["KiB", "MiB", "GiB"] {
        value /= 1024.0;
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
    }
    format!("{:.1} TiB", value / 1024.0)
}

/// How long ago something was.
pub(super) fn age(then: SystemTime, now: SystemTime) -> String {
    let Ok(since) = now.duration_since(then) else { return "in the future".to_owned() };
    match since.as_secs() {
        seconds @ 0..60 => format!("{seconds} s ago"),
        seconds @ 60..3_600 => format!("{} min ago", seconds / 60),
        seconds @ 3_600..172_800 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

/// Milliseconds since the Unix epoch as date and time in UTC, by RFC 3339.
pub(super) fn utc(unix_ms: u64) -> String {
    const DAY_MS: u64 = 86_400_000;
    let (mut year, month, day) = date(unix_ms / DAY_MS % DAYS_IN_400_YEARS);
    year += unix_ms / DAY_MS / DAYS_IN_400_YEARS * 400;
    let (second, ms) = (unix_ms % DAY_MS / 1000, unix_ms % 1000);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// After so many days the calendar repeats.
const DAYS_IN_400_YEARS: u64 = 400 * 365 + 97;

/// The year, month and day, so many days after 1970-01-01.
fn date(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= 365 + leap_days(year) {
        days -= 365 + leap_days(year);
        year += 1;
    }
    let lengths = [31, 28 + leap_days(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

fn leap_days(year: u64) -> u64 {
    u64::from(year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        // Compared with `date -u -d @N`.
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00"),
            (951_827_696, "2000-02-29T12:34:56"),
            (1_709_251_199, "2024-02-29T23:59:59"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (253_402_300_800, "10000-01-01T00:00:00"),
        ] {
            assert_eq!(utc(seconds * 1000 + 7), format!("{expected}.007Z"));
        }
        assert_eq!(utc(u64::MAX).len(), "584556019-04-03T14:25:51.615Z".len());
    }

    #[test]
    fn sizes_and_ages_have_few_digits() {
        let sizes = [0, 1023, 1024, 1536, 5 << 20, 3 << 40, u64::MAX].map(size);
        assert_eq!(sizes[..6], ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 TiB"]);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000_000);
        let ages = [0, 59, 60, 7_200, 172_800].map(|seconds| age(now - Duration::from_secs(seconds), now));
        assert_eq!(ages, ["0 s ago", "59 s ago", "1 min ago", "2 h ago", "2 days ago"]);
        assert_eq!(age(now + Duration::from_secs(1), now), "in the future");
    }
}
