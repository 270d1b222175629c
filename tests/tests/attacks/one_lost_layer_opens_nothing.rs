//! The layer that attached stays, whatever happens to the other.
