//! SSH host keys that are made or changed after the start are proved without a restart.
