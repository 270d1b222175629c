//! The longer help texts: examples, the forms of HOST, exit codes.

pub(super) const HOSTS: &str = "\
HOST is one of
  vm1.example.com, 192.0.2.1       TLS on port 7322
  vm1.example.com:9000             TLS on another port
  2001:db8::1, [2001:db8::1]:9000  the same for IPv6
  unix:///run/postern/posternd.sock
  http://127.0.0.1:7323            plaintext, loopback only

Trust: postern looks HOST up as ssh does, by your ssh_config. If your ssh known_hosts has the host's SSH key, or the authority of \
its certificate, the host proves that key and nothing is asked. For any other host, postern shows the TLS fingerprint at the first \
use, asks you, and keeps the answer in $XDG_STATE_HOME/postern/known_hosts.toml (~/.local/state/postern). If the file cannot be \
written, postern asks each time. Without a terminal, pass --fingerprint SHA256:… or --accept-new. A host that shows another key \
later is refused.

Keys: without --key, postern offers the keys that ssh would offer to HOST, in the same order (IdentityFile, CertificateFile, \
IdentityAgent and IdentitiesOnly of your ssh_config). The first key that the host accepts signs. \
--key takes a private key, a .pub or -cert.pub file whose key is in the agent, agent, agent:SHA256:… or agent:COMMENT. \
If a valid certificate lies beside a private key (KEY-cert.pub) and the host accepts it, postern uses it.

Environment, for options that the command line does not have: POSTERN_KEY for --key, POSTERN_FINGERPRINT for --fingerprint, \
POSTERN_ACCEPT_NEW=1 for --accept-new, POSTERN_JSON=1 for --json.

With --json results are JSON on standard output, in the API's own form; notes and errors are JSON lines on standard \
error: {\"note\": …} and {\"error\": {\"kind\", \"exitCode\", \"message\", \"reason\", \"rule\", \"next\"}}.

Exit codes
  0  done
  1  the host refused; `postern explain CODE` says what a reason code means
  2  the command line is wrong
  3  the host cannot be reached
  4  the host is not the one that was trusted, or not trusted yet
  5  no key to sign with, or it did not sign
  6  the host failed (overload, disk or kernel); nothing was opened
  7  this machine: a file cannot be read or written
  8  status: the host answered, and has a condition that you should look at
  130, 143  ended by Ctrl-C, by a termination signal";

pub(super) const EXAMPLES: &str = "\
Examples
  postern request vm1.example.com --port ssh --for 30m
      opens ssh for your addresses, as vm1 sees them; ssh closes by itself after 30 minutes
  postern request vm1 --port rdp --until 18:00 --from 10.1.0.0/24 --reason 'ticket 4711'
  postern explain vm1 --port ssh     why can't I connect?
  postern watch vm1                  time left, live
  postern extend vm1 --for 1h        more time
  postern give-back vm1              end the grant early
  postern pending vm1                requests that need approval; postern approve vm1 ID
";

pub(super) const REQUEST: &str = "\
Examples
  postern request vm1.example.com --port ssh --for 30m
  postern request vm1 --port 22 --port 5986/tcp --for 1h30m --reason 'disk full' --ticket INC-4711
  postern request vm1.example.com --port ssh --until 18:00 --from 192.0.2.7 --from 2001:db8::/64
  postern request vm1.example.com --port ssh --for 30m --key ~/.ssh/id_ed25519_sk.pub --json
  postern request vm1 --port rdp --for 2h --not-before 22:00     tonight's window
  postern request vm1 --port ssh --for 1h --wait && ssh vm1      waits for the approval, then goes in

If the host's policy requires approval, the host records the request as pending. Nothing is open yet, and the exit code is 0; \
with --json, \"state\" is pending. With --wait, the command ends when the port is open (0), or when the request is refused, \
declined or has lapsed (1).

--from my-ip (the default) connects to every address of HOST's name, IPv4 and IPv6. The host states which source addresses it sees; \
postern shows them and requests access for them. If such a source is not an address of this machine, and you reach the host at a \
new address, postern asks you first: the source may be your NAT or VPN, or a relay that passes your connection on. Without a \
terminal postern leaves it out. In a script behind a NAT, write --from ADDRESS.";

pub(super) const EXPLAIN: &str = "\
Examples
  postern explain vm1.example.com --port ssh            why can't I connect?
  postern explain vm1.example.com --port ssh --for 4h   would this be granted?
  postern explain DURATION_TOO_LONG                     what does this code mean? (asks no host)

Nothing is opened. The exit code is 0 if the host answered, whatever the answer.";

pub(super) const AUDIT: &str = "\
Examples
  postern audit vm1.example.com                                   the newest lines
  postern audit vm1 --port ssh --from 10.1.0.0/16 --since 24h     who could reach ssh from there since yesterday?
  postern audit vm1 --principal alice@example.com --event refused
  postern audit vm1 --limit 100000 --json | jq -r '.entries[].line'

  postern audit vm1 --jsonl > vm1.jsonl                            the whole journal, the oldest line first
  postern audit vm1 --follow --event granted,break-glass

Viewers, admins and root may read the journal. The exit code is 6 if the journal was changed or lines are missing.";

pub(super) const SIGN: &str = "\
Examples
  postern sign vm1.example.com --port ssh --for 30m > request.json
  grpcurl -insecure -d @ vm1.example.com:7322 postern.v1.AccessService/RequestAccess < request.json

  postern sign --audience vm1.example.com --port ssh --for 30m --from 192.0.2.7/32
      signs without asking the host: by this machine's clock, and without a challenge
  postern sign vm1.example.com --revoke GRANT_ID
  postern sign vm1.example.com --read
  postern sign --payload payload.json --as approve
      approves exactly these bytes, which the requester signed; send both signatures in one message, or use ApproveAccess
  postern sign --payload payload.json
      signs the bytes of the file; the kind of message follows from the content, or from --as

A signed request is valid for two minutes, a signed read for ten.";

pub(super) const EXTEND: &str = "\
Examples
  postern extend vm1.example.com --for 1h            one hour from now instead of the end it has
  postern extend vm1 GRANT_ID --until 18:00

An extension is a new signed request for the same ports and sources, under the same rules. It may need approval. The grant and its \
extensions together may not last longer than the policy's max_duration. An extension cannot end earlier than the grant. The old \
grant stays in force until the extension is granted.";

pub(super) const GIVE_BACK: &str = "\
Examples
  postern give-back vm1.example.com
  postern give-back vm1 GRANT_ID --reason 'done'

The host's policy says what happens to sessions over the grant. The journal records that you gave the grant back. \
`postern revoke` ends other people's grants.";

pub(super) const APPROVE: &str = "\
Examples
  postern pending vm1.example.com
  postern approve vm1 ID                      shows what you approve, and asks
  postern approve vm1 ID --yes --json         for scripts
  postern decline vm1 ID --reason 'use the test host'

You sign the same bytes that the requester signed, so your approval counts for nothing else. You cannot approve your own \
request.";

pub(super) const BREAK_GLASS: &str = "\
Examples
  postern break-glass --port ssh --from 10.1.0.0/16 --for 1h --reason 'the CA is down, INC-4711'

Use this when nobody can sign. Only root on the host itself may do this, over the Unix socket. It needs no signature, no network \
and no correct clock. The port must be protected, and the time is a day at most; no other policy applies. posternd records it in \
the journal and logs it as an error, under the name root.";

pub(super) const ENABLE: &str = "\
Examples
  postern enable --confirm-within 5m      on the host: every protected port closes, except for grants
  postern request vm1 --port ssh          from your own machine, then a new ssh session
  postern confirm                         in that session: the host goes on enforcing
  postern roll-back                       or back to observing at once

Only root on the host itself may do this, over the Unix socket. Existing sessions stay up, and their source addresses may reconnect \
for five minutes. If nobody confirms in time, the kernel opens the ports again, even when posternd is dead. A boot does the same \
while the configuration has mode = \"observe\". Before you confirm, remove that line, and come in once under a signed grant.";
