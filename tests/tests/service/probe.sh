# Once the machine is up, with posternd.service enabled.
network
show "posternd is ready"                              within 20 systemctl --quiet is-active posternd.service
show "the ports were closed before the network"       before postern-early.service network-pre.target
show "the ports were closed before it started"        before postern-early.service posternd.service
status() { awk -v name="$2:" '$1 == name {print $2}' "/proc/$1/status"; }
helper() { tr -d ' ' <"/proc/$(main_pid)/task/$(main_pid)/children"; }
show "it is a user of its own"                        test "$(status "$(main_pid)" Uid)" = "$(id -u postern)"
show "no right but one"                               test "$(status "$(main_pid)" CapEff)" = 0000000000001000
show "none can be had any more"                       test "$(status "$(main_pid)" CapBnd)" = 0000000000001000
show "what stays root has no right at all"            test "$(status "$(helper)" Uid) $(status "$(helper)" CapEff) $(status "$(helper)" CapBnd)" = "0 0000000000000000 0000000000000000"
show "nothing is amiss"                               eval '! postern status unix:///run/postern/posternd.sock | grep -i degraded'
# Whatever machine this is: one that the hypervisor would tell of a restore, or not.
unnoticed() { postern status unix:///run/postern/posternd.sock | grep -o 'a restore from a snapshot would not be noticed.*'; }
show "it hears of a restore where the kernel would tell" eval 'if [ -e /kmsg ] && compgen -G "/sys/bus/*/drivers/vmgenid/*/driver"; then ! unnoticed; else unnoticed; fi'
show "an unprotected port answers"                    within 5 reaches eve 10.77.0.1 2222
show "the protected port answers nobody"              refused alice 10.77.0.1 22
show "a signed request is granted"                    request 5m
show "the grant's source reaches it"                  reaches alice 10.77.0.1 22
show "its neighbour does not"                         refused eve 10.77.0.1 22
show "journald has the grant, with its fields"        within 20 exported granted POSTERN_PRINCIPAL=alice@example.com
pid=$(main_pid)
kill -KILL "$pid"
show "killed: the grant stays"                        reaches alice 10.77.0.1 22
show "killed: all else stays closed"                  refused eve 10.77.0.1 22
show "systemd starts it again"                        within 20 new_pid "$pid"
show "it has adopted what was there: grant"           reaches alice 10.77.0.1 22
show "it has adopted what was there: neighbour"       refused eve 10.77.0.1 22
chmod 600 /etc/postern/postern.toml /etc/postern/allowed_signers
show "reload, of files for root alone"                systemctl reload posternd.service
reloaded() { journalctl --sync; journalctl --boot -o cat _SYSTEMD_UNIT=posternd.service | grep -q "policy and trust reloaded"; }
show "it has read them"                               within 5 reloaded
show "stop"                                           systemctl stop posternd.service
show "stopped: the grant stays"                       reaches alice 10.77.0.1 22
show "stopped: all else stays closed"                 refused eve 10.77.0.1 22
show "start"                                          systemctl start posternd.service
show "started: all else stays closed"                 refused eve 10.77.0.1 22
show "the socket is for root and its group"           test "$(stat -c '%a %U %G' /run/postern)" = "750 root postern"
show "the state is for its user"                      test "$(stat -c '%a %U' /var/lib/postern)" = "700 postern"
show "the copies of root's files are root's"              test "$(stat -c '%a %U' /var/lib/postern.last-good/configuration)" = "600 root"
warnings
show "stop, then the explicit way to open"            eval 'systemctl stop posternd.service && posternd unlock'
show "journald was told, loudly"                      eval 'journalctl --sync; journalctl -p crit -o json POSTERN_EVENT=unlocked | grep -q MESSAGE'
show "unlocked: everybody reaches it"                 reaches eve 10.77.0.1 22
echo "all shown"
