//! The grammars of typed ports, sources and times. Each error names the accepted forms.

use std::{
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use jiff::{Timestamp, civil, tz::TimeZone};
use postern_core::text;
use postern_proto::MOST_PORT_TEXT;

/// Checks a typed port: `22`, `22/tcp`, `53/udp`, `3389/any`, or a name, and returns numbers in canonical form. The host resolves names
/// ([`crate::ports`]).
///
/// # Errors
/// Fails if `text` has none of these forms. The error names the accepted forms.
pub fn port(text: &str) -> Result<String, String> {
    let (number, protocol) = text.split_once('/').map_or((text, None), |(number, protocol)| (number, Some(protocol)));
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return name(text);
    }
    let parsed = number.parse::<u16>().ok().filter(|n| *n != 0);
    let number = parsed.ok_or_else(|| format!("{text:?}: a port lies between 1 and 65535"))?;
    match protocol.map(str::to_ascii_lowercase).as_deref() {
        None => Ok(number.to_string()),
        Some(protocol @ ("tcp" | "udp" | "any")) => Ok(format!("{number}/{protocol}")),
        Some(_) => Err(format!("{text:?}: the protocol is tcp, udp or any (both), for example {number}/tcp")),
    }
}

fn name(text: &str) -> Result<String, String> {
    let sane = !text.is_empty() && text.trim() == text && !text.starts_with(['/', '-']) && !text.ends_with('/');
    if !sane || text.chars().any(text::commands) || text.chars().count() > MOST_PORT_TEXT {
        return Err(format!("{text:?} is no port; write a number such as 22 or 53/udp, or a name such as ssh"));
    }
    Ok(text.to_owned())
}

/// A source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Every address of this machine that the host sees.
    MyIp,
    /// An explicit prefix without host bits.
    Prefix(IpNet),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if matches!(text, "my-ip" | "myip") {
            return Ok(Self::MyIp);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Prefix(host_prefix(address)));
        }
        let net: IpNet = text.parse().map_err(|_| {
            format!("{text:?} is neither my-ip nor an address or prefix such as 192.0.2.7 or 2001:db8::/64")
        })?;
        let net = unmap_prefix(net)?;
        if net.trunc() != net {
            return Err(format!("{net} has host bits set; did you mean {} or {}?", net.trunc(), net.addr()));
        }
        Ok(Self::Prefix(net))
    }
}

/// A grant's id, as `postern list` shows it.
///
/// # Errors
/// Fails if `text` is no UUID. The error says what is wrong.
pub fn grant_id(text: &str) -> Result<uuid::Uuid, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a grant's id; postern list HOST --all shows the ids of your grants"))
}

/// An address or prefix to search for.
///
/// # Errors
/// Fails if `text` is neither an address nor a prefix without host bits.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    match text.parse()? {
        From::Prefix(net) => Ok(net),
        From::MyIp => Err("name an address or a prefix".to_owned()),
    }
}

/// The prefix of one address, /32 or /128. An IPv4-mapped IPv6 address becomes IPv4.
#[must_use]
pub fn host_prefix(address: IpAddr) -> IpNet {
    address.to_canonical().into()
}

/// The kernel tables keep the families apart, so `::ffff:192.0.2.0/120` must become 192.0.2.0/24 here.
fn unmap_prefix(net: IpNet) -> Result<IpNet, String> {
    let IpNet::V6(v6) = net else { return Ok(net) };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(address), Some(length)) => IpNet::new(address.into(), length).map_err(|error| error.to_string()),
        (Some(_), None) if v6.addr() != Ipv6Addr::UNSPECIFIED => {
            Err(format!("{net} mixes IPv4 and IPv6; name the IPv4 and the IPv6 prefix apart"))
        }
        _ => Ok(net),
    }
}

/// A positive time span of whole seconds such as `30m`, `1h30m`, `90s`, `2h`.
///
/// # Errors
/// Fails if `text` is no such time span. The error says what is wrong.
pub fn duration(text: &str) -> Result<Duration, String> {
    let hint = "write it like 30m, 1h30m, 90s or 2h";
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} has no unit; {hint}"));
    }
    let seconds = text::seconds(text).filter(|seconds| *seconds > 0);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} is not a positive number of whole seconds; {hint}"))
}

/// A time after `now`: `18:00` (the next one in this machine's zone), `2026-11-21 18:00`, or RFC 3339 with an offset.
///
/// # Errors
/// Fails if `text` is no such time, or is not after `now`.
pub fn until(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    let time = point(text, now, zone)?;
    if time <= now {
        return Err(format!("{text:?} lies in the past"));
    }
    Ok(time)
}

/// A point in the past: `24h` (that long ago), `18:00` (the last one), `2026-11-21` (its beginning), or as [`until`].
///
/// # Errors
/// Fails if `text` is no such time.
pub fn past(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    let outside = |error: jiff::Error| format!("{text:?}: {error}");
    if let Ok(ago) = duration(text) {
        return now.checked_sub(ago).map_err(outside);
    }
    if let Some(time) = clock_time(text) {
        let today = now.to_zoned(zone.clone()).date();
        let at = |date: civil::Date| date.to_datetime(time).to_zoned(zone.clone()).map(|zoned| zoned.timestamp());
        let candidate = at(today).map_err(outside)?;
        return if candidate <= now { Ok(candidate) } else { at(today.yesterday().map_err(outside)?).map_err(outside) };
    }
    match text.parse::<civil::Date>() {
        Ok(date) if !text.contains(':') => date.to_zoned(zone.clone()).map(|z| z.timestamp()).map_err(outside),
        _ => point(text, now, zone).map_err(|error| format!("{error}, or 24h for that long ago")),
    }
}

fn point(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    let outside = |error: jiff::Error| format!("{text:?}: {error}");
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Some(time) = clock_time(text) {
        let today = now.to_zoned(zone.clone()).date();
        let at = |date: civil::Date| date.to_datetime(time).to_zoned(zone.clone()).map(|zoned| zoned.timestamp());
        let candidate = at(today).map_err(outside)?;
        return if candidate > now { Ok(candidate) } else { at(today.tomorrow().map_err(outside)?).map_err(outside) };
    }
    match text.parse::<civil::DateTime>() {
        Ok(time) if text.contains(':') => time.to_zoned(zone.clone()).map(|z| z.timestamp()).map_err(outside),
        _ => Err(format!("{text:?} is not a time; write 18:00, \"2026-11-21 18:00\" or 2026-11-21T18:00:00Z")),
    }
}

fn clock_time(text: &str) -> Option<civil::Time> {
    let plain = text.len() <= 8 && text.contains(':') && text.bytes().all(|b| b.is_ascii_digit() || b == b':');
    let padded = if text.find(':') == Some(1) { format!("0{text}") } else { text.to_owned() };
    if plain { padded.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_grants_id_is_quoted_and_the_command_that_shows_ids_is_named() {
        let wrong = grant_id("nonsense").unwrap_err();
        assert!(wrong.contains("nonsense") && wrong.contains("postern list"), "{wrong}");
        let id = "00000000-0000-4000-8000-000000000001";
        assert_eq!(grant_id(id).map(|id| id.to_string()).as_deref(), Ok(id));
    }

    #[test]
    fn ports_are_names_numbers_or_both() {
        for (typed, checked) in [
            ("ssh", "ssh"),
            ("Git SSH", "Git SSH"),
            ("rdp/udp", "rdp/udp"),
            ("22", "22"),
            ("022", "22"),
            ("53/udp", "53/udp"),
            ("65535/TCP", "65535/tcp"),
            ("3389/any", "3389/any"),
        ] {
            assert_eq!(port(typed).as_deref(), Ok(checked));
        }
        let long = "x".repeat(129);
        for typed in [
            "",
            "0",
            "65536",
            "22/sctp",
            "22/",
            "/tcp",
            "ssh/",
            "-1",
            " ssh",
            "a\u{1b}b",
            &long,
            "99999999999999999999",
        ] {
            assert!(port(typed).is_err(), "{typed:?}");
        }
    }

    #[test]
    fn sources_are_prefixes_without_host_bits() {
        let shown = |text: &str| match text.parse::<From>() {
            Ok(From::MyIp) => "my ip".to_owned(),
            Ok(From::Prefix(net)) => net.to_string(),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(shown("my-ip"), "my ip");
        assert_eq!(shown("192.0.2.7"), "192.0.2.7/32");
        assert_eq!(shown("10.0.0.0/8"), "10.0.0.0/8");
        assert_eq!(shown("2001:db8::7"), "2001:db8::7/128");
        assert_eq!(shown("::ffff:192.0.2.7"), "192.0.2.7/32");
        assert_eq!(shown("::ffff:192.0.2.0/120"), "192.0.2.0/24");
        assert_eq!(shown("::/0"), "::/0");
        assert_eq!(
            shown("192.0.2.7/24"),
            "error: 192.0.2.7/24 has host bits set; did you mean 192.0.2.0/24 or 192.0.2.7?"
        );
        for typed in ["", "vm1", "192.0.2.7/33", "192.0.2.256", "::ffff:192.0.2.0/90", "any"] {
            assert!(shown(typed).starts_with("error"), "{typed:?}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (typed, seconds) in
            [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("2h", 7200), ("1h 5m", 3900), ("24h", 86400)]
        {
            assert_eq!(duration(typed), Ok(Duration::from_secs(seconds)), "{typed}");
        }
        for typed in ["", "30", "0s", "-30m", "1.5s", "soon", "30m ago", "99999999999999999999h"] {
            assert!(duration(typed).is_err(), "{typed:?}");
        }
    }

    #[test]
    fn the_past_is_told_by_span_day_or_the_last_clock_time() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let now: Timestamp = "2026-11-21T15:30:00Z".parse().unwrap();
        let shown = |text| past(text, now, &zone).map(|time| time.to_string());
        assert_eq!(shown("24h").as_deref(), Ok("2026-11-20T15:30:00Z"));
        assert_eq!(shown("18:00").as_deref(), Ok("2026-11-20T16:00:00Z"));
        assert_eq!(shown("9:15").as_deref(), Ok("2026-11-21T07:15:00Z"));
        assert_eq!(shown("2026-11-20").as_deref(), Ok("2026-11-19T22:00:00Z"));
        assert_eq!(shown("2026-11-20 18:00").as_deref(), Ok("2026-11-20T16:00:00Z"));
        assert_eq!(shown("2026-11-21T18:00:00Z").as_deref(), Ok("2026-11-21T18:00:00Z"));
        for typed in ["", "25:00", "yesterday", "24", "-2h"] {
            assert!(past(typed, now, &zone).is_err(), "{typed:?} → {:?}", shown(typed));
        }
    }

    #[test]
    fn a_clock_time_means_the_next_one() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let now: Timestamp = "2026-11-21T15:30:00Z".parse().unwrap();
        let shown = |text| until(text, now, &zone).map(|time| time.to_string());
        assert_eq!(shown("18:00").as_deref(), Ok("2026-11-21T16:00:00Z"));
        assert_eq!(shown("9:15").as_deref(), Ok("2026-11-22T07:15:00Z"));
        assert_eq!(shown("17:30").as_deref(), Ok("2026-11-22T15:30:00Z"));
        assert_eq!(shown("2026-11-21 18:00").as_deref(), Ok("2026-11-21T16:00:00Z"));
        assert_eq!(shown("2026-11-21T18:00:00Z").as_deref(), Ok("2026-11-21T18:00:00Z"));
        for typed in ["", "25:00", "tomorrow", "2026-11-21", "2026-11-20 18:00", "1800"] {
            assert!(shown(typed).is_err(), "{typed:?} → {:?}", shown(typed));
        }
    }
}
