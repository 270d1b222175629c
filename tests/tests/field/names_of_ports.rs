//! People write the names of ports as they stand in the configuration.
