//! Attacks that worked once. Each module is one of them, named after what must hold, with the neighbours of the attack.
//!
//! Owns no helper that another test program needs: those are in `tests/src`.

mod a_broken_file_locks_nobody_out;
mod a_relay_does_not_become_my_ip;
mod a_signature_is_good_for_one_host;
mod ipsec_is_judged_by_its_peer;
mod nobody_spends_anothers_room;
mod one_lost_layer_opens_nothing;
mod plaintext_loopback_proves_itself;
mod root_follows_no_planted_link;
mod rules_in_force_judge;
mod streams_end_with_their_trust;
mod subflows_end_with_their_grant;
mod text_from_others_is_escaped;
mod the_api_port_is_no_hostage;
mod the_watchdog_is_not_starved;
mod udp_tunnels_are_named;
