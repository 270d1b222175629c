//! Formats times, durations and tables.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};

/// Escapes text of another party and puts it on one line, so that a host cannot forge output.
pub use postern_core::text::shown as clean;

/// A sentence of the host on one line. The host has already escaped other people's text in it, and [`clean`] would escape the backslashes
/// again. A host may be malicious, so control characters are escaped here too.
#[must_use]
pub fn sentence(text: &str) -> String {
    postern_core::text::line(text).into_owned()
}

/// A duration to the second: `29m 58s`, `2h 0m 5s`, `58s`.
#[must_use]
pub fn left(duration: Duration) -> String {
    let total = duration.as_secs();
    let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m {seconds}s"),
        _ => format!("{hours}h {minutes}m {seconds}s"),
    }
}

/// The wall-clock time in `zone`, with the date unless it is the date of `now`.
#[must_use]
pub fn clock(time: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let (time, now) = (time.to_zoned(zone.clone()), now.to_zoned(zone.clone()));
    let pattern = if time.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    time.strftime(pattern).to_string()
}

/// The wall-clock time in the machine's zone.
#[must_use]
pub fn local(time: &pbjson_types::Timestamp) -> String {
    match Timestamp::new(time.seconds, time.nanos) {
        Ok(time) => clock(time, Timestamp::now(), &TimeZone::system()),
        Err(_) => "(a time out of range)".to_owned(),
    }
}

/// A size with one decimal: `1.5 KiB`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Pads all columns but the last to their widest cell.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_told_to_the_second() {
        let left = |seconds| left(Duration::from_secs(seconds));
        assert_eq!([left(0), left(59), left(60), left(1798)], ["0s", "59s", "1m 0s", "29m 58s"]);
        assert_eq!(left(2 * 3600 + 5), "2h 0m 5s");
        assert_eq!(super::left(Duration::from_millis(1999)), "1s");
    }

    #[test]
    fn another_day_is_told_with_its_date() {
        let now: Timestamp = "2026-11-21T23:30:00Z".parse().unwrap();
        let zone = TimeZone::UTC;
        assert_eq!(clock("2026-11-21T23:59:59Z".parse().unwrap(), now, &zone), "23:59:59");
        assert_eq!(clock("2026-11-22T00:29:59Z".parse().unwrap(), now, &zone), "2026-11-22 00:29:59");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["A".into(), "LONG".into()], vec!["bcd".into(), "e".into()]];
        assert_eq!(table(&rows), ["A    LONG", "bcd  e"]);
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(5 << 40)], ["0 B", "1023 B", "1.5 KiB", "5.0 TiB"]);
    }
}
