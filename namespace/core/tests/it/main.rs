//! The state machine through its public face.

#![allow(clippy::unwrap_used)] // helpers of tests are tests too

mod cluster;
mod encoding;
mod locks;
mod manage;
mod mounts;
mod once;
mod sessions;
mod support;
mod tree;
