//! The built binary, end to end: real processes, real sockets, real disks.

mod cluster;
mod commands;
mod configuration;
mod copies;
mod demo;
mod full_disk;
mod refusals;
