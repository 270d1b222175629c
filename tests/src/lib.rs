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
//! ```no_run
//! use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
//! use postern_tests::{postern::{Options, Postern}, probe::{self, Outcome}, service::Service};
//!
//! let net = Net::pair();
//! let ssh = (SERVER.v4, 22).into();
//! let _service = Service::tcp_echo(&net.server, ssh);
//! let postern = Postern::start(&net.server, Options::default());
//! postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 60).expect("a grant");
//! assert_eq!(probe::tcp(&net.client, GRANTED.v4, ssh), Outcome::Answered);
//! assert_ne!(probe::tcp(&net.client, STRANGER.v4, ssh), Outcome::Answered);
//! ```
//!
//! A test makes its own network and needs no names, no order and no clean-up: namespaces are anonymous and held by
//! descriptors, and children die with the thread that made them. What SIGKILL leaves, pins and files, the next test
//! sweeps away.
//!
//! Never replaces a part of the kernel, of sshd or of OpenSSH by one of its own. Never kills a process it did not start.

pub mod bpf;
pub mod bulk;
pub mod cgroup;
pub mod client;
pub mod clock;
pub mod corpus;
pub mod disk;
pub mod figure;
pub mod flood;
pub mod frame;
pub mod grpcurl;
pub mod halt;
pub mod journal;
pub mod keys;
pub mod laptop;
pub mod liar;
pub mod names;
pub mod net;
pub mod netns;
mod options;
pub mod pins;
pub mod postern;
pub mod prefilter;
pub mod probe;
pub mod relay;
pub mod request;
pub mod service;
pub mod spoil;
pub mod ssh;
pub mod strace;
mod sys;
pub mod terminal;
pub mod until;
pub mod vm;
pub mod wire;

pub use until::{PATIENCE, find, pause, until, within};
