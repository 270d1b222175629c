//! One principal cannot spend the room of the others.
