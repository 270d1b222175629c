//! A busy engine is alive; a stuck one is restarted.
