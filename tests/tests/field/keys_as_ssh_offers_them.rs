//! The client offers the keys that ssh would, in the order of ssh, and signs with the one that counts.
