//! Both transports over real sockets on loopback.

#![allow(clippy::unwrap_used)] // a test may

mod ca;
mod common;
mod echo_service;
mod grpc;
mod hostile;
mod links;
mod quic;
mod refusals;
