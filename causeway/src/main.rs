//! The node daemon and the command line.

fn main() {}
