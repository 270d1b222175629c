# As soon as interfaces may be configured, with postern-early.service alone: posternd.service does not start.
show "the early unit has run"                         systemctl --quiet is-active postern-early.service
show "posternd has not"                               test "$(main_pid)" = 0
show "closed before the network"                      before postern-early.service network-pre.target
show "there was no interface but loopback"            test "$(ls /sys/class/net)" = lo
network
show "an unprotected port answers"                    within 5 reaches eve 10.77.0.1 2222
show "the protected port answers nobody"              refused eve 10.77.0.1 22
show "nor another one of the configuration"           refused eve 10.77.0.1 2223
attempts=/run/attempts
ip netns exec eve bash -c 'while :; do echo try; timeout 1 bash -c "exec 3<>/dev/tcp/10.77.0.1/22" && echo in; done' >$attempts 2>/dev/null &
prober=$!
tries() { grep -c try $attempts; }
enough() { [ "$(tries)" -ge "$1" ]; }
show "somebody denied all the time"                   within 20 enough 20
show "posternd takes over"                            systemctl start posternd.service
show "a signed request is granted"                    request 5m
show "the grant's source reaches it"                  reaches alice 10.77.0.1 22
show "a restart of the early unit changes nothing"    systemctl restart postern-early.service
show "the grant's source still reaches it"            reaches alice 10.77.0.1 22
show "more denied"                                    within 20 enough $(($(tries) + 20))
kill $prober; wait $prober 2>/dev/null
echo "        denied in all: $(tries)"
show "none of them got in"                            test "$(grep -c in $attempts)" = 0
show "opened by hand"                                 eval 'systemctl stop posternd.service && posternd unlock'
show "everybody reaches it"                           reaches eve 10.77.0.1 22
echo 'max_duration = "never"' >>/etc/postern/postern.toml
show "with a broken configuration the unit fails"     eval '! systemctl restart postern-early.service 2>/dev/null'
show "and says so"                                    systemctl --quiet is-failed postern-early.service
show "and closes what can be read of it"              refused eve 10.77.0.1 22
echo "all shown"
