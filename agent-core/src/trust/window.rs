//! The time range in which a key or certificate is accepted.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::refusal::{Reason, Refusal};

/// The wall clock, and whether the host trusts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    seconds: u64,
    trusted: bool,
}

impl Moment {
    pub(crate) fn new(now: i64, trusted: bool) -> Self {
        Self { seconds: u64::try_from(now).unwrap_or(0), trusted }
    }

    pub(crate) const fn is_trusted(self) -> bool {
        self.trusted
    }
}

/// The first and the last valid second since the Unix epoch, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Window {
    pub(super) const ALWAYS: Self = Self { first: 0, last: u64::MAX };

    /// The window of a certificate: `before` is the first second outside, and `u64::MAX` means no end.
    pub(super) const fn of_certificate(after: u64, before: u64) -> Self {
        match before {
            u64::MAX => Self { first: after, last: u64::MAX },
            // Never valid: the window is empty, and does not contain second 0.
            0 => Self { first: u64::MAX, last: 0 },
            _ => Self { first: after, last: before - 1 },
        }
    }

    pub(super) fn check(self, moment: Moment) -> Result<(), Refusal> {
        let refuse = |reason| Err(Refusal::new(reason, ""));
        if self == Self::ALWAYS {
            Ok(())
        } else if !moment.trusted {
            refuse(Reason::KeyWindowUnknowable)
        } else if moment.seconds > self.last {
            refuse(Reason::KeyExpired)
        } else if moment.seconds < self.first {
            refuse(Reason::KeyNotYetValid)
        } else {
            Ok(())
        }
    }
}

/// glibc's step and limit in its search for standard time, in seconds (`time/mktime.c`, `stride` and `delta_bound`).
const STRIDE: i64 = 601_200;
const FARTHEST: i64 = 536_454_000 / 2 + STRIDE;
/// glibc's limit of corrections to its guess (`remaining_probes`).
const PROBES: u32 = 6;

/// Reads `YYYYMMDD[HHMM[SS]][Z]` as seconds since the Unix epoch: in UTC with `Z`, else in `zone`. An error is the end of a sentence.
pub(super) fn parse_time(text: &str, zone: Option<&TimeZone>) -> Result<u64, &'static str> {
    let format_error = "use YYYYMMDDZ, YYYYMMDDHHMMZ or YYYYMMDDHHMMSSZ (without Z it is the host's local time)";
    let (digits, is_utc) = text.strip_suffix('Z').map_or((text, false), |digits| (digits, true));
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format_error);
    }
    let number = |from: usize, to: usize| digits.get(from..to).unwrap_or("0").parse::<i16>().map_err(|_| format_error);
    let small = |from: usize| number(from, from + 2).and_then(|n| i8::try_from(n).map_err(|_| format_error));
    let (month, day, hour, minute, second) = (small(4)?, small(6)?, small(8)?, small(10)?, small(12)?);
    let civil =
        DateTime::new(number(0, 4)?, month, day, hour, minute, second, 0).map_err(|_| "no such date or time")?;
    let utc = civil.to_zoned(TimeZone::UTC).map_err(|_| "no such date or time")?.timestamp().as_second();
    let moment = match (is_utc, zone) {
        (true, _) => utc,
        (false, None) => return Err("end it with Z (UTC): a time without one depends on the host's time zone"),
        (false, Some(zone)) => local(utc, zone).ok_or("there is no such local time in the host's time zone")?,
    };
    // As for ssh-keygen, 0 means "not set": nobody means 1970.
    u64::try_from(moment).ok().filter(|&s| s > 0).ok_or("it lies before 1970")
}

/// The moment, in seconds since the Unix epoch, at which a clock in `zone` shows the time that `civil` has in UTC. As ssh-keygen it
/// follows glibc's mktime(3) with `tm_isdst = 0`: a time in summer counts as standard time, an hour later than the wall clock.
fn local(civil: i64, zone: &TimeZone) -> Option<i64> {
    let at = |moment: i64| {
        let info = zone.to_offset_info(Timestamp::from_second(moment).ok()?);
        Some((i64::from(info.offset().seconds()), info.dst().is_dst()))
    };
    let (mut moment, mut before, mut long_before) = (civil, civil, civil);
    for _ in 0..PROBES {
        let (offset, dst) = at(moment)?;
        let guess = civil - offset;
        // In the hour that clocks skip, the guesses alternate: take the one in summer time.
        if guess != moment && !(moment == long_before && moment != before && dst) {
            (long_before, before, moment) = (before, moment, guess);
            continue;
        }
        if guess != moment || !dst {
            return Some(moment);
        }
        let near = (1..).map(|n| n * STRIDE).take_while(|delta| *delta < FARTHEST);
        let standard = near.flat_map(|delta| [moment - delta, moment + delta]).filter_map(at).find(|(_, dst)| !dst);
        return Some(standard.map_or(moment, |(offset, _)| civil - offset));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_utc() {
        assert_eq!(parse_time("20260102Z", None), Ok(1_767_312_000));
        assert_eq!(parse_time("202601020304Z", None), Ok(1_767_312_000 + 3 * 3600 + 4 * 60));
        assert_eq!(parse_time("20260102030405Z", None), Ok(1_767_312_000 + 3 * 3600 + 4 * 60 + 5));
        for bad in
            ["", "Z", "20260102", "20260231Z", "2026010203Z", "20261301Z", "202601022400Z", "+0260102Z", "19700101Z"]
        {
            assert!(parse_time(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn both_ends_belong_to_the_window() {
        let window = Window { first: 10, last: 20 };
        let at = |now| window.check(Moment::new(now, true)).map_err(|r| r.reason);
        assert_eq!(at(9), Err(Reason::KeyNotYetValid));
        assert_eq!((at(10), at(20)), (Ok(()), Ok(())));
        assert_eq!(at(21), Err(Reason::KeyExpired));
        assert_eq!(at(i64::MIN), Err(Reason::KeyNotYetValid));
        let blind = window.check(Moment::new(15, false)).map_err(|r| r.reason);
        assert_eq!(blind, Err(Reason::KeyWindowUnknowable));
        assert_eq!(Window::ALWAYS.check(Moment::new(15, false)), Ok(()));
    }

    #[test]
    fn a_certificate_ends_one_second_earlier() {
        assert_eq!(Window::of_certificate(10, 21), Window { first: 10, last: 20 });
        assert_eq!(Window::of_certificate(0, u64::MAX), Window::ALWAYS);
        assert!(Window::of_certificate(0, 0).check(Moment::new(0, true)).is_err());
    }
}
