//! Times without `Z`: the host's local time, as ssh-keygen reads it.

use std::process::Command;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use postern_core::envelope::Purpose;
use postern_core::trust::Trust;

use crate::lab::{ALICE, Lab, PAYLOAD};

/// Zones with summer time, without, with half hours, south of the equator, and with "winter time" for summer time (Dublin).
const ZONES: &[&str] = &[
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Pacific/Auckland",
    "Europe/Dublin",
    "Asia/Tokyo",
    "Africa/Casablanca",
];
/// Winter, summer, the hour that is left out, the hour that comes twice, and the forms without seconds and without a time of day.
const TIMES: &[&str] = &[
    "20260115",
    "20260715",
    "202601151230",
    "202607151230",
    "20260329023000",
    "20260329030000",
    "20261025023000",
    "20261025013000",
    "20260308023000",
    "20261101013000",
    "20260405014500",
    "20261004021500",
    "20260927023000",
    "20260405023000",
    "20260215023000",
    "20260322023000",
    "20371231235959",
];

#[test]
fn a_time_without_a_zone_is_the_one_that_ssh_keygen_reads() {
    let lab = Lab::new();
    let key = lab.key("key", "-t ed25519");
    let signature = lab.write("signature", key.sign(Purpose::Request, PAYLOAD));
    for name in ZONES {
        let zone = TimeZone::get(name).expect("the system's time zones");
        for time in TIMES {
            let text = format!("{ALICE} valid-before=\"{time}\" {}\n", key.public());
            let trust = Trust::parse_in(&text, b"", Some(&zone)).expect("a local time");
            let last = trust.entries().next().expect("a line").valid_before().expect("an end");
            let file = lab.write("trust", &text);
            let accepts = |seconds: i64| {
                let at = Timestamp::from_second(last.as_second() + seconds).expect("a time").strftime("%Y%m%d%H%M%SZ");
                let mut command = Command::new("ssh-keygen");
                command.env("TZ", name).args(["-Y", "verify", "-q", "-n", Purpose::Request.namespace(), "-I", ALICE]);
                command.arg(format!("-Overify-time={at}")).arg("-f").arg(&file).arg("-s").arg(&signature);
                crate::lab::status(&mut command, PAYLOAD)
            };
            assert_eq!((accepts(0), accepts(1)), (true, false), "{time} in {name} is not {last} for ssh-keygen");
        }
    }
}

#[test]
fn without_a_zone_such_a_time_is_not_understood() {
    let lab = Lab::new();
    let text = format!("{ALICE} valid-before=\"20260115\" {}\n", lab.key("key", "-t ed25519").public());
    assert!(Trust::parse(&text, b"").expect_err("no zone").reason.contains("time zone"));
}
