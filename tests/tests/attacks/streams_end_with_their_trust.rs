//! A stream ends when the trust that it rests on ends.
