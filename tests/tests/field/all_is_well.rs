//! The status never says that all is well while a promise does not hold: every condition, one after the other.
