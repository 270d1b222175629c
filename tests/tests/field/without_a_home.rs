//! The client works without a home that can be written.
