//! Connections that the host itself makes from a protected port go on as on a host without Postern.
