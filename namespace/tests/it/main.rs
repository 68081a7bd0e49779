//! Three real nodes in one process: real sockets, mutual TLS, real disks.
#![allow(clippy::unwrap_used, missing_docs)] // tests: helpers too

mod cluster;
mod content;
mod digests;
mod failover;
mod identity;
mod manage;
mod tree;
