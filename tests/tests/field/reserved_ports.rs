//! The list of reserved ports is put right again when somebody overwrites it.
