//! Every way to write a SYN down that Linux understands, and every place where it may come in: none reaches a
//! protected port without a grant, whichever layers are left.

mod corpus;
mod cut_alone;
mod healing;
mod ways_in;

/// The port of most tests, protected for TCP and UDP.
const PORT: u16 = 22;
