//! The built binary, end to end: real processes, real sockets, real disks.

#![allow(clippy::unwrap_used)] // what fails here fails the test

mod cluster;
mod commands;
mod configuration;
mod copies;
mod demo;
mod divergence;
mod dr;
mod edits;
mod full_disk;
mod load;
mod manage;
mod membership;
mod metrics;
mod nested;
mod placement;
mod promotion;
mod refusals;
mod runbooks;
mod store;
mod upkeep;
