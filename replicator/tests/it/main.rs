//! The chunk protocol and the workers, over real QUIC on loopback.
#![allow(clippy::unwrap_used)] // helpers of tests may panic

mod chunk_calls;
mod cluster;
mod common;
mod deltas;
mod figures;
mod follow;
mod image;
mod keeper;
