#!/bin/bash
# Runs inside the container, as a unit of its own; a probe follows. Each step says what it shows; the first one
# that fails ends the run. "Reaches" is a real TCP connection from another network namespace.
set -uo pipefail
exec >/probe/report 2>&1

show() { # WHAT COMMAND…
  local what=$1; shift
  if "$@"; then echo "ok      $what"; else echo "FAILED  $what: $*"; journal; exit 1; fi
}
journal() { journalctl --sync; journalctl --no-pager --boot --lines=40 _SYSTEMD_UNIT=posternd.service + _SYSTEMD_UNIT=postern-early.service + UNIT=postern-early.service + UNIT=posternd.service; }
within() { # SECONDS COMMAND…: waits for a condition
  local end=$((SECONDS + $1)); shift
  until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.05; done
}
reaches() { ip netns exec "$1" timeout 3 bash -c "exec 3<>/dev/tcp/$2/$3" 2>/dev/null; }
refused() { ! reaches "$@"; }
moment() { systemctl show --value --property=ActiveEnterTimestampMonotonic "$1"; }
before() { local a b; a=$(moment "$1") b=$(moment "$2"); [ "$a" -gt 0 ] && [ "$b" -gt 0 ] && [ "$a" -lt "$b" ]; }
exported() { journalctl --sync; journalctl -o json "POSTERN_EVENT=$1" "$2" | grep -q '"POSTERN_PORTS":"22/tcp"'; }
main_pid() { systemctl show --value --property=MainPID posternd.service; }
new_pid() { local pid; pid=$(main_pid); [ "$pid" != 0 ] && [ "$pid" != "$1" ] && systemctl --quiet is-active posternd.service; }
request() { ip netns exec alice postern request 10.77.0.1 --port ssh --for "$1" --key /probe/alice --accept-new; }

network() {
  # alice 10.77.0.2 ─┐
  #                  ├─ bridge 10.77.0.1 (this machine: sshd on 22, a listener on 2222)
  # eve   10.77.0.3 ─┘
  ip link add postern0 type bridge && ip link set postern0 up && ip address add 10.77.0.1/24 dev postern0
  address=2
  for name in alice eve; do
    ip netns add $name
    ip link add v$name type veth peer name eth0 netns $name
    ip link set v$name master postern0 up
    ip -n $name link set lo up
    ip -n $name link set eth0 up
    ip -n $name address add 10.77.0.$address/24 dev eth0
    address=$((address + 1))
  done
  mkdir -p /run/sshd /probe/home
  export HOME=/probe/home
  iperf3 --server --daemon --port 2222
  iperf3 --server --daemon --port 2223
  /usr/sbin/sshd -o ListenAddress=10.77.0.1
}
