//! The program that runs inside the virtual machine of `tests/vm.rs`: scenarios that take another kernel or a machine of one's
//! own, told over a serial port.
//!
//! Owns the order of the scenarios and how they are told (see `postern_tests::vm`). It is started by the machine's first process
//! and by no other program: it steps clocks, puts the machine to sleep and reboots it.

mod again;
mod asleep;
mod clocks;
mod devices;
mod first;
mod ipsec;
mod stage;
mod tunnels;
mod vrf;
mod without_ipv6;
mod world;

use stage::Stage;

/// A scenario holds unless it panics.
type Scenario = (&'static str, fn(&mut Stage));

/// On the first boot, in this order. The last one never ends.
const FIRST_BOOT: &[Scenario] = &[
    ("a_port_is_closed_granted_and_closed_again", first::closed_granted_and_closed_again),
    ("over_vlan_bond_wireguard_gre_ipip_and_sit", tunnels::every_device),
    ("own_traffic_in_a_vrf_passes_and_strangers_do_not", vrf::own_traffic_passes_and_strangers_do_not),
    ("a_larger_mtu_loses_nothing_and_bonds_take_their_ports_back", devices::keep_their_traffic),
    ("ipsec_ends_with_the_peers_grant", ipsec::ends_with_the_peers_grant),
    ("time_asleep_counts", asleep::time_asleep_counts),
    ("steps_of_the_wall_clock_change_nothing_that_runs", clocks::steps_of_the_wall_clock),
    ("what_is_pinned_holds_and_is_adopted", first::what_is_pinned_holds),
    ("reboot", again::reboot),
];

/// On the second.
const SECOND_BOOT: &[Scenario] = &[
    ("nothing_is_open_after_a_reboot", again::nothing_is_open_after_a_reboot),
    ("out_of_a_snapshot", again::out_of_a_snapshot),
];

/// On a boot of its own, whose kernel has no IPv6.
const WITHOUT_IPV6: &[Scenario] = &[("a_host_without_ipv6", without_ipv6::serves_and_enforces)];

fn main() {
    let mut stage = Stage::open();
    let only = std::env::args().nth(1);
    let scenarios = match (without_ipv6::is_so(), again::is_rebooted()) {
        (true, _) => WITHOUT_IPV6,
        (false, true) => SECOND_BOOT,
        (false, false) => FIRST_BOOT,
    };
    for (name, scenario) in scenarios {
        if only.as_deref().is_none_or(|wanted| wanted.split(',').any(|wanted| name.contains(wanted))) {
            stage.run(name, *scenario);
        }
    }
    stage.say("END");
}
