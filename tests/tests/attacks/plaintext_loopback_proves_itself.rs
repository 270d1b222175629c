//! A listener on loopback that is not the host gets no signature.
