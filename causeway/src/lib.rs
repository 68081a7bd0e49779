//! The node daemon and the command line.
