//! The longer help texts: examples, the forms of HOST, exit codes.
//!
//! Owns wording only.

pub(super) const HOSTS: &str = "\
HOST is one of
  vm1.example.com, 192.0.2.1       TLS on port 7322
  vm1.example.com:9000             TLS on another port
  2001:db8::1, [2001:db8::1]:9000  the same for IPv6
  unix:///run/postern/posternd.sock
  http://127.0.0.1:7323            plaintext, loopback only

Trust: a host whose SSH host key, or the authority of its certificate, is in your ssh known_hosts proves itself and needs nothing \
else; HOST is what it is to ssh, by your ssh_config. For any other, at the first use the host's TLS fingerprint is shown and asked about, then kept in $XDG_STATE_HOME/postern/known_hosts.toml (~/.local/state/postern). Where that cannot be written, it is asked about each time. \
Without a terminal pass --fingerprint SHA256:… or --accept-new. A host that shows another key later is refused.

Keys: without --key those that ssh would offer HOST are offered, in the order of ssh (IdentityFile, CertificateFile, IdentityAgent and \
IdentitiesOnly of your ssh_config), and the first that the host counts signs. \
--key takes a private key, a .pub or -cert.pub file whose key is in the agent, agent, agent:SHA256:… or agent:COMMENT. \
A valid certificate beside a private key (KEY-cert.pub) is used where the host counts it.

Environment, where the command line says nothing: POSTERN_KEY for --key, POSTERN_FINGERPRINT for --fingerprint, \
POSTERN_ACCEPT_NEW=1 for --accept-new, POSTERN_JSON=1 for --json.

With --json results are JSON on standard output, in the API's own form; notes and errors are JSON lines on standard \
error: {\"note\": …} and {\"error\": {\"kind\", \"exitCode\", \"message\", \"reason\", \"rule\", \"next\"}}.

Exit codes
  0  done
  1  the host refused; `postern explain CODE` says what a reason code means
  2  the command line does not make sense
  3  the host cannot be reached
  4  the host is not the one that was trusted, or not trusted yet
  5  no key to sign with, or it did not sign
  6  the host could not do it (overloaded, its disk or kernel failed); nothing was opened
  7  this machine: a file cannot be read or written
  8  status: the host answered, and not all is well there
  130, 143  ended by Ctrl-C, by a termination signal";

pub(super) const EXAMPLES: &str = "\
Examples
  postern request vm1.example.com --port ssh --for 30m
      opens ssh for the addresses that vm1 sees you under, then closes by itself
  postern request vm1 --port rdp --until 18:00 --from 10.1.0.0/24 --reason 'ticket 4711'
  postern explain vm1 --port ssh     why can't I connect?
  postern watch vm1                  time left, live
  postern extend vm1 --for 1h        not done yet
  postern give-back vm1              done early
  postern pending vm1                what waits for a second person; postern approve vm1 ID
";

pub(super) const REQUEST: &str = "\
Examples
  postern request vm1.example.com --port ssh --for 30m
  postern request vm1 --port 22 --port 5986/tcp --for 1h30m --reason 'disk full' --ticket INC-4711
  postern request vm1.example.com --port ssh --until 18:00 --from 192.0.2.7 --from 2001:db8::/64
  postern request vm1.example.com --port ssh --for 30m --key ~/.ssh/id_ed25519_sk.pub --json
  postern request vm1 --port rdp --for 2h --not-before 22:00     tonight's window
  postern request vm1 --port ssh --for 1h --wait && ssh vm1      waits for the approval, then goes in

When the host's policy wants more people to agree, the request waits there, nothing is open, and the exit code is 0; \
--json tells by \"state\". With --wait the command ends when it is open (0), or refused, declined or given up (1).

--from my-ip (the default) asks the host over every address its name has, IPv4 and IPv6, which address it sees you \
under, shows them, and asks for those. Where such an address is not this machine's own and you reach the host at a new address, \
it asks you first: the address is your NAT's or VPN's, or that of somebody who passes your connection on. Without a terminal it \
is left out; a script behind a NAT says --from ADDRESS.";

pub(super) const EXPLAIN: &str = "\
Examples
  postern explain vm1.example.com --port ssh            why can't I connect?
  postern explain vm1.example.com --port ssh --for 4h   would this be granted?
  postern explain DURATION_TOO_LONG                     what does this code mean? (asks no host)

Nothing is opened. The exit code is 0 when the question was answered, whatever the answer.";

pub(super) const AUDIT: &str = "\
Examples
  postern audit vm1.example.com                                   the newest lines
  postern audit vm1 --port ssh --from 10.1.0.0/16 --since 24h     who could reach ssh from there since yesterday?
  postern audit vm1 --principal alice@example.com --event refused
  postern audit vm1 --limit 100000 --json | jq -r '.entries[].line'

  postern audit vm1 --jsonl > vm1.jsonl                            the whole journal, the oldest line first
  postern audit vm1 --follow --event granted,break-glass

Viewers, admins and root see the journal. The exit code is 6 when the journal was changed or lacks lines.";

pub(super) const SIGN: &str = "\
Examples
  postern sign vm1.example.com --port ssh --for 30m > request.json
  grpcurl -insecure -d @ vm1.example.com:7322 postern.v1.AccessService/RequestAccess < request.json

  postern sign --audience vm1.example.com --port ssh --for 30m --from 192.0.2.7/32
      signs without asking the host: by this machine's clock, and without a challenge
  postern sign vm1.example.com --revoke GRANT_ID
  postern sign vm1.example.com --read
  postern sign --payload payload.json --as approve
      approves exactly these bytes, which somebody else signed as their request; send both signatures, or ApproveAccess
  postern sign --payload payload.json
      signs the file's bytes as they are; its content shows what kind of message it is, or --as says it

A signed request is worth something for two minutes, a read for ten.";

pub(super) const EXTEND: &str = "\
Examples
  postern extend vm1.example.com --for 1h            one hour from now instead of the end it has
  postern extend vm1 GRANT_ID --until 18:00

The extension is a signed request of its own for the same ports and sources, under the same rules: it may have to be \
approved, and both together may not last longer than the policy's longest time. It never shortens. Until it is granted the \
old grant runs on as it is.";

pub(super) const GIVE_BACK: &str = "\
Examples
  postern give-back vm1.example.com
  postern give-back vm1 GRANT_ID --reason 'done'

Sessions over it end as the host's policy says. The record shows that you gave it back; `postern revoke` is for other \
people's grants.";

pub(super) const APPROVE: &str = "\
Examples
  postern pending vm1.example.com
  postern approve vm1 ID                      shows what you approve, and asks
  postern approve vm1 ID --yes --json         for scripts
  postern decline vm1 ID --reason 'use the test host'

You sign the very bytes that the requester signed, so nobody can turn your yes into another one. You cannot approve your \
own request.";

pub(super) const BREAK_GLASS: &str = "\
Examples
  postern break-glass --port ssh --from 10.1.0.0/16 --for 1h --reason 'the CA is down, INC-4711'

For the day when nobody can sign. Only root on the host itself may do this, over the Unix socket. It needs no signature, \
no network and no right clock, and no policy limits it but that the port is a protected one and a day is the most. It is \
written to the journal and the system log at once, as an error, under the name root.";

pub(super) const ENABLE: &str = "\
Examples
  postern enable --confirm-within 5m      on the host: every protected port closes for whoever has no grant
  postern request vm1 --port ssh          from your own machine, then a new ssh session
  postern confirm                         in that session: it stays closed
  postern roll-back                       or back to observing at once

Only root on the host itself may do this, over the Unix socket. Sessions that are there go on, and their addresses may connect anew \
for five minutes. Without a confirmation in time the kernel opens the ports again by itself, even when posternd is dead, and so \
does a boot as long as the configuration says mode = \"observe\". To be confirmed, it has to say so no longer, and somebody has to \
have come in under a signed grant since.";
