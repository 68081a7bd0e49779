//! The node daemon and the command line.
//!
//! - [`config`]: the one configuration file.
//! - [`cluster`]: clusters on this machine: writing a new one, running its nodes as children.
//! - [`cli`]: the commands.
//! - `node`: the daemon. `demo`: the whole path on real input.
//! - [`output`]: results as tables or JSON.

pub mod cli;
pub mod cluster;
pub mod config;
mod connect;
mod demo;
mod dr;
mod node;
pub mod output;

pub use connect::connect;
