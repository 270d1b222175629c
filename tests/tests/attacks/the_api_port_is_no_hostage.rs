//! The Unix socket is served whatever becomes of the TCP port of the API.
