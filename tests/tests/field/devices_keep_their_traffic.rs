//! The prefilter loses no traffic of the host's devices: MTU changes, ports of bonds and bridges, other people's XDP programs.
