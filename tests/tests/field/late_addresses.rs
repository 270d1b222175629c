//! An address of the API that cannot be bound yet does not stop the others.
