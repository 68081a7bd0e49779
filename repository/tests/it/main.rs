//! The conformance suite over real backends, and porcelain figures (ignored by default).

#![allow(clippy::unwrap_used)] // a test: helpers, too, fail by panicking

mod backends;
mod figures;
