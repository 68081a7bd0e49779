//! Groups on several nodes of one process.
#![allow(missing_docs, clippy::unwrap_used)]

mod basics;
mod cluster;
mod digests;
mod faults;
mod forget;
mod membership;
mod promotion;
mod rest;
mod seed;
