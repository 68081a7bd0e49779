//! The node daemon and the command line.
//!
//! - [`config`]: the one configuration file.
//! - [`cluster`]: clusters on this machine: writing a new one, running its nodes as children.
//! - [`cli`]: the commands.
//! - [`output`]: results as tables or JSON.

pub mod cli;
pub mod cluster;
pub mod config;
pub mod output;
