//! Decides whether the client trusts the host that answered, as ssh does: a known key passes, and a changed key is refused. A new key needs
//! an answer on the terminal, `--accept-new` or `--fingerprint`.

use crate::{
    console::Console,
    failure::{Failure, Kind, Result},
    known_hosts::{KnownHost, KnownHosts, Recalled},
    proof::{Fault, HostTrust},
    state,
    tls::Fingerprint,
};

/// The options about trust.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trust {
    /// `--fingerprint`: exactly this certificate, whatever the client knew before.
    pub fingerprint: Option<Fingerprint>,
    /// `--accept-new`: trust an unknown host without a question.
    pub accept_new: bool,
}

impl Trust {
    /// The only acceptable certificate, if it is known before the connection.
    #[must_use]
    pub fn pin(&self, known: Option<&KnownHost>) -> Option<Fingerprint> {
        self.fingerprint.or_else(|| known.map(|known| known.fingerprint))
    }
}

/// A host that answered and proved to hold its certificate's key, in the TLS handshake or by its statement.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// As typed, with the port.
    pub address: &'a str,
    /// The id that the host states: a label, which decides nothing.
    pub host_id: &'a str,
    /// The fingerprint of its certificate.
    pub fingerprint: Fingerprint,
    /// The result of its SSH proof.
    pub host_trust: HostTrust,
    /// The host's reason why it proves nothing.
    pub explanation: Option<&'a str>,
}

/// Decides about `shown` and records new trust.
///
/// # Errors
/// Fails with [`Kind::Identity`] if the host is not trusted, and with [`Kind::Local`] if a file of known hosts is damaged.
pub async fn settle(trust: &Trust, store: &KnownHosts, shown: Shown<'_>, console: Console) -> Result<()> {
    let recalled = store.find(shown.address)?;
    if let Recalled::Unreadable(why) = &recalled {
        return without_memory(trust, shown, why, console).await;
    }
    let known = recalled.known();
    decide(trust, store, shown, known, console).await?;
    note_labels(store, shown, known, console)
}

/// Decides without a readable record: an earlier pin may name another key. Only `--fingerprint`, ssh's records and the user's answer count.
/// `--accept-new` is for unknown hosts, and without a record no host is provably unknown.
async fn without_memory(trust: &Trust, shown: Shown<'_>, why: &str, console: Console) -> Result<()> {
    match trust.fingerprint {
        Some(explicit) if explicit != shown.fingerprint => {
            return Err(Failure::new(
                Kind::Identity,
                format!("{} shows {}, not {explicit} as --fingerprint says", shown.address, shown.fingerprint),
            )
            .next("ask the host's administrator for the fingerprint; nothing was sent"));
        }
        None if !matches!(shown.host_trust, HostTrust::Proven(_)) => {
            let unknown = format!("{why}. So the client does not know which TLS key you trusted");
            return ask_once(trust, shown, &unknown, console).await;
        }
        Some(_) | None => {}
    }
    state::not_remembered(console, None, why);
    Ok(())
}

/// Asks about a host whose key the client cannot record; without a terminal it refuses the host, as ssh does.
async fn ask_once(trust: &Trust, shown: Shown<'_>, why: &str, console: Console) -> Result<()> {
    let Shown { address, fingerprint, .. } = shown;
    if !trust.accept_new && console.can_ask() && console.ask(question(shown, why, "Trust it for this command?")).await?
    {
        return Ok(());
    }
    let message =
        format!("{address} is not trusted, and the client cannot record its key: {why}. The host shows {fingerprint}");
    Err(Failure::new(Kind::Identity, message).next(format!(
        "compare it with the fingerprint that the host prints, then pass --fingerprint {fingerprint}; or set XDG_STATE_HOME to a folder \
         that can be written"
    )))
}

async fn decide(
    trust: &Trust,
    store: &KnownHosts,
    shown: Shown<'_>,
    known: Option<&KnownHost>,
    console: Console,
) -> Result<()> {
    match (known, trust.fingerprint) {
        (_, Some(explicit)) if explicit != shown.fingerprint => {
            Err(wrong_certificate(trust, store, shown.address, explicit, shown.fingerprint))
        }
        (Some(known), None) if known.fingerprint != shown.fingerprint => {
            Err(wrong_certificate(trust, store, shown.address, known.fingerprint, shown.fingerprint))
        }
        (Some(known), _) if known.fingerprint == shown.fingerprint => Ok(()),
        // The user named this key, so the trust does not depend on a record.
        (_, Some(_)) => {
            if let Err(failure) = record(store, shown, console, "as --fingerprint says") {
                state::not_remembered(console, None, failure.message);
            }
            Ok(())
        }
        (None, None) if matches!(shown.host_trust, HostTrust::Proven(_)) => Ok(()),
        // An attacker in the middle can leave out the proof, so a missing proof must not be enough.
        (_, None) if trust.accept_new && matches!(shown.host_trust, HostTrust::Unproven(_)) => Err(not_proven(shown)),
        // Without a record, every machine that answers would count as new each time.
        (_, None) if trust.accept_new => match record(store, shown, console, "as --accept-new says") {
            Err(failure) => ask_once(trust, shown, &failure.message, console).await,
            Ok(()) => Ok(()),
        },
        (_, None) if console.can_ask() => ask(store, shown, console).await,
        (_, None) if matches!(shown.host_trust, HostTrust::Unproven(_)) => Err(not_proven(shown)),
        (_, None) => Err(not_known(shown)),
    }
}

/// Warns if the host's id has changed. A host chooses its id: if the id decided, a host could claim another's id and lock users out.
fn note_labels(store: &KnownHosts, shown: Shown<'_>, known: Option<&KnownHost>, console: Console) -> Result<()> {
    let Shown { address, host_id, fingerprint, .. } = shown;
    if let Some(before) = known.filter(|known| known.fingerprint == fingerprint && known.host_id != host_id) {
        console.note(format!(
            "WARNING: {address} has the trusted key, but its host id was {} and is {host_id} now. The id was replaced, or a copy of \
             the machine answers. Messages are for this key and this id",
            before.host_id
        ));
        // The label is only for display: an unwritable file must not block a trusted host.
        if let Err(failure) = store.put(KnownHost { host_id: host_id.to_owned(), ..before.clone() }) {
            state::not_remembered(console, None, failure.message);
        }
    }
    for other in store.with_id(host_id)?.iter().filter(|other| other.fingerprint != fingerprint) {
        console.note(format!(
            "WARNING: {address} says that it is host {host_id}, but {} has that id with another key ({}). A host chooses its id; messages \
             are for the key that {address} proved",
            other.address, other.fingerprint
        ));
    }
    Ok(())
}

async fn ask(store: &KnownHosts, shown: Shown<'_>, console: Console) -> Result<()> {
    let warning = match shown.host_trust {
        HostTrust::Unproven(Some(Fault::Command)) => {
            format!("{}, and it may revoke the host's key", Fault::Command)
        }
        HostTrust::Unproven(_) => {
            let why = reason(shown).map(|why| format!("{why}. ")).unwrap_or_default();
            format!("{why}Your ssh known_hosts has a key or an authority for it, but it does not prove to be that host")
        }
        HostTrust::Unknown | HostTrust::Proven(_) => String::new(),
    };
    if !console.ask(question(shown, &warning, "Trust it from now on?")).await? {
        return Err(Failure::new(
            Kind::Identity,
            format!("{} is not trusted, so nothing was sent to it", shown.address),
        ));
    }
    // The user has checked the key, which is enough for this command.
    if let Err(failure) = record(store, shown, console, "from now on") {
        state::not_remembered(console, None, failure.message);
    }
    Ok(())
}

fn question(Shown { address, host_id, fingerprint, .. }: Shown<'_>, warning: &str, ask: &str) -> String {
    let warning = if warning.is_empty() { String::new() } else { format!("\n  {warning}.") };
    format!(
        "{address} is not known yet.{warning}\n  host id:         {host_id}\n  TLS fingerprint: {fingerprint}\n{ask}"
    )
}

fn record(store: &KnownHosts, shown: Shown<'_>, console: Console, why: &str) -> Result<()> {
    store.put(KnownHost {
        address: shown.address.to_owned(),
        host_id: shown.host_id.to_owned(),
        fingerprint: shown.fingerprint,
        added: jiff::Timestamp::now(),
    })?;
    let Shown { address, host_id, fingerprint, .. } = shown;
    console.note(format!("{address} (host {host_id}, {fingerprint}) is trusted {why}"));
    Ok(())
}

/// ssh's reason first, then the host's own.
fn reason(shown: Shown<'_>) -> Option<String> {
    match shown.host_trust {
        HostTrust::Unproven(Some(fault)) => Some(fault.to_string()),
        HostTrust::Unproven(None) => shown.explanation.map(str::to_owned),
        HostTrust::Unknown | HostTrust::Proven(_) => None,
    }
}

fn not_proven(shown: Shown<'_>) -> Failure {
    let Shown { address, fingerprint, .. } = shown;
    if shown.host_trust == HostTrust::Unproven(Some(Fault::Command)) {
        let message = format!(
            "{}, and the command may revoke the key of {address}; the host that answers shows {fingerprint}",
            Fault::Command
        );
        return Failure::new(Kind::Identity, message).next(format!(
            "compare it with the fingerprint that the host prints, then pass --fingerprint {fingerprint}"
        ));
    }
    let why = reason(shown).map(|why| format!("{why}. ")).unwrap_or_default();
    let message = format!(
        "{why}Your ssh known_hosts has a key or an authority for {address}, but the host that answers does not prove to be that \
         host; it shows {fingerprint}"
    );
    Failure::new(Kind::Identity, message)
        .next(format!("compare it with the fingerprint that the host prints, then pass --fingerprint {fingerprint}"))
}

fn not_known(shown: Shown<'_>) -> Failure {
    let Shown { address, fingerprint, host_id, .. } = shown;
    Failure::new(
        Kind::Identity,
        format!(
            "{address} is not known yet, and there is no terminal to ask; it shows {fingerprint}, host id {host_id}"
        ),
    )
    .next(format!(
        "compare it with the fingerprint that the host prints, then pass --fingerprint {fingerprint}; or --accept-new to trust it unseen"
    ))
}

/// The refusal of another certificate than the expected one.
#[must_use]
pub fn wrong_certificate(
    trust: &Trust,
    store: &KnownHosts,
    address: &str,
    expected: Fingerprint,
    shown: Fingerprint,
) -> Failure {
    if trust.fingerprint.is_some() {
        return Failure::new(Kind::Identity, format!("{address} shows {shown}, not {expected} as --fingerprint says"))
            .next("ask the host's administrator for the fingerprint; nothing was sent");
    }
    let message = format!(
        "THE IDENTITY OF {address} HAS CHANGED. Another machine may intercept the connection, or the host has a new TLS key. \
         Nothing was sent.\n  trusted: {expected} (in {})\n  shown:   {shown}",
        store.path().unwrap_or_default().display()
    );
    Failure::new(Kind::Identity, message).next(format!(
        "ask the host's administrator for its fingerprint. Only if it is {shown}:\n\
         postern forget {address}, then try again"
    ))
}

/// The refusal of a host that shows a certificate without holding its key.
#[must_use]
pub fn impostor(address: &str, why: &str) -> Failure {
    let message =
        format!("the machine that answers at {address} does not hold the key of the certificate that it shows ({why})");
    Failure::new(Kind::Identity, message)
        .next("another machine may intercept the connection; ask the host's administrator. Nothing was sent")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: Console = Console { json: false };

    fn shown(certificate: &[u8], host_id: &'static str) -> Shown<'static> {
        let fingerprint = Fingerprint::of(certificate);
        Shown { address: "vm1:7322", host_id, fingerprint, host_trust: HostTrust::Unknown, explanation: None }
    }

    fn store() -> (tempfile::TempDir, KnownHosts) {
        let directory = tempfile::tempdir().unwrap();
        let store = KnownHosts::at(directory.path());
        (directory, store)
    }

    #[tokio::test]
    async fn a_change_is_refused_until_it_is_forgotten_or_named() {
        let (_directory, store) = store();
        let accept = Trust { accept_new: true, fingerprint: None };
        settle(&accept, &store, shown(b"one", "a"), CONSOLE).await.unwrap();
        settle(&Trust::default(), &store, shown(b"one", "a"), CONSOLE).await.unwrap();
        let failure = settle(&accept, &store, shown(b"two", "a"), CONSOLE).await.unwrap_err();
        assert_eq!(failure.kind, Kind::Identity, "{failure}");
        let named = Trust { fingerprint: Some(Fingerprint::of(b"two")), accept_new: false };
        assert_eq!(settle(&named, &store, shown(b"three", "a"), CONSOLE).await.unwrap_err().kind, Kind::Identity);
        settle(&named, &store, shown(b"two", "a"), CONSOLE).await.unwrap();
        assert_eq!(store.find("vm1:7322").unwrap().known().unwrap().fingerprint, Fingerprint::of(b"two"));
    }

    #[tokio::test]
    async fn a_proof_needs_no_flag_and_a_missing_one_is_not_accepted_unseen() {
        let (_directory, store) = store();
        let accept = Trust { accept_new: true, fingerprint: None };
        let key = HostTrust::Proven(ssh_key::Fingerprint::Sha256([7; 32]));
        let proven = Shown { host_trust: key, ..shown(b"one", "a") };
        settle(&Trust::default(), &store, proven, CONSOLE).await.unwrap();
        assert_eq!(store.find("vm1:7322").unwrap(), Recalled::Nothing, "nothing is pinned");
        let unproven = Shown { host_trust: HostTrust::Unproven(None), ..shown(b"one", "a") };
        assert_eq!(settle(&accept, &store, unproven, CONSOLE).await.unwrap_err().kind, Kind::Identity);
        let named = Trust { fingerprint: Some(Fingerprint::of(b"one")), accept_new: false };
        settle(&named, &store, unproven, CONSOLE).await.unwrap();
        settle(&accept, &store, unproven, CONSOLE).await.unwrap();
        let changed = Shown { host_trust: key, ..shown(b"two", "a") };
        assert_eq!(settle(&accept, &store, changed, CONSOLE).await.unwrap_err().kind, Kind::Identity, "a pin stays");
    }

    #[tokio::test]
    async fn an_id_is_a_label_that_never_refuses() {
        let (_directory, store) = store();
        let accept = Trust { accept_new: true, fingerprint: None };
        settle(&accept, &store, shown(b"one", "a"), CONSOLE).await.unwrap();
        settle(&Trust::default(), &store, shown(b"one", "b"), CONSOLE).await.unwrap();
        let known = store.find("vm1:7322").unwrap().known().unwrap().clone();
        assert_eq!((known.host_id.as_str(), known.fingerprint), ("b", Fingerprint::of(b"one")));
        // A host that claimed the id first does not block the real one.
        let claimed = Shown { address: "vm2:7322", ..shown(b"two", "b") };
        settle(&accept, &store, claimed, CONSOLE).await.unwrap();
        settle(&Trust::default(), &store, claimed, CONSOLE).await.unwrap();
        settle(&Trust::default(), &store, shown(b"one", "b"), CONSOLE).await.unwrap();
    }

    /// No file can be read or written, and there is no terminal.
    #[tokio::test]
    async fn without_a_memory_only_what_ssh_knows_or_the_person_names_is_trusted() {
        let key = HostTrust::Proven(ssh_key::Fingerprint::Sha256([7; 32]));
        let file = tempfile::NamedTempFile::new().unwrap();
        let unreadable = tempfile::tempdir().unwrap();
        std::fs::create_dir(unreadable.path().join("known_hosts.toml")).unwrap();
        for (what, store) in
            [("written", KnownHosts::at(&file.path().join("postern"))), ("read", KnownHosts::at(unreadable.path()))]
        {
            for (accept_new, fingerprint, host_trust, trusted) in [
                (false, None, key, true),
                (true, None, key, true),
                (false, Some(Fingerprint::of(b"one")), HostTrust::Unknown, true),
                (false, Some(Fingerprint::of(b"two")), HostTrust::Unknown, false),
                (false, Some(Fingerprint::of(b"two")), key, false),
                (true, None, HostTrust::Unknown, false),
                (false, None, HostTrust::Unknown, false),
                (true, None, HostTrust::Unproven(None), false),
            ] {
                let shown = Shown { host_trust, ..shown(b"one", "a") };
                let settled = settle(&Trust { accept_new, fingerprint }, &store, shown, CONSOLE).await;
                let kind = settled.err().map(|failure| failure.kind);
                assert_eq!(
                    kind,
                    (!trusted).then_some(Kind::Identity),
                    "{what} {accept_new} {fingerprint:?} {host_trust:?}"
                );
            }
        }
    }
}
