//! The node daemon and the command line.

pub mod config;
