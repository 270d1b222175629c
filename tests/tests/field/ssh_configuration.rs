//! What ssh -G prints is understood as ssh means it, and ssh never calls the client again and again.
