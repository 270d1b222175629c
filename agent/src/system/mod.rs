//! What posternd reads from the operating system, and the few settings that it changes there. Decides nothing.

pub mod clock;
pub mod files;
pub mod guarded;
pub mod host;
pub mod links;
pub mod netlink;
pub mod os_error;
pub mod sessions;
pub mod sockets;
pub mod surroundings;
pub mod sysctl;
pub mod terminals;
pub mod translations;
