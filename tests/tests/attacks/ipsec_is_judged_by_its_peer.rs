//! A connected socket is judged by its own remote address, not by an outer header.
