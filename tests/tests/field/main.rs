//! Faults that people reported from real hosts and real clients. Each module is one of them, named after what must hold.
//!
//! Owns no helper that another test program needs: those are in `tests/src`.

mod all_is_well;
mod devices_keep_their_traffic;
mod host_keys_change;
mod key_types;
mod keys_as_ssh_offers_them;
mod late_addresses;
mod little_room;
mod names_of_ports;
mod one_address_family;
mod own_connections;
mod reserved_ports;
mod sessions_before_us;
mod ssh_configuration;
mod translated_ports;
mod without_a_home;
