//! Text from others reaches terminals, logs and JSON without control characters.
