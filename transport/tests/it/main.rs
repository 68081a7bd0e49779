//! Both transports over real sockets on loopback.

#![allow(clippy::unwrap_used)] // a test may

mod common;
mod quic;
