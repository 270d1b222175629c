#!/bin/bash
# Runs inside the container, as a unit of its own, once the machine is up. Each step says what it shows; the first one
# that fails ends the run. "Reaches" is a real TCP connection from another network namespace.
set -uo pipefail
exec >/probe/report 2>&1

show() { # WHAT COMMAND…
  local what=$1; shift
  if "$@"; then echo "ok      $what"; else echo "FAILED  $what: $*"; journal; exit 1; fi
}
journal() { journalctl --sync; journalctl --no-pager --boot --lines=30 _SYSTEMD_UNIT=posternd.service; }
within() { # SECONDS COMMAND…: waits for a condition
  local end=$((SECONDS + $1)); shift
  until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.05; done
}
reaches() { ip netns exec "$1" timeout 3 bash -c "exec 3<>/dev/tcp/$2/$3" 2>/dev/null; }
refused() { ! reaches "$@"; }
moment() { systemctl show --value --property=ActiveEnterTimestampMonotonic "$1"; }
before() { local a b; a=$(moment "$1") b=$(moment "$2"); [ "$a" -gt 0 ] && [ "$b" -gt 0 ] && [ "$a" -lt "$b" ]; }
main_pid() { systemctl show --value --property=MainPID posternd.service; }
new_pid() { local pid; pid=$(main_pid); [ "$pid" != 0 ] && [ "$pid" != "$1" ] && systemctl --quiet is-active posternd.service; }
request() { ip netns exec alice postern request 10.77.0.1 --port ssh --for "$1" --key /probe/alice --accept-new; }

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
/usr/sbin/sshd -o ListenAddress=10.77.0.1

show "posternd is ready"                              within 20 systemctl --quiet is-active posternd.service
show "it was ready before the network"                before posternd.service network-pre.target
show "no rights but the three"                        test "$(awk '/^CapEff/ {print $2}' "/proc/$(main_pid)/status")" = 000000c000001000
show "an unprotected port answers"                    within 5 reaches eve 10.77.0.1 2222
show "the protected port answers nobody"              refused alice 10.77.0.1 22
show "a signed request is granted"                    request 5m
show "the grant's source reaches it"                  reaches alice 10.77.0.1 22
show "its neighbour does not"                         refused eve 10.77.0.1 22
pid=$(main_pid)
kill -KILL "$pid"
show "killed: the grant stays"                        reaches alice 10.77.0.1 22
show "killed: all else stays closed"                  refused eve 10.77.0.1 22
show "systemd starts it again"                        within 20 new_pid "$pid"
show "it has adopted what was there: grant"           reaches alice 10.77.0.1 22
show "it has adopted what was there: neighbour"       refused eve 10.77.0.1 22
show "reload"                                         systemctl reload posternd.service
show "stop"                                           systemctl stop posternd.service
show "stopped: the grant stays"                       reaches alice 10.77.0.1 22
show "stopped: all else stays closed"                 refused eve 10.77.0.1 22
show "start"                                          systemctl start posternd.service
show "started: all else stays closed"                 refused eve 10.77.0.1 22
show "the socket is for root and its group"           test "$(stat -c '%a %U %G' /run/postern)" = "750 root postern"
show "the state is for root"                          test "$(stat -c '%a %U' /var/lib/postern)" = "700 root"
show "stop, then the explicit way to open"            eval 'systemctl stop posternd.service && posternd unlock'
show "unlocked: everybody reaches it"                 reaches eve 10.77.0.1 22
echo "all shown"
