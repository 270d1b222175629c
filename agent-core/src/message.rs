//! Checks that a verified message is for this host and fresh. Owns audience, freshness and the stateless challenge. It never checks
//! signatures ([`crate::envelope`] does) and never remembers ids (the ledger does).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use uuid::Uuid;

use crate::grant::Header;
use crate::refusal::{Reason, Refusal};
use crate::time::{BootNanos, Now, Seconds};

/// The longest time until a message's `not_after`. It bounds the memory that replay protection needs.
pub const MAX_MESSAGE_LIFE: Seconds = Seconds::minutes(15);
/// How long a challenge is valid (DESIGN 5).
pub const CHALLENGE_LIFE: Seconds = Seconds(60);

/// The names and keys of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// posternd creates this id at its first start.
    pub host_id: Uuid,
    /// From the configuration.
    pub names: Vec<String>,
    /// `SHA256:…` of the host's SSH host keys.
    pub host_keys: Vec<String>,
    /// `tls:SHA256:…` of the host's TLS certificate; none until the API has its key.
    pub tls_key: Option<String>,
}

impl Identity {
    /// Checks that `audience` contains a configured name of this host, or one of its keys together with its id. Cloned images share keys,
    /// and any host can claim any id, so neither suffices alone (docs/decisions/0040).
    /// # Errors
    /// [`Reason::AudienceHostIdMissing`], [`Reason::AudienceKeyMissing`], or [`Reason::AudienceMismatch`] if both are missing.
    pub fn check_audience(&self, audience: &[String]) -> Result<(), Refusal> {
        if audience.iter().any(|entry| self.names.iter().any(|name| name.eq_ignore_ascii_case(entry))) {
            return Ok(());
        }
        let id = self.host_id.to_string();
        let has_key =
            audience.iter().any(|entry| self.host_keys.contains(entry) || self.tls_key.as_ref() == Some(entry));
        let has_id = audience.contains(&id);
        let (reason, detail) = match (has_key, has_id) {
            (true, true) => return Ok(()),
            (true, false) => (
                Reason::AudienceHostIdMissing,
                format!(
                    "this host's id is {id}, and a cloned host may have the same key. Add the id, or use the postern client"
                ),
            ),
            (false, true) => (
                Reason::AudienceKeyMissing,
                format!(
                    "any host can claim the id {id}. Update the postern client, or add the fingerprint of this host's key"
                ),
            ),
            (false, false) => (Reason::AudienceMismatch, format!("this host's id is {id}")),
        };
        Err(Refusal::new(reason, detail).at("audience"))
    }
}

/// Issues and checks challenges: a moment of the boot clock with a MAC. The host stores nothing.
pub struct Challenger(hmac::Key);

impl Challenger {
    /// `secret` is random and new at each start of the agent, so no challenge survives a reboot or a restored disk.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// A challenge for a message that arrives within [`CHALLENGE_LIFE`].
    #[must_use]
    pub fn issue(&self, now: BootNanos) -> String {
        let moment = now.0.to_be_bytes();
        let mac = hmac::sign(&self.0, &moment);
        URL_SAFE_NO_PAD.encode([&moment[..], mac.as_ref()].concat())
    }

    /// Checks that this challenger issued `text` at most [`CHALLENGE_LIFE`] ago.
    /// # Errors
    /// [`Reason::ChallengeInvalid`] or [`Reason::ChallengeExpired`].
    pub fn check(&self, text: &str, now: BootNanos) -> Result<(), Refusal> {
        let fail = |reason| Err(Refusal::new(reason, "ask WhoAmI for a new one").at("challenge"));
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        let Some((moment, mac)) = bytes.split_first_chunk::<8>() else { return fail(Reason::ChallengeInvalid) };
        let same = hmac::verify(&self.0, moment, mac).is_ok();
        let issued = BootNanos(u64::from_be_bytes(*moment));
        if !same || issued > now {
            return fail(Reason::ChallengeInvalid);
        }
        if issued.until(now) > CHALLENGE_LIFE.0 * 1_000_000_000 {
            return fail(Reason::ChallengeExpired);
        }
        Ok(())
    }
}

/// Whether a client may send the message once only, or repeatedly until its `not_after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Showing {
    /// The message changes something.
    Once,
    /// The message only reads.
    Repeated,
}

/// The proof that a message is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The message's `not_after` with the wall clock, and the ids that the host remembers.
    Clock,
    /// A challenge only: the clock is not trusted, or the replay history is incomplete.
    Challenge,
}

/// Checks that a message is for this host and fresh.
/// # Errors
/// The refusal, which names the field.
pub fn check(
    header: &Header,
    identity: &Identity,
    challenger: &Challenger,
    (showing, freshness): (Showing, Freshness),
    now: &Now,
) -> Result<(), Refusal> {
    identity.check_audience(&header.audience)?;
    let by_clock = freshness == Freshness::Clock && now.wall_trusted();
    match &header.challenge {
        Some(challenge) if showing == Showing::Once || !by_clock => challenger.check(challenge, now.boot)?,
        None if !by_clock => {
            let how = "use postern, or put in a challenge that WhoAmI gives";
            return Err(Refusal::new(Reason::ClockUntrusted, how).at("challenge"));
        }
        _ => {}
    }
    if now.wall_trusted() { check_window(header, now) } else { Ok(()) }
}

fn check_window(header: &Header, now: &Now) -> Result<(), Refusal> {
    let left = header.not_after.as_nanosecond().saturating_sub(now.wall.as_nanosecond());
    if left <= 0 {
        let detail = format!("it was {} and here it is {}", header.not_after, now.wall);
        return Err(Refusal::new(Reason::MessageExpired, detail).at("not_after"));
    }
    if left > i128::from(MAX_MESSAGE_LIFE.0) * 1_000_000_000 {
        let detail = format!("at most {MAX_MESSAGE_LIFE} from {}", now.wall);
        return Err(Refusal::new(Reason::MessageTooLongLived, detail).at("not_after"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Header;
    use crate::time::ClockState;
    use jiff::{SignedDuration, Timestamp};

    const S: u64 = 1_000_000_000;

    fn now(boot_s: u64, trusted: bool) -> Now {
        let wall = Timestamp::from_second(1_800_000_000).unwrap();
        let clock = if trusted { ClockState::Synchronised } else { ClockState::Stepped };
        Now { boot: BootNanos(boot_s * S), wall, clock, boot_id: Uuid::nil() }
    }

    fn identity() -> Identity {
        Identity {
            host_id: Uuid::from_u128(7),
            names: vec!["vm1.example.com".into()],
            host_keys: vec!["SHA256:abc".into(), "SHA256:def".into()],
            tls_key: Some("tls:SHA256:abd".into()),
        }
    }

    fn own() -> Vec<String> {
        vec!["SHA256:abc".into(), Uuid::from_u128(7).to_string()]
    }

    fn header(life: i64, challenge: Option<String>) -> Header {
        let not_after = now(0, true).wall + SignedDuration::from_secs(life);
        Header { id: Uuid::from_u128(1), audience: own(), not_after, challenge }
    }

    fn outcome(header: &Header, showing: Showing, now: &Now) -> Option<Reason> {
        check(header, &identity(), &Challenger::new(&[7; 32]), (showing, Freshness::Clock), now).err().map(|r| r.reason)
    }

    #[test]
    fn the_window_of_a_message() {
        let at = now(100, true);
        for (life, want) in [
            (-1, Some(Reason::MessageExpired)),
            (0, Some(Reason::MessageExpired)),
            (1, None),
            (900, None),
            (901, Some(Reason::MessageTooLongLived)),
        ] {
            assert_eq!(outcome(&header(life, None), Showing::Once, &at), want, "{life}");
        }
    }

    #[test]
    fn a_challenge_lives_a_minute_and_replaces_the_clock() {
        let challenge = Challenger::new(&[7; 32]).issue(BootNanos(100 * S));
        let with = header(-9_999_999, Some(challenge));
        for (boot, want) in
            [(99, Some(Reason::ChallengeInvalid)), (100, None), (160, None), (161, Some(Reason::ChallengeExpired))]
        {
            assert_eq!(outcome(&with, Showing::Once, &now(boot, false)), want, "{boot}");
        }
        assert_eq!(outcome(&header(60, None), Showing::Once, &now(100, false)), Some(Reason::ClockUntrusted));
        let read = header(60, with.challenge.clone());
        assert_eq!(outcome(&read, Showing::Repeated, &now(500, true)), None);
        assert_eq!(outcome(&read, Showing::Repeated, &now(500, false)), Some(Reason::ChallengeExpired));
    }

    #[test]
    fn where_messages_may_be_forgotten_a_right_clock_does_not_replace_the_challenge() {
        let challenger = Challenger::new(&[7; 32]);
        let judge = |header: &Header, freshness| {
            let shown = (Showing::Once, freshness);
            check(header, &identity(), &challenger, shown, &now(100, true)).err().map(|r| r.reason)
        };
        let (without, with) = (header(60, None), header(60, Some(challenger.issue(BootNanos(100 * S)))));
        assert_eq!(judge(&without, Freshness::Clock), None);
        assert_eq!(judge(&without, Freshness::Challenge), Some(Reason::ClockUntrusted));
        assert_eq!(judge(&with, Freshness::Challenge), None);
        let stale = Header { not_after: now(0, true).wall, ..with };
        assert_eq!(
            judge(&stale, Freshness::Challenge),
            Some(Reason::MessageExpired),
            "a clock that is right still counts"
        );
    }

    #[test]
    fn a_challenge_cannot_be_made_up() {
        let good = Challenger::new(&[7; 32]).issue(BootNanos(5));
        let mut forged: Vec<String> =
            vec![String::new(), "A".repeat(32), good[..good.len() - 2].into(), format!("{good}AA")];
        forged.push(Challenger::new(&[8; 32]).issue(BootNanos(5)));
        for i in 0..good.len() {
            let swap = if good.as_bytes()[i] == b'A' { "B" } else { "A" };
            forged.push(format!("{}{swap}{}", &good[..i], &good[i + 1..]));
        }
        for text in forged {
            assert!(Challenger::new(&[7; 32]).check(&text, BootNanos(6)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_and_the_id_are_needed_or_a_configured_name() {
        const ID: &str = "00000000-0000-0000-0000-000000000007";
        const OTHER_ID: &str = "00000000-0000-0000-0000-000000000008";
        let judge = |audience: &[&str]| {
            let audience: Vec<String> = audience.iter().map(|&entry| entry.to_owned()).collect();
            identity().check_audience(&audience).err().map(|refusal| refusal.reason)
        };
        for good in [
            &["SHA256:abc", ID][..],
            &[ID, "SHA256:def"],
            &["tls:SHA256:abd", ID],
            &["vm1.example.com"],
            &["other", "VM1.example.com"],
            &["SHA256:other", OTHER_ID, "SHA256:abc", ID],
        ] {
            assert_eq!(judge(good), None, "{good:?}");
        }
        for (bad, why) in [
            (&[ID][..], Reason::AudienceKeyMissing),
            (&[ID, "SHA256:other"], Reason::AudienceKeyMissing),
            (&[ID, "vm2.example.com"], Reason::AudienceKeyMissing),
            // The kinds of key differ, and fingerprints are case-sensitive.
            (&[ID, "tls:SHA256:abc"], Reason::AudienceKeyMissing),
            (&[ID, "SHA256:abd"], Reason::AudienceKeyMissing),
            (&[ID, "sha256:abc"], Reason::AudienceKeyMissing),
            (&[ID, "TLS:SHA256:abd"], Reason::AudienceKeyMissing),
            (&["SHA256:abc"], Reason::AudienceHostIdMissing),
            (&["tls:SHA256:abd", OTHER_ID], Reason::AudienceHostIdMissing),
            (&["SHA256:abc", "SHA256:def"], Reason::AudienceHostIdMissing),
            (&["SHA256:other", OTHER_ID], Reason::AudienceMismatch),
            (&["vm2.example.com"], Reason::AudienceMismatch),
            (&[""], Reason::AudienceMismatch),
            (&[], Reason::AudienceMismatch),
        ] {
            assert_eq!(judge(bad), Some(why), "{bad:?}");
        }
        let without_keys = Identity { host_keys: vec![], tls_key: None, ..identity() };
        assert!(without_keys.check_audience(&[ID.into(), String::new()]).is_err());
    }
}
