# What people at terminals are told before their sessions are cut; probe.sh calls it. Carol has an account of her own: root's
# terminals could be written to without the group tty.
postern_of_alice() { local verb=$1; shift; ip netns exec alice postern "$verb" 10.77.0.1 "$@" --key /probe/alice --accept-new; }
opened() { # TIME [--from PREFIX]: a grant, whose id it leaves in $id
  id=$(postern_of_alice request --port ssh --for "$@" --json | grep -oE '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}' | head -n 1)
  [ -n "$id" ]
}
login() { # NAME NAMESPACE COMMAND: a session with a terminal; what it shows is in /probe/NAME, what is typed comes from /run/NAME
  mkfifo "/run/$1"
  ip netns exec "$2" ssh -F none -tt -i /probe/alice -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
    -o LogLevel=ERROR carol@10.77.0.1 "$3" <>"/run/$1" >"/probe/$1" 2>&1 &
  session[$1]=$!
  within 30 shows "$1" "ready"
}
shows() { grep -sqF -- "$2" "/probe/$1"; }
hears_nothing() { ! grep -sq "postern" "/probe/$1"; }
goes_on() { kill -0 "${session[$1]}" 2>/dev/null; }
over() { ! goes_on "$1"; }
grows() { local size; size=$(stat -c %s "/probe/$1"); sleep 0.5; [ "$(stat -c %s "/probe/$1")" -gt "$size" ]; }
stands_still() { ! grows "$1"; }

warnings() {
  declare -gA session=()
  local before
  systemctl start systemd-user-sessions.service
  useradd --create-home --shell /bin/bash carol
  install -d -o carol -m 700 ~carol/.ssh
  install -o carol -m 600 /probe/alice.pub ~carol/.ssh/authorized_keys
  show "warnings: the first grant is given back"        postern_of_alice give-back
  show "warnings: a grant for alice's address"          opened 5m
  before=$id
  show "warnings: a grant for eve's address"            opened 5m --from 10.77.0.3/32
  show "warnings: utmp alone tells of sessions"         eval '[ -f /run/utmp ] && [ -z "$(ls /run/systemd/sessions 2>/dev/null)" ]'
  show "warnings: a session at a terminal"              login willing alice 'echo ready; exec sleep 600'
  show "warnings: another one after mesg n"             login unwilling alice 'mesg n; echo ready; exec sleep 600'
  show "warnings: a third, which is stopped"            login stopped alice 'echo ready; while :; do echo tick; sleep 0.1; done'
  show "warnings: a fourth from elsewhere"              login elsewhere eve 'echo ready; exec sleep 600'
  printf '\023' >/run/stopped
  show "warnings: ^S has stopped it"                    within 10 stands_still stopped
  postern_of_alice watch >/probe/watch 2>&1 &
  session[watch]=$!
  show "warnings: a second grant, for 10 seconds"       opened 10s
  show "warnings: the first one is given back"          postern_of_alice give-back "$before"
  show "warnings: which cuts nobody"                    goes_on willing
  show "warnings: and nobody hears of it"               hears_nothing willing
  show "warned: which access ends when"                 within 20 shows willing "postern: access to 22/tcp from 10.77.0.2 (alice@example.com) ends in 5s"
  show "warned: what becomes of the session"            within 5 shows willing "Sessions are cut then."
  show "warned: how to stay"                            within 5 shows willing "To stay: postern extend vm1.example.com --for 1h"
  show "warned: before the cut"                         goes_on willing
  show "warned: who watches, too"                       within 5 shows watch "ends in 5s: 22/tcp for 10.77.0.2/32 (alice@example.com)"
  show "cut: the session ends"                          within 15 over willing
  show "cut: so does the one that wants no messages"    within 5 over unwilling
  show "cut: and the stopped one"                       within 5 over stopped
  show "cut: not the one from elsewhere"                goes_on elsewhere
  show "who wants no messages saw nothing"              hears_nothing unwilling
  show "nor did the one from elsewhere"                 hears_nothing elsewhere
  show "nor the stopped one"                            hears_nothing stopped
  kill "${session[watch]}" "${session[elsewhere]}"

  show "logind runs"                                    systemctl start dbus.service systemd-logind.service
  show "without utmp, as on Debian 13"                  rm /run/utmp
  show "warnings: a grant"                              opened 5m
  show "warnings: a session that logind knows"          eval 'login known alice "echo ready; exec sleep 600" && grep -q REMOTE_HOST=10.77.0.2 /run/systemd/sessions/*'
  show "warnings: it is given back"                     postern_of_alice give-back "$id" --reason 'für heute'
  show "cut: the session ends at once"                  within 10 over known
  show "its last words"                                 shows known "ends now: it was given back (by alice@example.com: f\\u{fc}r heute)."
  show "nobody was refused a terminal"                  eval '! postern status unix:///run/postern/posternd.sock | grep -q tty'
}
