//! What Postern's tests on the real kernel share: two hosts in network namespaces, raw frames, services and probes.
//!
//! ```text
//!      client namespace                                        server namespace
//!  eth0 02:00:00:00:00:02                                  eth0 02:00:00:00:00:01
//!    10.1.0.2   fd00:1::2   STRANGER   ----- veth -----      10.1.0.1   fd00:1::1   SERVER
//!    10.1.0.10  fd00:1::10  GRANTED                          10.1.0.5   fd00:1::5   SERVER_OTHER (on lo)
//!    10.1.0.11  fd00:1::11  NEIGHBOUR
//! ```
//!
//! A test makes its own network and needs no names, no order and no clean-up: namespaces are anonymous and held by
//! descriptors, and children die with the thread that made them, so that SIGKILL leaves nothing either.
//!
//! Never replaces a part of the kernel, of sshd or of OpenSSH by one of its own. Never kills a process it did not start.

pub mod corpus;
pub mod frame;
pub mod net;
pub mod netns;
pub mod probe;
pub mod service;
mod sys;
pub mod wire;
