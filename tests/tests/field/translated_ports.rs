//! A port that the host translates to another network is not the host's, with the prefilter and without it.
