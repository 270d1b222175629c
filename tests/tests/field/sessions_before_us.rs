//! Sessions that are older than the kernel programs go on, and open nothing that nobody listens on.
