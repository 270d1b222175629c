//! What a reload survives, a start survives; what takes trust away takes effect.
